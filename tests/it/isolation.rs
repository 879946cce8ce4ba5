//! What others do costs nobody else: a flood of logins from one address keeps no other address's login waiting.

use futures_util::future::join_all;
use serde_json::json;

use crate::harness::{
    client::PASSWORD,
    gateway::{Engine, Gateway, standard},
    soon,
    upstream::Upstream,
};

/// Behind a proxy at 127.0.0.1, which says who calls. A hash takes long enough for a flood to stand in line.
fn behind_a_proxy(upstream: &Upstream, passwords: &str) -> String {
    format!(
        "listeners: {{public: {{bind: \"127.0.0.1:0\"}}, admin: {{bind: \"127.0.0.1:0\"}}, \
         trusted_proxies: [127.0.0.1]}}\npasswords: {{hash_threads: 1, {passwords}}}\n{}",
        standard(upstream)
    )
}

fn near(value: f64, expected: f64) -> bool {
    (value - expected).abs() < 0.1
}

const DONE: &str = "portcullis_hash_jobs_total{result=\"done\"}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_logins_from_one_address_keeps_no_other_login_waiting() {
    let upstream = Upstream::start().await;
    let passwords = "hash_queue: 400, hash_queue_per_address: 300, argon2: {iterations: 6}";
    let gateway = Gateway::start(Engine::Sqlite, &behind_a_proxy(&upstream, passwords)).await;
    let client = gateway.client();
    client.register("ann@example.org").await;

    let flood = (0..250).map(|number| {
        let guess = json!({"email": "ann@example.org", "password": format!("guess {number}")});
        let ask = client.post("/auth/login").header("x-forwarded-for", "203.0.113.7").json(&guess);
        tokio::spawn(async move { ask.send().await })
    });
    let flood: Vec<_> = flood.collect();
    let stands = async { while gateway.metric("portcullis_hash_queue_length").await < 150.0 {} };
    soon("the flood to stand in line", stands).await;

    let before = gateway.metric(DONE).await;
    let login = json!({"email": "ann@example.org", "password": PASSWORD});
    client.post("/auth/login").header("x-forwarded-for", "198.51.100.1").json(&login).send().await.expect(200);
    let between = gateway.metric(DONE).await - before;
    // The one on the thread, one of the flood's, its own, and what was done while the questions were on their way.
    assert!(between < 20.0, "{between} jobs were done before a login that was one turn away");
    for guess in &flood {
        guess.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_has_its_share_of_the_queue_and_no_more() {
    let upstream = Upstream::start().await;
    let passwords = "hash_queue: 400, hash_queue_per_address: 3, argon2: {iterations: 6}";
    let gateway = Gateway::start(Engine::Sqlite, &behind_a_proxy(&upstream, passwords)).await;
    let client = gateway.client();
    let guess = json!({"email": "nobody@example.org", "password": "x"});
    // Addresses of one /64 are one client's.
    let flood = (0..30).map(|last| {
        let from = format!("2001:db8::{last:x}");
        client.post("/auth/login").header("x-forwarded-for", &from).json(&guess).send()
    });
    let answers = join_all(flood).await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 503).collect();
    assert!(!refused.is_empty(), "thirty logins fit into three places");
    for answer in &refused {
        answer.refused(503, "hash_queue_full");
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=30).contains(&wait), "{wait}");
    }
    let told = gateway.metric("portcullis_hash_jobs_total{result=\"address_full\"}").await;
    assert!(near(told, f64::from(u32::try_from(refused.len()).unwrap())), "{told}");
    assert!(near(gateway.metric("portcullis_hash_queue_capacity").await, 400.0));
}
