//! Three gateway processes on one PostgreSQL and one Redis, or a Redis Cluster, or no Redis: what is ended at one is
//! refused at the others, and whatever is killed, cut, frozen or slowed down, nothing that was acknowledged is lost and
//! no honest client is sent away.

use std::time::Duration;

use tokio::task::block_in_place;

use crate::{
    harness::{
        client::Client,
        honest::Crowd,
        soon,
        trio::{Shared, Trio},
    },
    support::{redis::Redis, redis_cluster::RedisCluster},
};

/// Until this token is refused for good.
async fn is_refused(client: &Client, token: &str) {
    soon("the end to be known", async { while client.status("/ask/a", token).await != 401 {} }).await;
    client.get("/ask/a").bearer(token).send().await.refused(401, "invalid_token");
}

async fn assert_an_end_at_one_is_known_at_the_others(trio: &Trio, rounds: usize) {
    let clients = [0, 1, 2].map(|number| trio.client(number));
    clients[0].register("ann@example.org").await;
    let kept = clients[0].login("ann@example.org").await;
    for round in 0..rounds {
        let (here, there) = (&clients[round % 3], [&clients[(round + 1) % 3], &clients[(round + 2) % 3]]);
        let session = there[0].login("ann@example.org").await;
        for client in &clients {
            client.get("/ask/a").bearer(&session.access).send().await.expect(200);
        }
        here.post("/auth/logout").bearer(&session.access).send().await.expect(204);
        here.get("/ask/a").bearer(&session.access).send().await.refused(401, "invalid_token");
        for client in there {
            is_refused(client, &session.access).await;
            assert_eq!(client.refresh(&session.refresh).await.status, 400);
        }
        for client in &clients {
            client.get("/ask/a").bearer(&kept.access).send().await.expect(200);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_at_one_is_known_at_the_others() {
    let trio = Trio::start(Shared::One(Redis::private())).await;
    assert_an_end_at_one_is_known_at_the_others(&trio, 24).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_at_one_is_known_at_the_others_without_redis() {
    let trio = Trio::start(Shared::Nothing).await;
    assert_an_end_at_one_is_known_at_the_others(&trio, 24).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_at_one_is_known_at_the_others_on_a_redis_cluster() {
    let mut trio = Trio::start(Shared::Cluster(RedisCluster::private())).await;
    assert_an_end_at_one_is_known_at_the_others(&trio, 12).await;
    let Shared::Cluster(cluster) = &mut trio.shared else { panic!("there is a cluster") };
    block_in_place(|| cluster.stop(0));
    let (one, other) = (trio.client(1), trio.client(2));
    let session = one.login("ann@example.org").await;
    one.post("/auth/logout").bearer(&session.access).send().await.expect(204);
    is_refused(&other, &session.access).await;
}

/// Each part dies under load and comes back, a gateway twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_whatever_is_killed() {
    let mut trio = Trio::start_with(Shared::One(Redis::private()), "5s", "max_staleness: 5m").await;
    let crowd = Crowd::begin(&trio, 6);
    crowd.does(40).await;
    trio.kill(0);
    crowd.does(40).await;
    trio.serve(0).await;
    let Shared::One(redis) = &mut trio.shared else { panic!("there is a Redis") };
    block_in_place(|| redis.stop());
    crowd.does(40).await;
    block_in_place(|| redis.start());
    crowd.does(40).await;
    block_in_place(|| trio.postgres.stop());
    crowd.does(40).await;
    block_in_place(|| trio.postgres.start());
    crowd.does(40).await;
    trio.kill(1);
    trio.kill(2);
    crowd.does(40).await;
    trio.serve(1).await;
    trio.serve(2).await;
    crowd.does(40).await;
    crowd.must_have_been_told_the_truth(&trio).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_masters_of_a_redis_cluster_fail() {
    let mut trio = Trio::start_with(Shared::Cluster(RedisCluster::private()), "5s", "max_staleness: 5m").await;
    let crowd = Crowd::begin(&trio, 6);
    for master in [0, 2] {
        crowd.does(35).await;
        let Shared::Cluster(cluster) = &mut trio.shared else { panic!("there is a cluster") };
        block_in_place(|| cluster.stop(master));
        crowd.does(35).await;
        block_in_place(|| cluster.start(master));
    }
    let Shared::Cluster(cluster) = &trio.shared else { panic!("there is a cluster") };
    cluster.pause(1);
    crowd.does(40).await;
    cluster.resume(1);
    trio.kill(1);
    crowd.does(40).await;
    trio.serve(1).await;
    crowd.does(40).await;
    crowd.must_have_been_told_the_truth(&trio).await;
}

/// One gateway's links fail in every way while it is asked as much as the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_whatever_befalls_the_links_of_one_gateway() {
    let trio = Trio::start_with(Shared::One(Redis::private()), "2s", "max_staleness: 5m").await;
    let crowd = Crowd::begin(&trio, 6);
    crowd.does(40).await;
    for link in [trio.store_link(0), trio.redis_link(0)] {
        link.cut();
        crowd.does(40).await;
        link.freeze();
        crowd.does(20).await;
        link.heal();
        crowd.does(20).await;
        link.slow(64, Duration::from_millis(2));
        crowd.does(40).await;
        link.cut();
        link.heal();
        crowd.does(20).await;
    }
    trio.store_link(1).freeze();
    trio.redis_link(2).freeze();
    crowd.does(30).await;
    trio.store_link(1).heal();
    trio.redis_link(2).heal();
    crowd.does(30).await;
    crowd.must_have_been_told_the_truth(&trio).await;
}

/// A gateway that is cut off serves with what it knows, for as long as the route allows, and then nobody with a token;
/// healed, it knows what was ended meanwhile.
async fn assert_catches_up(trio: &Trio, breaks: impl Fn(&Trio)) {
    let (cut_off, other) = (trio.client(0), trio.client(1));
    other.register("ann@example.org").await;
    let [known, missed, kept] = [
        other.login("ann@example.org").await,
        other.login("ann@example.org").await,
        other.login("ann@example.org").await,
    ];
    for session in [&known, &missed, &kept] {
        cut_off.get("/ask/a").bearer(&session.access).send().await.expect(200);
    }
    other.post("/auth/logout").bearer(&known.access).send().await.expect(204);
    is_refused(&cut_off, &known.access).await;

    breaks(trio);
    other.post("/auth/logout").bearer(&missed.access).send().await.expect(204);
    cut_off.get("/ask/a").bearer(&known.access).send().await.refused(401, "invalid_token");
    assert_eq!(cut_off.status("/ask/a", &kept.access).await, 200, "it serves with what it knows");
    let stale = async { while cut_off.status("/ask/a", &missed.access).await != 503 {} };
    soon("what it knows to be too old", stale).await;
    let refused = cut_off.get("/ask/a").bearer(&kept.access).send().await;
    assert!(refused.header("retry-after").is_some());
    refused.refused(503, "revocations_stale");
    cut_off.get("/ask/a").bearer(&known.access).send().await.refused(401, "invalid_token");
    other.get("/ask/a").bearer(&kept.access).send().await.expect(200);

    trio.store_link(0).heal();
    // From 503 to 401 without a 200 between: whatever it is asked while it catches up.
    let caught_up = async {
        loop {
            match cut_off.status("/ask/a", &missed.access).await {
                503 => {}
                status => return status,
            }
        }
    };
    assert_eq!(soon("the gateway to catch up", caught_up).await, 401);
    cut_off.get("/ask/a").bearer(&kept.access).send().await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_behind_a_frozen_link_serves_with_what_it_knows_and_catches_up() {
    let trio = Trio::start_with(Shared::One(Redis::private()), "2s", "max_staleness: 4s").await;
    assert_catches_up(&trio, |trio| trio.store_link(0).freeze()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_behind_a_cut_link_serves_with_what_it_knows_and_catches_up() {
    let trio = Trio::start_with(Shared::Nothing, "2s", "max_staleness: 3s").await;
    assert_catches_up(&trio, |trio| trio.store_link(0).cut()).await;
}
