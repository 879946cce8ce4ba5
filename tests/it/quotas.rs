//! Quotas from outside: so much a day, whichever gateway is asked, after a restart too; and what a lost store costs.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    api_keys,
    harness::{
        binary::Binary,
        client::{Answer, Client},
        clock::ManualClock,
        gateway::{Engine, Gateway, MASTER_KEY, Setup},
        invariants::Invariants,
        soon,
        upstream::{Reply, Upstream},
    },
    limit_keys::token,
    support::{self, postgres::Cluster},
};

/// The sections that matter: these quotas, and a route for each of them, and one for all.
fn yaml(upstream: &Upstream, quotas: &str) -> String {
    let names = quotas.lines().filter_map(|line| line.trim().split_once(": {").map(|(name, _)| name));
    let routes = names
        .map(|name| {
            format!(
                "  - {{name: {name}, match: {{path: \"/{name}/{{*rest}}\"}}, quotas: [{name}], cluster: rag, \
                 usage: {{estimate: 1000, prices: {{\"*\": {{input: 1, output: 1}}}}}}}}\n"
            )
        })
        .collect::<Vec<_>>()
        .concat();
    format!("quotas:\n{quotas}\nclusters:\n  rag: {{endpoints: [\"{}\"]}}\nroutes:\n{routes}", upstream.url())
}

/// Seconds from the clock's beginning, noon, to midnight.
const TO_MIDNIGHT: u64 = 12 * 3_600;

#[track_caller]
fn assert_used_up(answer: &Answer, policy: &str) {
    answer.refused(429, "quota_exceeded");
    let body = answer.json();
    assert_eq!(body["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    assert_eq!(
        (&body["title"], &body["violated-policies"]),
        (&"The quota is used up".into(), &[policy].as_slice().into())
    );
}

on_both_stores! {
    a_quota_is_told_used_up_and_renewed_at_midnight,
    what_was_used_is_known_after_a_restart,
    a_gateway_that_stops_gives_back_what_replaced_quotas_hold,
    of_two_quotas_the_one_that_refuses_costs_the_other_nothing,
    a_quota_in_the_shadow_counts_and_refuses_nothing,
    a_reload_keeps_what_was_used,
    an_api_key_has_a_quota_of_its_own_and_an_organisation_one_for_all_of_it,
}

async fn a_quota_is_told_used_up_and_renewed_at_midnight(engine: Engine) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(engine, &yaml(&upstream, "  daily: {by: subject, per: day, requests: 3}")).await;
    let client = gateway.client();
    let (ann, bob) = (client.register("ann@example.org").await, client.register("bob@example.org").await);
    for left in [2, 1, 0] {
        let answer = client.get("/daily/a").bearer(&ann.access).send().await.expect(200);
        assert_eq!(answer.header("ratelimit").unwrap(), format!("\"daily\";r={left};t={TO_MIDNIGHT}"));
        assert_eq!(answer.header("ratelimit-policy"), Some("\"daily\";q=3;w=86400"));
    }
    let refused = client.get("/daily/a").bearer(&ann.access).send().await;
    assert_used_up(&refused, "daily");
    assert_eq!(refused.header("retry-after").unwrap(), TO_MIDNIGHT.to_string());
    assert_eq!(refused.header("ratelimit").unwrap(), format!("\"daily\";r=0;t={TO_MIDNIGHT}"));
    assert_eq!(client.status("/daily/a", &bob.access).await, 200, "everybody has his own");
    // What is refused for another cause is not counted.
    client.get("/daily/a").bearer("wrong").send().await.refused(401, "invalid_token");
    let decisions = |result: &str| format!("portcullis_quota_decisions_total{{quota=\"daily\",result=\"{result}\"}}");
    for (result, many) in [("admitted", 4.0), ("refused", 1.0), ("shadow", 0.0), ("alone", 0.0)] {
        assert!((gateway.metric(&decisions(result)).await - many).abs() < 0.1, "{result}");
    }
    gateway.clock.advance(Duration::from_secs(TO_MIDNIGHT - 1));
    let ann = client.login("ann@example.org").await;
    assert_eq!(client.status("/daily/a", &ann.access).await, 429);
    gateway.clock.advance(Duration::from_secs(1));
    for _ in 0..3 {
        assert_eq!(client.status("/daily/a", &ann.access).await, 200, "a new day");
    }
    assert_eq!(client.status("/daily/a", &ann.access).await, 429);
    assert_eq!(upstream.received().len(), 7);
}

