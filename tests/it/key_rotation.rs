//! Signing keys change while the gateway runs: published before they sign, good as long as their tokens, gone at once
//! when they are retired.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{decode_header, jwk::JwkSet};
use portcullis::{
    cli::keys::{Keys, Store},
    store::KeyState,
};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

use crate::{
    harness::{
        client::Client,
        gateway::{Engine, Gateway, ISSUER, Setup, standard},
        gateways::{Deployment, Gateways},
        identity::{published, verify, verify_by},
        soon,
        upstream::Upstream,
    },
    support::postgres::{Cluster, cluster},
};

on_every_deployment!(
    rotating_under_load_yields_not_one_401_and_no_identity_that_a_key_set_from_before_does_not_verify,
    a_retired_key_is_gone_at_once_and_a_refresh_goes_on,
    a_key_is_followed_on_schedule_through_restarts,
    a_key_that_does_not_sign_yet_is_retired_and_nobody_notices,
);

fn at() -> Store {
    Store { config: PathBuf::new(), json: true }
}

fn rotate(now: bool) -> Keys {
    Keys::Rotate { at: at(), now }
}

fn retire(kid: &str) -> Keys {
    Keys::Retire { at: at(), kid: kid.to_owned() }
}

/// The names of the keys in this state.
fn in_state(keys: &Value, state: KeyState) -> Vec<String> {
    let keys = keys["keys"].as_array().unwrap().iter().filter(|key| key["state"] == state.as_str());
    keys.map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

fn kids(keys: &JwkSet) -> Vec<String> {
    keys.keys.iter().map(|key| key.common.key_id.clone().unwrap()).collect()
}

pub(crate) fn kid_of(token: &str) -> String {
    decode_header(token).unwrap().kid.unwrap()
}

/// The standard routes, keys that change as `rotation` says, and no limits.
fn with(rotation: &str, upstream: &Upstream) -> String {
    let tokens = format!("{{issuer: \"{ISSUER}\", audience: gw-test, rotation: {rotation}}}");
    format!("tokens: {tokens}\nportal: {{enabled: true}}\n{}", standard(upstream))
}

impl Gateways {
    async fn listed(&self) -> Value {
        self.all[0].keys(&Keys::List { at: at() }).await.unwrap()
    }

    /// What each publishes.
    async fn key_sets(&self) -> Vec<JwkSet> {
        let mut sets = Vec::new();
        for gateway in &self.all {
            sets.push(published(&gateway.client()).await);
        }
        sets
    }

    /// Waits until each holds so many keys of a state.
    async fn hold(&self, state: KeyState, count: u8) {
        let line = format!("portcullis_signing_keys{{state=\"{state}\"}}");
        for gateway in &self.all {
            let held = async { while (gateway.metric(&line).await - f64::from(count)).abs() > 0.1 {} };
            soon(&format!("{count} keys to be {state}"), held).await;
        }
    }
}

/// Clients that ask and refresh without a pause.
struct Load {
    clients: JoinSet<()>,
    rounds: Arc<[AtomicUsize]>,
    over: Arc<AtomicBool>,
}

impl Load {
    async fn start(client: &Client) -> Self {
        let (mut clients, over) = (JoinSet::new(), Arc::<AtomicBool>::default());
        let rounds: Arc<[AtomicUsize]> = (0..6).map(|_| AtomicUsize::new(0)).collect();
        for place in 0..rounds.len() {
            let (client, rounds, over) = (client.clone(), Arc::clone(&rounds), Arc::clone(&over));
            let mut tokens = client.register(&format!("user-{place}@example.org")).await;
            clients.spawn(async move {
                while !over.load(Relaxed) {
                    for path in ["/ask/a", "/open/a", "/ask/b", "/ask/c"] {
                        client.get(path).bearer(&tokens.access).send().await.expect(200);
                    }
                    tokens = client.refreshed(&tokens.refresh).await;
                    rounds[place].fetch_add(1, Relaxed);
                }
            });
        }
        Self { clients, rounds, over }
    }

    /// Waits until each client has gone through everything anew.
    async fn goes_on(&mut self) {
        let before: Vec<_> = self.rounds.iter().map(|rounds| rounds.load(Relaxed)).collect();
        let all = async {
            while self.rounds.iter().zip(&before).any(|(rounds, before)| rounds.load(Relaxed) < before + 2) {
                // One that was refused has panicked: told at once, not after a time-out.
                match self.clients.try_join_next() {
                    Some(ended) => ended.unwrap(),
                    None => tokio::task::yield_now().await,
                }
            }
        };
        soon("every client to ask and refresh", all).await;
    }

    async fn stop(mut self) {
        self.over.store(true, Relaxed);
        while let Some(ended) = soon("a client to end", self.clients.join_next()).await {
            ended.unwrap();
        }
    }
}

async fn rotating_under_load_yields_not_one_401_and_no_identity_that_a_key_set_from_before_does_not_verify(
    deployment: Deployment,
) {
    let upstream = Upstream::start().await;
    let gateway = Gateways::start(deployment, &with("{every: never, publish_ahead: 6m}", &upstream)).await;
    let client = gateway.client();
    let first = in_state(&gateway.listed().await, KeyState::Current).remove(0);
    let mut load = Load::start(&client).await;
    load.goes_on().await;

    // In its time.
    let keys = gateway.all[0].keys(&rotate(false)).await.unwrap();
    let second = in_state(&keys, KeyState::Next).remove(0);
    gateway.hold(KeyState::Next, 1).await;
    load.goes_on().await;
    let known = gateway.key_sets().await;
    assert!(known.iter().all(|set| kids(set).len() == 2 && set.find(&second).is_some()), "published at once");
    assert!(upstream.received().iter().all(|request| kid_of(identity(request)) == first), "it signs only later");
    gateway.clock.advance(Duration::from_mins(6));
    gateway.hold(KeyState::Previous, 1).await;
    load.goes_on().await;

    // At once: as soon as every gateway has it.
    let now = async {
        let keys = gateway.all[0].keys(&rotate(true)).await.unwrap();
        in_state(&keys, KeyState::Current).remove(0)
    };
    let meanwhile = async {
        gateway.hold(KeyState::Next, 1).await;
        load.goes_on().await;
        let known = gateway.key_sets().await;
        gateway.clock.advance(Duration::from_secs(5));
        known
    };
    let (third, later) = tokio::join!(now, meanwhile);
    gateway.hold(KeyState::Previous, 2).await;
    load.goes_on().await;

    // Until their last tokens are over.
    gateway.clock.advance(Duration::from_mins(10));
    load.goes_on().await;
    gateway.clock.advance(Duration::from_mins(11));
    gateway.hold(KeyState::Previous, 0).await;
    load.goes_on().await;
    load.stop().await;
    let kids_now = gateway.key_sets().await;
    assert!(kids_now.iter().all(|set| kids(set) == [third.as_str()]), "the others are gone");

    let mut seen = Vec::new();
    for request in upstream.received() {
        let token = identity(&request);
        let kid = kid_of(token);
        let sets = if kid == third { &later } else { &known };
        for set in sets {
            verify_by(set, token, "gw-id+jwt", ISSUER, "rag").unwrap();
        }
        if !seen.contains(&kid) {
            seen.push(kid);
        }
    }
    assert_eq!(seen, [first, second, third]);
}

fn identity(request: &crate::harness::upstream::Received) -> &str {
    request.head.header("x-gateway-identity").expect("an identity")
}

async fn a_retired_key_is_gone_at_once_and_a_refresh_goes_on(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateway = Gateways::start(deployment, &with("{every: never}", &upstream)).await;
    let client = gateway.client();
    let leaked = in_state(&gateway.listed().await, KeyState::Current).remove(0);
    let session = client.register("ann@example.org").await;
    // In the cache of verified tokens, with its identity, at each of them.
    for one in &gateway.all {
        assert_eq!(one.client().status("/ask/a", &session.access).await, 200);
    }

    let keys = gateway.all[0].keys(&retire(&leaked)).await.unwrap();
    let current = in_state(&keys, KeyState::Current).remove(0);
    assert_ne!(current, leaked);
    gateway.know_the_keys().await;
    for one in &gateway.all {
        one.client().get("/ask/a").bearer(&session.access).send().await.refused(401, "invalid_token");
        assert_eq!(kids(&published(&one.client()).await), [current.as_str()]);
    }
    let next = client.refreshed(&session.refresh).await;
    assert_eq!(kid_of(&next.access), current);
    for one in &gateway.all {
        // The anonymous one was kept too.
        for (path, access) in [("/ask/a", &next.access), ("/open/a", &next.access)] {
            assert_eq!(one.client().status(path, access).await, 200);
            let told = identity(&upstream.last()).to_owned();
            assert_eq!(kid_of(&told), current);
            verify(&one.client(), &told, ISSUER, "rag").await.unwrap();
        }
    }
    let unknown = gateway.all[0].keys(&retire(&leaked)).await.unwrap_err().to_string();
    assert!(unknown.contains(&leaked) && unknown.contains("keys list"), "{unknown}");
}

async fn a_key_that_does_not_sign_yet_is_retired_and_nobody_notices(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateway = Gateways::start(deployment, &with("{every: never}", &upstream)).await;
    let client = gateway.client();
    let session = client.register("ann@example.org").await;
    let next = in_state(&gateway.all[0].keys(&rotate(false)).await.unwrap(), KeyState::Next).remove(0);
    gateway.hold(KeyState::Next, 1).await;
    gateway.all[0].keys(&retire(&next)).await.unwrap();
    gateway.hold(KeyState::Next, 0).await;
    assert_eq!(client.status("/ask/a", &session.access).await, 200);
    // With a next one at hand, that is what signs in the place of one that is retired.
    let next = in_state(&gateway.all[0].keys(&rotate(false)).await.unwrap(), KeyState::Next).remove(0);
    let current = kid_of(&session.access);
    let keys = gateway.all[0].keys(&retire(&current)).await.unwrap();
    assert_eq!((in_state(&keys, KeyState::Current), in_state(&keys, KeyState::Next)), (vec![next], vec![]));
}

async fn a_key_is_followed_on_schedule_through_restarts(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let mut gateway = Gateways::start(deployment, &with("{every: 1d, publish_ahead: 1h}", &upstream)).await;
    let first = in_state(&gateway.listed().await, KeyState::Current).remove(0);
    gateway.clock.advance(Duration::from_hours(23));
    gateway.hold(KeyState::Next, 1).await;
    gateway.restart().await;
    gateway.know_the_keys().await;
    let keys = gateway.listed().await;
    let second = in_state(&keys, KeyState::Next);
    assert_eq!((second.len(), in_state(&keys, KeyState::Current)), (1, vec![first.clone()]), "one, by one of them");
    let session = gateway.client().register("ann@example.org").await;
    assert_eq!(kid_of(&session.access), first);

    gateway.clock.advance(Duration::from_hours(1));
    let session = gateway.client().refreshed(&session.refresh).await;
    gateway.hold(KeyState::Previous, 1).await;
    gateway.restart().await;
    let keys = gateway.listed().await;
    assert_eq!(in_state(&keys, KeyState::Current), second);
    assert_eq!(in_state(&keys, KeyState::Previous), [first.as_str()]);
    for one in &gateway.all {
        // Signed by whichever was current when it was issued.
        assert_eq!(one.client().status("/ask/a", &session.access).await, 200);
        let next = one.client().login("ann@example.org").await;
        assert_eq!(kid_of(&next.access), second[0]);
    }

    gateway.clock.advance(Duration::from_secs(20 * 60 + 30));
    gateway.hold(KeyState::Previous, 0).await;
    assert!(gateway.key_sets().await.iter().all(|set| kids(set) == second), "{first} is gone");
}

#[tokio::test]
async fn every_algorithm_in_use_rotates_and_the_secret_does_not() {
    let upstream = Upstream::start().await;
    let yaml = format!(
        "tokens: {{issuer: \"{ISSUER}\", audience: gw-test, algorithm: HS256, secret: {{env: TOKEN_SECRET}}, \
         rotation: {{every: never, publish_ahead: 6m}}}}\n\
         clusters: {{rag: {{endpoints: [\"{url}\"], identity: {{preset: cloudflare_access}}}}}}\n\
         routes:\n  - {{name: ask, match: {{path: \"/ask/{{*rest}}\"}}, cluster: rag}}\n",
        url = upstream.url()
    );
    let secret = "a secret of thirty-two bytes or more";
    let deployment = Deployment::One(Engine::Sqlite);
    let gateway = Gateways::start_with(deployment, &yaml, |setup| setup.variable("TOKEN_SECRET", secret)).await;
    let session = gateway.client().register("ann@example.org").await;
    let keys = gateway.all[0].keys(&rotate(false)).await.unwrap();
    let mut algorithms: Vec<_> =
        keys["keys"].as_array().unwrap().iter().map(|key| (key["algorithm"].as_str(), key["state"].as_str())).collect();
    algorithms.sort_unstable();
    let both = ["ES256", "RS256"].map(|algorithm| ["current", "next"].map(|state| (Some(algorithm), Some(state))));
    assert_eq!(algorithms, both.concat());
    gateway.clock.advance(Duration::from_mins(6));
    gateway.hold(KeyState::Previous, 2).await;
    assert_eq!(gateway.client().status("/ask/a", &session.access).await, 200, "the secret is as it was");
    verify(&gateway.client(), identity(&upstream.last()), ISSUER, "rag").await.unwrap();
}

/// The store, on a database of its own.
const STORE: &str = "store: {url: \"${STORE_URL}\", master_key: \"${MASTER_KEY}\", pool: 3, timeout: 500ms}\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_does_not_open_keeps_no_retired_key_alive() {
    let (upstream, database) = (Upstream::start().await, cluster().create_database());
    let yaml = STORE.to_owned() + &with("{every: never}", &upstream);
    let gateway: Gateway = Setup::new(Engine::Sqlite, &yaml).on(&database.url).start().await;
    let client = gateway.client();
    let session = client.register("ann@example.org").await;
    assert_eq!(client.status("/ask/a", &session.access).await, 200);
    let damaged = "INSERT INTO signing_keys (kid, algorithm, state, sealed_pkcs8, created_at, verifies_until) \
                   SELECT 'damaged', algorithm, 'previous', '\\x00', created_at, created_at + interval '1 year' \
                   FROM signing_keys";
    sqlx::raw_sql(damaged).execute(&mut PgConnection::connect(&database.url).await.unwrap()).await.unwrap();
    let failed = "portcullis_signing_key_reads_total{result=\"failed\"}";
    soon("a reading to tell of it", async { while gateway.metric(failed).await < 0.5 {} }).await;
    gateway.keys(&retire(&kid_of(&session.access))).await.unwrap();
    let gone = async { while client.status("/ask/a", &session.access).await != 401 {} };
    soon("the retired key to be gone", gone).await;
    let next = client.refreshed(&session.refresh).await;
    assert_eq!(client.status("/ask/a", &next.access).await, 200);
    let told = gateway.keys(&rotate(false)).await.unwrap_err().to_string();
    assert!(told.contains("signing key damaged cannot be unsealed"), "{told}");
    gateway.keys(&retire("damaged")).await.unwrap();
    gateway.keys(&rotate(false)).await.unwrap();
}

