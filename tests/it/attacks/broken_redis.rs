//! Redis is killed, slowed down or frozen in the middle of an attack on a limit and of one on a password: requests go
//! on, of those that were under way each waits once, each gateway counts for itself from where it stands and says so;
//! guesses are counted as ever, by the store. Once Redis is back all count together again.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;

use super::{HOME, Honest, LAIR, PROXY};
use crate::{
    harness::{
        client::{Client, PASSWORD},
        link::Link,
        logins::{WRONG, compared, login},
        site::{Nodes, Site},
        soon,
        upstream::Upstream,
    },
    support::redis::Redis,
};

/// What a user may a day of the dear route, all gateways together; each by itself while Redis is lost.
const SHARE: usize = 20;
/// Attackers at each gateway, each of whom asks as soon as there is an answer.
const CROWD: usize = 3;
/// How often each of them has asked when Redis is struck: less than a share together.
const OPENING: usize = 2;
/// Guesses at one account from one address before it waits (docs/lockout.md).
const FREE: usize = 5;

const LOST: &str = "portcullis_shared_state_lost";
const ALONE: &str = "portcullis_shared_state_fallbacks_total";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Blow {
    Killed,
    /// A byte now and then.
    Slowed,
    Frozen,
}

on_one_and_three!(
    redis_killed_in_the_middle_of_attacks,
    redis_slowed_in_the_middle_of_attacks,
    redis_frozen_in_the_middle_of_attacks,
);

async fn redis_killed_in_the_middle_of_attacks(nodes: Nodes) {
    struck(nodes, Blow::Killed).await;
}

async fn redis_slowed_in_the_middle_of_attacks(nodes: Nodes) {
    struck(nodes, Blow::Slowed).await;
}

async fn redis_frozen_in_the_middle_of_attacks(nodes: Nodes) {
    struck(nodes, Blow::Frozen).await;
}

async fn site(nodes: Nodes, upstream: &Upstream, blow: Blow) -> Site {
    // Who is killed is missed at once; a machine that is busy must not make one that is well look lost.
    let deadline = if blow == Blow::Killed { "20s" } else { "3s" };
    let yaml = format!(
        r#"
listeners: {{public: {{bind: "127.0.0.1:0"}}, admin: {{bind: "127.0.0.1:0"}}, trusted_proxies: [{PROXY}]}}
shared_state: {{redis: {{url: {{env: REDIS_URL}}, deadline: {deadline}, retry: 60s}}}}
limits:
  user: {{by: subject, rate: {SHARE}/1d, scope: shared, lease: 0}}
  everybody: {{by: address, rate: 100000/s, burst: 100000, scope: shared, lease: 0}}
portal: {{limits: [everybody]}}
lockout: {{account_and_address: {{free: {FREE}, waits: [1d]}}}}
clusters: {{rag: {{endpoints: ["{}"]}}}}
routes:
  - {{name: ask, match: {{path: "/ask/{{*rest}}"}}, cluster: rag}}
  - {{name: dear, match: {{path: "/dear/{{*rest}}"}}, limits: [user], cluster: rag}}
"#,
        upstream.url()
    );
    Site::start(nodes, &yaml).await
}

impl Blow {
    fn strike(self, site: &Site, redis: &mut Redis) {
        match self {
            Self::Killed => redis.stop(),
            Self::Slowed => site.redis_links().for_each(|link| link.slow(1, Duration::from_millis(500))),
            Self::Frozen => site.redis_links().for_each(Link::freeze),
        }
    }

    fn heal(self, site: &Site, redis: &mut Redis) {
        match self {
            Self::Killed => redis.start(),
            Self::Slowed | Self::Frozen => site.redis_links().for_each(Link::heal),
        }
    }
}

/// How far the attack has come. Each of the crowd asks a few times, then again and again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Opening,
    /// Redis was struck.
    Struck,
    /// Every gateway knows.
    Last,
}

/// Asks with this token; how often it was admitted.
async fn storm(client: Client, token: &str, mut stage: watch::Receiver<Stage>) -> usize {
    let mut admitted = 0;
    for (due, many) in [(Stage::Opening, OPENING), (Stage::Struck, SHARE + 1), (Stage::Last, SHARE + 1)] {
        stage.wait_for(|stage| *stage >= due).await.unwrap();
        for _ in 0..many {
            admitted += is_admitted(&client, token).await;
        }
    }
    admitted
}