async fn what_was_used_is_known_after_a_restart(engine: Engine) {
    let upstream = Upstream::start().await;
    let mut gateway = Gateway::start(engine, &yaml(&upstream, "  daily: {by: subject, per: day, requests: 160}")).await;
    let ann = gateway.client().register("ann@example.org").await;
    let remaining = |answer: &Answer| answer.header("ratelimit").unwrap().split([';', '=']).nth(2).map(str::to_owned);
    for left in [159, 158, 157] {
        let answer = gateway.client().get("/daily/a").bearer(&ann.access).send().await.expect(200);
        assert_eq!(remaining(&answer).unwrap(), left.to_string());
        // What it had taken ahead it gives back.
        gateway.restart().await;
    }
    let mut admitted = 3;
    while gateway.client().status("/daily/a", &ann.access).await == 200 {
        admitted += 1;
    }
    assert_eq!((admitted, upstream.received().len()), (160, 160));
}

async fn a_gateway_that_stops_gives_back_what_replaced_quotas_hold(engine: Engine) {
    let upstream = Upstream::start().await;
    let of = |requests: u32| yaml(&upstream, &format!("  daily: {{by: subject, per: day, requests: {requests}}}"));
    let mut gateway = Gateway::start(engine, &of(1_600)).await;
    let ann = gateway.client().register("ann@example.org").await;
    // A hundred lie at each ledger; while an answer is under way its own is held by it.
    upstream.hold("/daily/slow");
    let slow = tokio::spawn(gateway.client().get("/daily/slow").bearer(&ann.access).send());
    let mut held = upstream.held().await;
    for requests in [1_601, 1_602, 1_603] {
        gateway.reload(&of(requests)).await;
        assert_eq!(gateway.client().status("/daily/a", &ann.access).await, 200);
    }
    held.answer(&Reply::new(200, "")).await;
    slow.await.unwrap().expect(200);
    gateway.stop().await;
    let usage = gateway.store().await.quota_usage(Some("daily"), None, crate::harness::clock::BEGIN, 10).await.unwrap();
    assert_eq!(usage.iter().map(|usage| usage.used).sum::<u64>(), 4);
}

async fn of_two_quotas_the_one_that_refuses_costs_the_other_nothing(engine: Engine) {
    let upstream = Upstream::start().await;
    let quotas = "  hourly: {by: subject, per: hour, requests: 2}\n  daily: {by: address, per: day, requests: 5}";
    let yaml =
        yaml(&upstream, quotas) + "  - {name: both, match: {path: /both}, quotas: [daily, hourly], cluster: rag}\n";
    let gateway = Gateway::start(engine, &yaml).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    for _ in 0..2 {
        let answer = client.get("/both").bearer(&ann.access).send().await.expect(200);
        assert_eq!(answer.header("ratelimit-policy"), Some("\"daily\";q=5;w=86400, \"hourly\";q=2;w=3600"));
    }
    for _ in 0..10 {
        let refused = client.get("/both").bearer(&ann.access).send().await;
        assert_used_up(&refused, "hourly");
        assert_eq!(refused.header("ratelimit-policy"), Some("\"hourly\";q=2;w=3600"));
    }
    for _ in 0..3 {
        assert_eq!(client.status("/daily/a", &ann.access).await, 200);
    }
    assert_used_up(&client.get("/daily/a").bearer(&ann.access).send().await, "daily");
}

async fn a_quota_in_the_shadow_counts_and_refuses_nothing(engine: Engine) {
    let upstream = Upstream::start().await;
    let quotas = "  daily: {by: subject, per: day, requests: 2, shadow: true}";
    let gateway = Gateway::start(engine, &yaml(&upstream, quotas)).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    for _ in 0..5 {
        let answer = client.get("/daily/a").bearer(&ann.access).send().await.expect(200);
        assert_eq!(answer.header("ratelimit"), None);
    }
    let would = "portcullis_quota_decisions_total{quota=\"daily\",result=\"shadow\"}";
    assert!((gateway.metric(would).await - 3.0).abs() < 0.1);
    let store = gateway.store().await;
    let counted = async {
        while store.quota_usage(Some("daily"), None, crate::harness::clock::BEGIN, 2).await.unwrap()[0].used != 5 {}
    };
    soon("all five to be written down", counted).await;
}

async fn a_reload_keeps_what_was_used(engine: Engine) {
    let upstream = Upstream::start().await;
    let mut gateway = Gateway::start(engine, &yaml(&upstream, "  daily: {by: subject, per: day, requests: 3}")).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    for _ in 0..3 {
        assert_eq!(client.status("/daily/a", &ann.access).await, 200);
    }
    gateway.reload(&yaml(&upstream, "  daily: {by: subject, per: day, requests: 5}")).await;
    for _ in 0..2 {
        assert_eq!(client.status("/daily/a", &ann.access).await, 200, "two more of five");
    }
    assert_eq!(client.status("/daily/a", &ann.access).await, 429);
    gateway.reload(&yaml(&upstream, "  other: {by: subject, per: day, requests: 1}")).await;
    let gone = "portcullis_quota_decisions_total{quota=\"daily\",result=\"admitted\"}";
    assert!(gateway.metric(gone).await < 0.5, "no series is left behind");
}

