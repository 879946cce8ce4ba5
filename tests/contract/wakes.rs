//! Calls between gateways over Redis: one that calls is heard by the others, and a listener whose Redis was lost or has
//! gone silent listens again.

use std::sync::Arc;

use portcullis::store::redis::Redis;
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    task::JoinHandle,
};

use crate::{
    redis::{PATIENT, Told, open_by, settings, soon},
    support,
};

/// Listens as a gateway does: again whenever it was lost.
fn listening(redis: &Arc<Redis>) -> (UnboundedReceiver<()>, JoinHandle<()>) {
    let (called, calls) = unbounded_channel();
    let redis = Arc::clone(redis);
    let listener = tokio::spawn(async move {
        loop {
            redis.called_by_gateways(&|| called.send(()).unwrap()).await;
            tokio::task::yield_now().await;
        }
    });
    (calls, listener)
}

async fn is_called(calls: &mut UnboundedReceiver<()>) {
    tokio::time::timeout(PATIENT, calls.recv()).await.expect("a call").unwrap();
}

/// Calls until the listener hears it: it may be about to listen again, or be called for having begun to.
async fn assert_heard(caller: &Redis, calls: &mut UnboundedReceiver<()>) {
    while calls.try_recv().is_ok() {}
    caller.call_gateways().await;
    is_called(calls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_heard_at_the_other_gateway_before_and_after_redis_was_lost() {
    let mut server = support::redis::Redis::private();
    let (one, other) = (
        open_by(&settings(&server.url(), PATIENT), &Told::default()).await,
        open_by(&settings(&server.url(), PATIENT), &Told::default()).await,
    );
    let (mut calls, listener) = listening(&other);
    is_called(&mut calls).await;
    for _ in 0..20 {
        assert_heard(&one, &mut calls).await;
    }
    server.stop();
    one.call_gateways().await;
    assert!(!one.is_up(), "a call that nobody took is how a gateway without shared limits finds out");
    server.start();
    // It has missed calls, so it is called for beginning again.
    is_called(&mut calls).await;
    soon(async || one.check().await.is_ok()).await;
    assert_heard(&one, &mut calls).await;
    listener.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_notices_that_its_redis_has_gone_silent() {
    let server = support::redis::Redis::private();
    let redis = open_by(&settings(&server.url(), PATIENT), &Told::default()).await;
    let (called, mut calls) = unbounded_channel();
    let listening = Arc::clone(&redis);
    let listener = tokio::spawn(async move { listening.called_by_gateways(&|| called.send(()).unwrap()).await });
    is_called(&mut calls).await;
    server.pause();
    tokio::time::timeout(PATIENT, listener).await.expect("it gives up").unwrap();
    server.resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster_a_call_at_one_master_is_heard_at_another_and_a_lost_one_is_left() {
    let mut cluster = support::redis_cluster::RedisCluster::private();
    let settings = |master| portcullis::config::settings::Redis {
        cluster: Some(Vec::new()),
        ..settings(&cluster.url(master), PATIENT)
    };
    let one = open_by(&settings(0), &Told::default()).await;
    // Listens at another server than the one that is called first.
    let other = open_by(&portcullis::config::settings::Redis { cluster: None, ..settings(2) }, &Told::default()).await;
    let whole = open_by(&settings(1), &Told::default()).await;
    let ((mut calls, first), (mut others, second)) = (listening(&other), listening(&whole));
    is_called(&mut calls).await;
    is_called(&mut others).await;
    for _ in 0..20 {
        assert_heard(&one, &mut calls).await;
        is_called(&mut others).await;
    }
    cluster.stop(0);
    // Whoever listened there listens elsewhere, and whoever called there calls elsewhere.
    one.call_gateways().await;
    is_called(&mut calls).await;
    assert_heard(&one, &mut calls).await;
    assert_heard(&one, &mut others).await;
    first.abort();
    second.abort();
}
