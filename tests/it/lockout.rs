//! Who may guess passwords, and whom that keeps out: on one gateway and on three, across restarts, in parallel, and
//! from a thousand addresses.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    harness::{
        client::{Answer, Client, PASSWORD},
        clock::ManualClock,
        gateway::{Engine, Gateway, Setup, standard},
        invariants::Invariants,
        logins::{self, WRONG, credentials, device_of, login, told},
        upstream::Upstream,
    },
    support::postgres,
};

/// As if a proxy had it from this address.
async fn login_from(client: &Client, address: &str, password: &str) -> Answer {
    logins::login_from(client, address, "ann@example.org", password).await
}

/// Failed logins whose password was compared; those that a counter forbade say so.
async fn compared(gateway: &Gateway) -> usize {
    logins::compared(&gateway.store().await).await
}

#[tokio::test]
async fn wrong_unknown_locked_and_inactive_are_one_answer() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(Engine::Sqlite, &upstream).await;
    let client = gateway.client();
    for name in ["ann", "bob", "cyn"] {
        client.register(&format!("{name}@example.org")).await;
    }
    gateway.tamper_with_audit("UPDATE users SET active = 0 WHERE email = 'cyn@example.org'").await;
    for _ in 0..5 {
        login(&client, "ann@example.org", WRONG).await.refused(401, "login_failed");
    }
    let answers = [
        login(&client, "bob@example.org", WRONG).await,
        login(&client, "nobody@example.org", PASSWORD).await,
        login(&client, "ann@example.org", PASSWORD).await,
        login(&client, "ann@example.org", WRONG).await,
        login(&client, "cyn@example.org", PASSWORD).await,
    ];
    for answer in &answers {
        answer.refused(401, "login_failed");
        assert_eq!(told(answer), told(&answers[0]));
    }
    gateway.clock.advance(Duration::from_mins(1));
    client.login("ann@example.org").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ladder_holds_across_a_restart_and_on_every_gateway_and_a_success_ends_it() {
    let upstream = Upstream::start().await;
    let mut trio = trio(&standard(&upstream)).await;
    trio[0].client().register("ann@example.org").await;
    for number in 0..5 {
        login(&trio[number % 3].client(), "ann@example.org", WRONG).await.refused(401, "login_failed");
    }
    for gateway in &trio {
        login(&gateway.client(), "ann@example.org", PASSWORD).await.refused(401, "login_failed");
    }
    trio[1].restart().await;
    login(&trio[1].client(), "ann@example.org", PASSWORD).await.refused(401, "login_failed");
    assert_eq!(compared(&trio[0]).await, 5);
    for (failure, minutes) in [1, 2, 4, 8, 15, 15].into_iter().enumerate() {
        let clock = &trio[0].clock;
        clock.advance(Duration::from_secs(minutes * 60 - 1));
        login(&trio[failure % 3].client(), "ann@example.org", PASSWORD).await.refused(401, "login_failed");
        clock.advance(Duration::from_secs(1));
        login(&trio[(failure + 1) % 3].client(), "ann@example.org", WRONG).await.refused(401, "login_failed");
        assert_eq!(compared(&trio[0]).await, 6 + failure, "one for each wait");
    }
    trio[0].clock.advance(Duration::from_mins(15));
    trio[2].client().login("ann@example.org").await;
    for _ in 0..4 {
        login(&trio[0].client(), "ann@example.org", WRONG).await.refused(401, "login_failed");
    }
    trio[1].client().login("ann@example.org").await;
}