/// A gateway process on this database, with this quota.
async fn an_api_key_has_a_quota_of_its_own_and_an_organisation_one_for_all_of_it(engine: Engine) {
    let upstream = Upstream::start().await;
    let quotas = "  keys: {by: api_key, per: day, requests: 2}\n  orgs: {by: org, per: day, requests: 3}";
    let yaml = yaml(&upstream, quotas).replace("quotas: [", "credentials: [bearer, api_key], quotas: [");
    let gateway = Gateway::start(engine, &yaml).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    for key in [api_keys::key(&client, &ann).await, api_keys::key(&client, &ann).await] {
        for _ in 0..2 {
            api_keys::by_header(&client, "/keys/a", &key).await.expect(200);
        }
        assert_used_up(&api_keys::by_header(&client, "/keys/a", &key).await, "keys");
    }
    let free = client.get("/keys/a").bearer(&ann.access).send().await.expect(200);
    assert_eq!(free.header("ratelimit"), None, "who shows a token has none");
    // Two users of one organisation, one of another, and one of none.
    let of = async |user: &str, org: Option<&str>| token(&gateway, json!({"sub": user, "org": org})).await;
    let (ann, bob) = (of("ann", Some("acme")).await, of("bob", Some("acme")).await);
    for who in [&ann, &bob, &bob] {
        client.get("/orgs/a").bearer(who).send().await.expect(200);
    }
    for who in [&ann, &bob] {
        assert_used_up(&client.get("/orgs/a").bearer(who).send().await, "orgs");
    }
    let other = client.get("/orgs/a").bearer(&of("ann", Some("other")).await).send().await.expect(200);
    assert_eq!(other.header("ratelimit").unwrap(), format!("\"orgs\";r=2;t={TO_MIDNIGHT}"));
    let none = client.get("/orgs/a").bearer(&of("ann", None).await).send().await.expect(200);
    assert_eq!(none.header("ratelimit"), None);
}

async fn process(upstream: &Upstream, folder: &TempDir, url: &str, quota: &str) -> Binary {
    let yaml = format!(
        "listeners: {{public: {{bind: \"127.0.0.1:0\"}}, admin: {{bind: \"127.0.0.1:0\"}}}}\n\
         store: {{url: \"${{STORE_URL}}\", master_key: \"${{MASTER_KEY}}\", pool: 4, timeout: 20s}}\n\
         tokens: {{issuer: \"https://gw.test\", audience: gw-test}}\npasswords: {{hash_threads: 1}}\n\
         telemetry: {{access_log: false}}\n{}",
        yaml(upstream, quota)
    );
    let file = folder.path().join("gateway.yaml");
    std::fs::write(&file, yaml).unwrap();
    let environment =
        HashMap::from([("STORE_URL".to_owned(), url.to_owned()), ("MASTER_KEY".to_owned(), MASTER_KEY.to_owned())]);
    Binary::serve(&file, &environment).await
}

async fn admitted(clients: &[&Client], access: &str, many: usize) -> usize {
    let asked = (0..many).map(|number| clients[number % clients.len()].status("/monthly/a", access));
    join_all(asked).await.into_iter().filter(|status| *status == 200).count()
}