async fn is_admitted(client: &Client, token: &str) -> usize {
    let status = client.status("/dear/a", token).await;
    assert!([200, 429].contains(&status), "{status}");
    usize::from(status == 200)
}

/// The same at every gateway, by a crowd.
async fn storms(site: &Site, nodes: Nodes, token: &str, stage: &watch::Sender<Stage>) -> usize {
    let crowd = (0..nodes.count() * CROWD)
        .map(|number| storm(site.client_to(number % nodes.count(), LAIR), token, stage.subscribe()));
    join_all(crowd).await.iter().sum()
}

/// Wrong passwords for the account, at the gateways in turn.
async fn guess(robber: &Client, many: usize) {
    for _ in 0..many {
        login(robber, "dan@example.org", WRONG).await.refused(401, "login_failed");
    }
}

async fn until_all_say(site: &Site, lost: bool) {
    let wanted = if lost { 1.0 } else { 0.0 };
    let said = async { while !site.metrics(LOST).await.iter().all(|value| (value - wanted).abs() < 0.1) {} };
    soon("every gateway to say how Redis is", said).await;
}

/// Questions that no answer came to: so many requests waited for one.
async fn waited(site: &Site) -> Vec<f64> {
    let of = |result: &str| format!("portcullis_shared_state_calls_total{{kind=\"charge\",result=\"{result}\"}}");
    let (late, failed) = (site.metrics(&of("timeout")).await, site.metrics(&of("failed")).await);
    late.iter().zip(failed).map(|(late, failed)| late + failed).collect()
}

fn of(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

async fn struck(nodes: Nodes, blow: Blow) {
    let upstream = Upstream::start().await;
    let mut site = site(nodes, &upstream, blow).await;
    let mut redis = site.redis.take().expect("there is one");
    let bob = Honest::register(&site, nodes, "bob").await;
    let home = site.client_at(HOME);
    let (ann, carol) = (home.register("ann@example.org").await, home.register("carol@example.org").await);
    let (eve, robber) = (home.register("eve@example.org").await, site.client_at(LAIR));
    home.register("dan@example.org").await;
    let carol_asks = async |many: usize| {
        for _ in 0..many {
            home.get("/dear/a").bearer(&carol.access).send().await.expect(200);
        }
    };

    let stage = watch::Sender::new(Stage::Opening);
    let story = async {
        guess(&robber, 2).await;
        carol_asks(5).await;
        let asked = 5 + nodes.count() * CROWD * OPENING;
        upstream.wait_for("the attack to be under way", asked, |one| one.target() == "/dear/a").await;
        blow.strike(&site, &mut redis);
        stage.send_replace(Stage::Struck);
        guess(&robber, 2 * nodes.count()).await;
        carol_asks(SHARE - 5).await;
        for _ in 0..3 {
            bob.is_served().await;
        }
        until_all_say(&site, true).await;
        guess(&robber, 2 * nodes.count()).await;
        stage.send_replace(Stage::Last);
    };
    let (admitted, ()) = tokio::join!(storms(&site, nodes, &ann.access, &stage), story);

    // docs/limits.md: n gateways that count for themselves admit n times the limit, from where each stands.
    assert_eq!(admitted, nodes.count() * SHARE);
    for waited in waited(&site).await {
        // Those that were under way: the crowd's and the story's. Nobody after them.
        assert!((1..=CROWD + 1).any(|due| (waited - of(due)).abs() < 0.1), "{waited} requests waited");
    }
    for (alone, (status, report)) in site.metrics(ALONE).await.iter().zip(site.readiness().await) {
        assert!(*alone >= 1.0 && status == 200 && report.contains("\"status\":\"degraded\""), "{alone} {report}");
    }
    assert_eq!(compared(&site.store().await).await, FREE, "guesses are the store's to count");
    login(&robber, "dan@example.org", PASSWORD).await.refused(401, "login_failed");
    bob.get_in(&["dan@example.org"]).await;

    blow.heal(&site, &mut redis);
    let ready = async { while site.readiness().await.iter().any(|(_, report)| report.contains("degraded")) {} };
    soon("Redis to be found again", ready).await;
    until_all_say(&site, false).await;
    let admitted = storms(&site, nodes, &eve.access, &stage).await;
    assert_eq!(admitted, SHARE, "together again");
    bob.is_served().await;
}