/// Three gateways on one database, by one clock.
async fn trio(yaml: &str) -> Vec<Gateway> {
    let (clock, invariants) = (Arc::new(ManualClock::default()), Arc::<Invariants>::default());
    let database = postgres::cluster().create_database();
    let mut all = Vec::new();
    for _ in 0..3 {
        let setup = Setup::new(
            Engine::Sqlite,
            &format!(
                "store: {{url: \"${{STORE_URL}}\", master_key: \"${{MASTER_KEY}}\", pool: 4, timeout: 20s}}\n{yaml}"
            ),
        );
        all.push(Box::pin(setup.on(&database.url).start_beside(Arc::clone(&clock), Arc::clone(&invariants))).await);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_guesses_at_once_at_three_gateways_are_five() {
    let upstream = Upstream::start().await;
    let trio = trio(&standard(&upstream)).await;
    trio[0].client().register("ann@example.org").await;
    let mut guessing = JoinSet::new();
    for number in 0..200 {
        let client = trio[number % 3].client();
        guessing.spawn(async move { login(&client, "ann@example.org", WRONG).await.status });
    }
    let answers = guessing.join_all().await;
    // Who waited too long for the others is told to come again.
    assert!(answers.iter().all(|status| [401, 503].contains(status)), "{answers:?}");
    assert_eq!(compared(&trio[0]).await, 5);
}

/// A hundred failures, each from another address and as soon as the counters allow; then nine hundred more at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owner_gets_in_by_device_cookie_while_a_thousand_addresses_hammer_the_account() {
    let upstream = Upstream::start().await;
    // A busy machine writes all those audit rows as fast as it can.
    let yaml = "listeners: {public: {bind: \"127.0.0.1:0\"}, admin: {bind: \"127.0.0.1:0\"}, \
                trusted_proxies: [127.0.0.1/32]}\nstore: {url: \"sqlite://data/test.db\", pool: 4, timeout: 30s}\n";
    let gateway = Gateway::start(Engine::Sqlite, &format!("{yaml}{}", standard(&upstream))).await;
    let client = gateway.client();
    let by_cookie = |email: &str| json!({"email": email, "password": PASSWORD, "delivery": "cookie"});
    let register = async |email: &str| client.post("/auth/register").json(&by_cookie(email)).send().await.expect(201);
    let device = device_of(&register("ann@example.org").await);
    let strangers = device_of(&register("eve@example.org").await);
    for number in 0..100 {
        let address = format!("198.51.{}.{}", number / 10, number % 10);
        login_from(&client, &address, WRONG).await.refused(401, "login_failed");
        gateway.clock.advance(Duration::from_secs(30));
    }
    assert_eq!(compared(&gateway).await, 100);
    let mut hammering = JoinSet::new();
    for part in 0..5 {
        let client = gateway.client();
        hammering.spawn(async move {
            for number in 0..180 {
                let address = format!("203.0.{part}.{number}");
                login_from(&client, &address, WRONG).await.refused(401, "login_failed");
            }
        });
    }
    let owner = async |cookie: &str| {
        let call = client.post("/auth/login").header("x-forwarded-for", "192.0.2.77").header("cookie", cookie);
        call.json(&by_cookie("ann@example.org")).send().await
    };
    owner("a=b").await.refused(401, "login_failed");
    owner(&strangers).await.refused(401, "login_failed");
    assert_eq!(compared(&gateway).await, 100, "nothing more was compared");
    device_of(&owner(&device).await.expect(200));
    owner(&device).await.expect(200);
    hammering.join_all().await;
    owner(&device).await.expect(200);
    assert!(compared(&gateway).await <= 120 + 20, "a success gives the free ones back, no more");
    let locked = "portcullis_lockout_decisions_total{counter=\"account\",result=\"locked\"}";
    assert!((gateway.metric(locked).await - 1.0).abs() < f64::EPSILON);
    // It goes no further than the portal.
    client.get("/open/a").header("cookie", &format!("{device}; theme=dark")).send().await.expect(200);
    assert_eq!(upstream.last().head.header("cookie"), Some("theme=dark"));
}

#[tokio::test]
async fn an_address_that_tries_many_accounts_waits_whatever_it_says_of_itself() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(Engine::Sqlite, &upstream).await;
    let client = gateway.client();
    client.register("ann@example.org").await;
    // Nobody is trusted to forward, so a header rotates nothing.
    for number in 0..7 {
        let call = client.post("/auth/login").header("x-forwarded-for", &format!("198.51.100.{number}"));
        call.json(&credentials(&format!("u{number}@example.org"), WRONG)).send().await.refused(401, "login_failed");
    }
    let refused = login(&client, "ann@example.org", PASSWORD).await;
    refused.refused(429, "address_locked");
    assert_eq!(refused.header("retry-after"), Some("60"));
    gateway.client_at("127.0.0.2").login("ann@example.org").await;
    gateway.clock.advance(Duration::from_mins(1));
    client.login("ann@example.org").await;
}