/// SIGKILL: what it had taken ahead is lost, and nothing is admitted twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_survives_the_gateway_that_is_killed() {
    const QUOTA: &str = "  monthly: {by: subject, per: month, requests: 40}";
    let (upstream, folder) = (Upstream::start().await, TempDir::new().unwrap());
    let database = support::postgres::cluster().create_database();
    let mut count = 0;
    let mut access = None;
    for _ in 0..4 {
        let gateway = process(&upstream, &folder, &database.url, QUOTA).await;
        let client = gateway.client();
        if access.is_none() {
            access = Some(client.register("ann@example.org").await.access);
        }
        count += admitted(&[&client], access.as_deref().unwrap(), 5).await;
        // Dropped: killed.
        drop(gateway);
    }
    assert_eq!(count, 20);
    let gateway = process(&upstream, &folder, &database.url, QUOTA).await;
    let client = gateway.client();
    count += admitted(&[&client], access.as_deref().unwrap(), 60).await;
    // A sixteenth of forty at most was lost each time.
    assert!((40 - 4 * 2..=40).contains(&count), "{count}");
    assert_eq!(upstream.received().len(), count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_gateways_together_admit_exactly_the_quota() {
    const QUOTA: &str = "  monthly: {by: subject, per: month, requests: 100}";
    let upstream = Upstream::start().await;
    let database = support::postgres::cluster().create_database();
    let folders: Vec<_> = (0..3).map(|_| TempDir::new().unwrap()).collect();
    let started = folders.iter().map(|folder| process(&upstream, folder, &database.url, QUOTA));
    let gateways = join_all(started).await;
    let clients: Vec<_> = gateways.iter().map(Binary::client).collect();
    let clients: Vec<_> = clients.iter().collect();
    let ann = clients[0].register("ann@example.org").await;
    let mut count = admitted(&clients, &ann.access, 240).await;
    assert!(count <= 100, "{count}");
    // What one has taken ahead it admits.
    for client in &clients {
        count += admitted(&[client], &ann.access, 20).await;
    }
    assert_eq!((count, upstream.received().len()), (100, 100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_store_is_lost_requests_go_on_and_are_written_down_afterwards() {
    let mut cluster = Cluster::private();
    let upstream = Upstream::start().await;
    let database = cluster.create_database();
    let store = "store: {url: \"${STORE_URL}\", master_key: \"${MASTER_KEY}\", pool: 3, timeout: 500ms}\n";
    let yaml = format!("{store}{}", yaml(&upstream, "  daily: {by: subject, per: day, requests: 6}"));
    let (clock, invariants) = (Arc::new(ManualClock::default()), Arc::<Invariants>::default());
    let start = || {
        let setup = Setup::new(Engine::Sqlite, &yaml).on(&database.url);
        Box::pin(setup.start_beside(Arc::clone(&clock), Arc::clone(&invariants)))
    };
    let (one, other) = (start().await, start().await);
    let client = one.client();
    let (ann, bob) = (client.register("ann@example.org").await, client.register("bob@example.org").await);
    for _ in 0..2 {
        assert_eq!(client.status("/daily/a", &ann.access).await, 200);
    }
    cluster.stop();
    // Four are left as far as it knows; of somebody it has not seen it knows nothing.
    for (who, left) in [(&ann, 4), (&bob, 6)] {
        for _ in 0..left {
            assert_eq!(client.status("/daily/a", &who.access).await, 200);
        }
        assert_used_up(&client.get("/daily/a").bearer(&who.access).send().await, "daily");
    }
    let alone = "portcullis_quota_decisions_total{quota=\"daily\",result=\"alone\"}";
    assert!((one.metric(alone).await - 10.0).abs() < 0.1, "flagged");
    assert!((one.metric("portcullis_quota_store_lost").await - 1.0).abs() < 0.1);
    cluster.start();
    soon("the store to be found", async { while one.metric("portcullis_quota_store_lost").await > 0.5 {} }).await;
    let store = one.store().await;
    let written = async {
        let begin = crate::harness::clock::BEGIN;
        loop {
            // Its connections may still be the old ones.
            let usage = store.quota_usage(Some("daily"), None, begin, 10).await.unwrap_or_default();
            if usage.len() == 2 && usage.iter().all(|usage| usage.used == 6) {
                break;
            }
        }
    };
    soon("what is owed to be written down", written).await;
    for who in [&ann, &bob] {
        assert_used_up(&other.client().get("/daily/a").bearer(&who.access).send().await, "daily");
    }
    assert_eq!(upstream.received().len(), 12);
}

/// Nothing meters this answer's tokens: what was set aside for them comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_and_money_must_be_there_for_what_a_request_is_expected_to_use() {
    let upstream = Upstream::start().await;
    let quotas = "  tokens: {by: subject, per: day, tokens: 999}\n  \
                  money: {by: subject, per: month, cost: \"0.001\", hard: true}";
    let gateway = Gateway::start(Engine::Sqlite, &yaml(&upstream, quotas)).await;
    upstream.reply("/money/a", Reply::new(204, ""));
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    let refused = client.get("/tokens/a").bearer(&ann.access).send().await;
    assert_used_up(&refused, "tokens");
    assert_eq!(refused.header("ratelimit-policy"), Some("\"tokens\";q=999;qu=\"tokens\";w=86400"));
    let limit = refused.header("ratelimit").unwrap();
    assert!(limit.starts_with("\"tokens\";r=999;t="), "{limit}");
    upstream.assert_untouched();
    let answer = client.get("/money/a").bearer(&ann.access).send().await.expect(204);
    let policy = answer.header("ratelimit-policy").unwrap();
    assert!(policy.starts_with("\"money\";q=1000;qu=\"cost-millionths\";w="), "{policy}");
}
