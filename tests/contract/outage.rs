//! A database that dies, freezes, goes silent or is held by another: answers within the deadline, and no restart of
//! ours when it comes back.

use std::time::Duration;

use portcullis::{
    clock::{Clock, SystemClock},
    config::settings,
    store::{AuditEvent, SharedStore, StoreFault, sql},
};

use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;

use crate::{
    fixture::{NOW, entry, new_account, new_session, postgres_settings, sqlite_settings, user_id},
    proxy::{Proxy, is_unavailable},
    support::postgres::{Cluster, cluster},
};

const DEADLINE: Duration = Duration::from_secs(2);
/// What a loaded machine may add to a deadline; a hang would be for ever.
const SLACK: Duration = Duration::from_secs(20);

fn settings(cluster: &Cluster) -> settings::Store {
    settings::Store { timeout: DEADLINE, pool: 2, ..postgres_settings(cluster.create_database().url) }
}

async fn write(store: &SharedStore, email: &str) -> Result<(), StoreFault> {
    let account = new_account(email);
    let session = new_session(account.id, NOW);
    match store.register(&account, &session, &entry(AuditEvent::Registered, NOW)).await {
        Ok(_) => Ok(()),
        Err(portcullis::store::AccountFault::Store(fault)) => Err(fault),
        Err(other) => panic!("{other}"),
    }
}

/// Reads and writes, more of them at once than the pool has connections: each is told so in time.
async fn every_call_is_told_that_the_store_is_lost(store: &SharedStore) {
    let clock = SystemClock::new();
    let began = clock.tick();
    let calls: Vec<_> = (0..6)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                if number % 2 == 0 {
                    store.account(user_id()).await.map(drop)
                } else {
                    write(&store, &format!("{number}@example.com")).await
                }
            })
        })
        .collect();
    for call in calls {
        let fault = call.await.unwrap().unwrap_err();
        assert!(matches!(fault, StoreFault::Unavailable(_)), "{fault}");
    }
    let took = clock.tick().since(began);
    assert!(took < DEADLINE + SLACK, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_is_unavailable_within_the_deadline_and_comes_back_by_itself() {
    let mut cluster = Cluster::private();
    let store = sql::open(&settings(&cluster)).await.unwrap();
    write(&store, "before@example.com").await.unwrap();
    cluster.stop();
    every_call_is_told_that_the_store_is_lost(&store).await;
    assert!(matches!(store.ping().await, Err(StoreFault::Unavailable(_))));
    cluster.start();
    store.ping().await.unwrap();
    write(&store, "after@example.com").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_broken_between_two_calls_cost_no_call() {
    let mut cluster = Cluster::private();
    let store = sql::open(&settings(&cluster)).await.unwrap();
    store.ping().await.unwrap();
    cluster.stop();
    cluster.start();
    write(&store, "after@example.com").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_is_unavailable_within_the_deadline_and_holds_no_connection_after() {
    let cluster = Cluster::private();
    let store = sql::open(&settings(&cluster)).await.unwrap();
    write(&store, "before@example.com").await.unwrap();
    cluster.pause();
    every_call_is_told_that_the_store_is_lost(&store).await;
    every_call_is_told_that_the_store_is_lost(&store).await;
    cluster.resume();
    store.ping().await.unwrap();
    write(&store, "after@example.com").await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_down_at_the_start_is_told() {
    let mut cluster = Cluster::private();
    let settings = settings(&cluster);
    cluster.stop();
    let fault = sql::open(&settings).await.err().unwrap();
    assert!(matches!(fault, sql::OpenFault::Unreachable { .. }), "{fault}");
}

/// The pool has two connections: were either kept after its call was given up, the last write would find none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_goes_silent_in_a_transaction_is_given_up_in_time_and_replaced() {
    let url = cluster().create_database().url;
    let proxy = Proxy::before(&url, "INSERT INTO users");
    let through = settings::Store { timeout: DEADLINE, pool: 2, ..postgres_settings(proxy.url(&url)) };
    let store = sql::open(&through).await.unwrap();
    proxy.silence(2);
    let clock = SystemClock::new();
    for number in 0..2 {
        let began = clock.tick();
        let answer = write(&store, &format!("{number}@example.com")).await;
        assert!(is_unavailable(&answer), "{answer:?}");
        let took = clock.tick().since(began);
        assert!(took >= DEADLINE && took < DEADLINE + SLACK, "{took:?}");
    }
    write(&store, "after@example.com").await.unwrap();
    store.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sqlite_file_that_another_process_is_writing_is_unavailable_in_time_and_still_readable() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("portcullis.db");
    let store = sql::open(&settings::Store { timeout: DEADLINE, ..sqlite_settings(path.clone()) }).await.unwrap();
    let mut rival = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut rival).await.unwrap();
    let answer = write(&store, "during@example.com").await;
    assert!(is_unavailable(&answer), "{answer:?}");
    store.ping().await.unwrap();
    sqlx::raw_sql("ROLLBACK").execute(&mut rival).await.unwrap();
    write(&store, "after@example.com").await.unwrap();
}
