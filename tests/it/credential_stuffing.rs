//! Who tries many people's passwords is found out and refused; whoever mistypes, and owners of devices, are not.

use std::time::Duration;

use portcullis::store::audit::{AuditQuery, AuditRow};
use serde_json::{Value, json};

use crate::{
    harness::{
        client::{Answer, Client, PASSWORD},
        gateway::{Engine, Gateway, Setup, standard},
        logins::{DEVICE, WRONG, device_of, login, with_device},
        upstream::Upstream,
    },
    support::postgres::Cluster,
};

const FOUND: &str = "credential_stuffing_detected";

/// So many pairs of a list, each tried once.
async fn list(client: &Client, numbers: std::ops::Range<u32>) -> Vec<Answer> {
    let mut answers = Vec::new();
    for number in numbers {
        answers.push(login(client, &format!("user-{number}@example.org"), &format!("secret of number {number}")).await);
    }
    answers
}

/// A metric as it is printed.
async fn metric(gateway: &Gateway, line: &str) -> String {
    gateway.metric(line).await.to_string()
}

async fn found(gateway: &Gateway) -> Vec<AuditRow> {
    let wanted = AuditQuery { event: Some(FOUND.into()), ..AuditQuery::default() };
    gateway.store().await.audit_rows(&wanted, 10).await.unwrap()
}

#[tokio::test]
async fn a_list_is_stuffed_out_and_an_owner_s_device_and_other_addresses_are_not() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(Engine::Sqlite, &upstream).await;
    let home = gateway.client_at("127.0.0.3");
    for name in ["ann@example.org", "bob@example.org"] {
        home.register(name).await;
    }
    let anns = device_of(&with_device(&home, "ann@example.org", "none=1").await.expect(200));
    let bobs = device_of(&with_device(&home, "bob@example.org", "none=1").await.expect(200));

    let robber = gateway.client_at("127.0.0.2");
    let answers = list(&robber, 0..300).await;
    let first = answers.iter().position(|answer| answer.status == 429 && answer.code() == "logins_refused").unwrap();
    assert!((90..=112).contains(&first), "{first}");
    for answer in &answers[first..] {
        answer.refused(429, "logins_refused");
        assert_eq!(answer.header("retry-after"), Some("900"));
    }
    let rows = found(&gateway).await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    let detail: Value = serde_json::from_str(rows[0].detail.as_deref().unwrap()).unwrap();
    assert_eq!((&detail["prefix"], &detail["wait"]), (&json!("127.0.0.2/32"), &json!(900)));
    assert!(detail["failures"].as_u64().unwrap() >= 100 && detail["accounts"].as_u64().unwrap() >= 90, "{detail}");
    assert_eq!(metric(&gateway, "portcullis_credential_stuffing_episodes_total{reach=\"address\"}").await, "1");
    assert_eq!(metric(&gateway, "portcullis_security_events_total{event=\"credential_stuffing_detected\"}").await, "1");

    // The owner of a device gets in from there; her password alone does not, nor somebody else's device.
    let hashed = metric(&gateway, "portcullis_hash_seconds_count").await;
    login(&robber, "ann@example.org", PASSWORD).await.refused(429, "logins_refused");
    with_device(&robber, "ann@example.org", &bobs).await.refused(429, "logins_refused");
    assert_eq!(metric(&gateway, "portcullis_hash_seconds_count").await, hashed, "refused before a hash");
    with_device(&robber, "ann@example.org", &anns).await.expect(200);
    login(&home, "bob@example.org", PASSWORD).await.expect(200);

    gateway.clock.advance(Duration::from_mins(15));
    login(&robber, "ann@example.org", PASSWORD).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_device_cookie_is_refused_before_anything_is_looked_up() {
    let (upstream, mut cluster) = (Upstream::start().await, Cluster::private());
    let store = "store: {url: \"${STORE_URL}\", master_key: \"${MASTER_KEY}\", pool: 3, timeout: 500ms}\n";
    let yaml = format!("{store}credential_stuffing: {{pairs: 20}}\n{}", standard(&upstream));
    let gateway = Setup::new(Engine::Sqlite, &yaml).on(&cluster.create_database().url).start().await;
    let (home, robber) = (gateway.client(), gateway.client_at("127.0.0.2"));
    home.register("ann@example.org").await;
    let anns = device_of(&with_device(&home, "ann@example.org", "none=1").await.expect(200));
    list(&robber, 0..60).await.last().unwrap().refused(429, "logins_refused");

    // Whoever gets as far as a look-up learns that there is none.
    cluster.stop();
    let other = if anns.ends_with('A') { "B" } else { "A" };
    let altered = format!("{}{other}", &anns[..anns.len() - 1]);
    for forged in [format!("{DEVICE}=x"), format!("{DEVICE}={}", "A".repeat(98)), altered] {
        with_device(&robber, "ann@example.org", &forged).await.refused(429, "logins_refused");
    }
    with_device(&robber, "ann@example.org", &anns).await.refused(503, "store_unavailable");
}

#[tokio::test]
async fn one_who_repeats_a_wrong_password_is_locked_by_the_ladder_and_is_no_robber() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(Engine::Sqlite, &upstream).await;
    let client = gateway.client();
    for name in ["ann@example.org", "bob@example.org"] {
        client.register(name).await;
    }
    for _ in 0..300 {
        login(&client, "ann@example.org", WRONG).await.refused(401, "login_failed");
    }
    login(&client, "ann@example.org", PASSWORD).await.refused(401, "login_failed");
    assert_eq!(found(&gateway).await, []);
    assert_eq!(metric(&gateway, "portcullis_credential_stuffing_episodes_total{reach=\"address\"}").await, "0");
    login(&client, "bob@example.org", PASSWORD).await.expect(200);
}

#[tokio::test]
async fn addresses_that_share_a_list_are_found_out_as_a_network() {
    let upstream = Upstream::start().await;
    let yaml = standard(&upstream) + "credential_stuffing: {pairs: 60, network_pairs: 100}\n";
    let gateway = Gateway::start(Engine::Sqlite, &yaml).await;
    gateway.client().register("ann@example.org").await;
    for host in 1..=7_u32 {
        list(&gateway.client_at(&format!("127.0.7.{host}")), host * 100..host * 100 + 20).await;
    }
    let rows = found(&gateway).await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert!(rows[0].detail.as_deref().unwrap().contains("\"127.0.7.0/24\""), "{rows:?}");
    login(&gateway.client_at("127.0.7.200"), "ann@example.org", PASSWORD).await.refused(429, "logins_refused");
    login(&gateway.client_at("127.0.8.1"), "ann@example.org", PASSWORD).await.expect(200);
}

#[tokio::test]
async fn switched_off_nobody_is_found_out() {
    let upstream = Upstream::start().await;
    let yaml = standard(&upstream) + "credential_stuffing: {enabled: false, pairs: 20}\n";
    let gateway = Gateway::start(Engine::Sqlite, &yaml).await;
    let answers = list(&gateway.client(), 0..60).await;
    assert!(answers.iter().all(|answer| answer.code() != "logins_refused"));
    assert_eq!(found(&gateway).await, []);
}