#[tokio::test]
async fn registrations_are_paced_by_address_and_by_what_is_registered() {
    let upstream = Upstream::start().await;
    let yaml = format!("lockout: {{registration: {{per_address: 3/1h, per_target: 2/1h}}}}\n{}", standard(&upstream));
    let gateway = Gateway::start(Engine::Sqlite, &yaml).await;
    let (here, there) = (gateway.client(), gateway.client_at("127.0.0.2"));
    let register = async |client: &Client, email: &str| {
        client.post("/auth/register").json(&credentials(email, PASSWORD)).send().await
    };
    register(&here, "ann@example.org").await.expect(201);
    register(&there, "ann@example.org").await.refused(409, "account_exists");
    let refused = register(&there, "ANN@example.org").await;
    refused.refused(429, "calls_paced");
    assert_eq!(refused.header("retry-after"), Some("1800"));
    register(&here, "bob@example.org").await.expect(201);
    register(&here, "cyn@example.org").await.expect(201);
    register(&here, "dan@example.org").await.refused(429, "calls_paced");
    register(&there, "dan@example.org").await.expect(201);
    gateway.clock.advance(Duration::from_mins(20));
    register(&here, "eva@example.org").await.expect(201);
    for (result, many) in [("admitted", 6.0), ("refused", 2.0)] {
        let line = format!("portcullis_paced_calls_total{{call=\"register\",result=\"{result}\"}}");
        assert!((gateway.metric(&line).await - many).abs() < 0.1, "{result}");
    }
}

#[tokio::test]
async fn what_counters_decide_and_how_often_a_hash_waited_is_counted() {
    let upstream = Upstream::start().await;
    let lockout = "{account_and_address: {free: 2, waits: [1m]}, account: {slow_after: 3, hard_stop: 4}}";
    let gateway = Gateway::start(Engine::Sqlite, &format!("lockout: {lockout}\n{}", standard(&upstream))).await;
    let (here, there) = (gateway.client(), gateway.client_at("127.0.0.2"));
    here.register("ann@example.org").await;
    let told = async |counter: &str, result: &str| {
        let line = format!("portcullis_lockout_decisions_total{{counter=\"{counter}\",result=\"{result}\"}}");
        gateway.metric(&line).await
    };
    let fails = async |client: &Client| {
        let before = gateway.metric("portcullis_hash_wait_seconds_count").await;
        login(client, "ann@example.org", WRONG).await.refused(401, "login_failed");
        let after = gateway.metric("portcullis_hash_wait_seconds_count").await;
        assert!((after - before - 1.0).abs() < 0.1, "{before} {after}");
    };
    // Twice for nothing, then the address waits with this account; then whoever asks for the account; then it is over.
    for (client, counter, result) in [
        (&here, "pair", "admitted"),
        (&here, "pair", "admitted"),
        (&here, "pair", "waits"),
        (&there, "pair", "admitted"),
        (&there, "account", "waits"),
    ] {
        let before = told(counter, result).await;
        fails(client).await;
        assert!((told(counter, result).await - before - 1.0).abs() < 0.1, "{counter} {result}");
    }
    assert!(told("account", "stopped").await < 0.1);
    gateway.clock.advance(Duration::from_secs(30));
    fails(&there).await;
    assert!((told("account", "locked").await - 1.0).abs() < 0.1);
    fails(&there).await;
    assert!((told("account", "stopped").await - 1.0).abs() < 0.1);
}
