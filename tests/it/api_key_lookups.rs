//! What looking up API keys costs the store: nothing for made-up ones, one look for a key however many show it, and no
//! more requests waiting than there are places.

use std::time::Duration;

use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::sync::mpsc::unbounded_channel;

use crate::{
    api_keys::{altered, by_header, gateway, looked_up, made, revoke, yaml},
    harness::{
        gateway::{Engine, Gateway, Setup},
        soon,
        upstream::Upstream,
    },
    support::postgres::cluster,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_keys_ask_nothing_of_the_store_and_one_key_is_looked_up_once() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    let (key, id) = made(&client, &ann, json!({"name": "k"})).await;
    for made_up in [altered(&key), key[..80].to_owned(), "pk_x".to_owned(), "x".repeat(90)] {
        for _ in 0..5 {
            by_header(&client, "/keys/a", &made_up).await.refused(401, "invalid_token");
        }
    }
    let asked = async |gateway: &Gateway| looked_up(gateway, "found").await + looked_up(gateway, "unknown").await;
    assert!(asked(&gateway).await < 0.5);
    let calls = (0..20).map(|_| by_header(&client, "/keys/a", &key));
    for answer in futures_util::future::join_all(calls).await {
        answer.expect(200);
    }
    assert!((asked(&gateway).await - 1.0).abs() < 0.1, "{}", asked(&gateway).await);
    // One that is gone is asked about once in a while.
    revoke(&client, &ann, &id).await.expect(204);
    gateway.clock.advance(Duration::from_mins(20));
    for _ in 0..20 {
        by_header(&client, "/keys/a", &key).await.refused(401, "invalid_token");
    }
    assert!((looked_up(&gateway, "unknown").await - 1.0).abs() < 0.1);
}

/// Keys that are looked up at once, and requests that may wait for all of them.
const LOOKS: usize = 64;
const PLACES: usize = 256;

/// A gateway whose store can be made slow, on a database of its own.
async fn slowable(upstream: &Upstream, url: &str) -> Gateway {
    let store = "store: {url: \"${STORE_URL}\", master_key: \"${MASTER_KEY}\", pool: 3, timeout: 60s}\n";
    let many = "max_per_user: 100, made_per_user: 1000/1s";
    let yaml = store.to_owned() + &yaml(upstream).replace("max_per_user: 3", many);
    Setup::new(Engine::Sqlite, &yaml).on(url).start().await
}

/// As long as this connection is open no API key is found or missed; those who ask wait.
async fn no_look_ends(url: &str) -> PgConnection {
    let mut held = PgConnection::connect(url).await.unwrap();
    let lock = "BEGIN; LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE";
    sqlx::raw_sql(lock).execute(&mut held).await.unwrap();
    held
}

/// Requests with a key that is known wait for no look that another of them has begun, so they take no places.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_key_that_is_looked_up_again_keeps_no_newcomer_out() {
    let upstream = Upstream::start().await;
    let database = cluster().create_database();
    let gateway = slowable(&upstream, &database.url).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    let (known, _) = made(&client, &ann, json!({"name": "known"})).await;
    let (newcomer, _) = made(&client, &ann, json!({"name": "newcomer"})).await;
    by_header(&client, "/keys/a", &known).await.expect(200);
    gateway.clock.advance(Duration::from_secs(61));

    let lock = no_look_ends(&database.url).await;
    // Answered by what is known, while the look that it began goes on.
    by_header(&client, "/keys/a", &known).await.expect(200);
    let waited_for_none = looked_up(&gateway, "remembered").await;
    let (told, mut answers) = unbounded_channel();
    for key in std::iter::repeat_n(&known, PLACES + 64).chain([&newcomer]) {
        let (client, key, told) = (client.clone(), key.clone(), told.clone());
        tokio::spawn(async move { told.send(by_header(&client, "/keys/a", &key).await).unwrap() });
    }
    for _ in 0..PLACES + 64 {
        soon("those whose key is known", answers.recv()).await.unwrap().expect(200);
    }
    assert!(looked_up(&gateway, "busy").await < 0.5);
    let waited_for_none = looked_up(&gateway, "remembered").await - waited_for_none;
    let others = f64::from(u32::try_from(PLACES + 64).unwrap());
    assert!((waited_for_none - others).abs() < 0.1, "{waited_for_none}");
    lock.close().await.unwrap();
    soon("the newcomer", answers.recv()).await.unwrap().expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_look_up_holds_up_no_more_requests_than_there_are_places() {
    let upstream = Upstream::start().await;
    let database = cluster().create_database();
    let gateway = slowable(&upstream, &database.url).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    let (known, _) = made(&client, &ann, json!({"name": "known"})).await;
    by_header(&client, "/keys/a", &known).await.expect(200);
    let mut keys = Vec::new();
    for _ in 0..LOOKS + 6 {
        keys.push(made(&client, &ann, json!({"name": "k"})).await.0);
    }

    let lock = no_look_ends(&database.url).await;
    let (told, mut answers) = unbounded_channel();
    let ask = |key: &str| {
        let (client, key, told) = (client.clone(), key.to_owned(), told.clone());
        tokio::spawn(async move {
            let answer = by_header(&client, "/keys/a", &key).await;
            told.send((key, answer)).unwrap();
        });
    };
    for key in &keys {
        ask(key);
    }
    for _ in 0..6 {
        let (key, refused) = soon("one key too many to be refused", answers.recv()).await.unwrap();
        refused.refused(503, "store_unavailable");
        assert_eq!(refused.header("retry-after"), Some("5"));
        keys.retain(|other| *other != key);
    }
    // One that is being looked up is no exception.
    for _ in 0..PLACES - LOOKS + 8 {
        ask(&keys[0]);
    }
    for _ in 0..8 {
        let (_, refused) = soon("one request too many to be refused", answers.recv()).await.unwrap();
        refused.refused(503, "store_unavailable");
    }
    by_header(&client, "/keys/a", &known).await.expect(200);
    assert!((looked_up(&gateway, "busy").await - 14.0).abs() < 0.1, "{}", looked_up(&gateway, "busy").await);

    lock.close().await.unwrap();
    for _ in 0..PLACES {
        soon("those who waited", answers.recv()).await.unwrap().1.expect(200);
    }
}