/// The others may have made it, and sign with it, while this one was cut off from the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_keys_cannot_be_read_one_that_is_not_known_is_not_the_client_s_fault() {
    let mut cluster = Cluster::private();
    let (upstream, database) = (Upstream::start().await, cluster.create_database());
    let yaml = STORE.to_owned() + &with("{every: never}", &upstream);
    let gateway: Gateway = Setup::new(Engine::Sqlite, &yaml).on(&database.url).start().await;
    let client = gateway.client();
    let session = client.register("ann@example.org").await;
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","typ":"at+jwt","kid":"made-since"}"#);
    let (_, rest) = session.access.split_once('.').unwrap();
    let unknown = format!("{header}.{rest}");
    client.get("/ask/a").bearer(&unknown).send().await.refused(401, "invalid_token");
    cluster.stop();
    let cut_off = async { while client.status("/ask/a", &unknown).await != 503 {} };
    soon("it to be noticed", cut_off).await;
    client.get("/ask/a").bearer(&unknown).send().await.refused(503, "store_unavailable");
    assert_eq!(client.status("/ask/a", &session.access).await, 200);
    let forged = format!("{}x", session.access);
    client.get("/ask/a").bearer(&forged).send().await.refused(401, "invalid_token");
    cluster.start();
    let well = async { while client.status("/ask/a", &unknown).await != 401 {} };
    soon("the keys to be read again", well).await;
}
