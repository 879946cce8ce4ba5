//! The portal through its border, as the gate calls it: real store, real keys, real hashing; time is the test's own and
//! the store can be cut.

mod border;
mod cut;
mod lockout;
mod login;
mod logout;
mod me;
mod oauth;
mod published;
mod refresh;
mod register;

use std::{
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU32,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

use super::{border::Portal as Service, hash_pool::HashPool, state::PortalState};
use crate::{
    clock::{Clock, SystemClock, SystemEntropy, Tick, Timestamp},
    config::settings::{self, AdminApi, ApiKeys, Compat, Engine, Passwords, Portal, Registration, Tokens},
    gate::{
        body::GateBody,
        exchange::Exchange,
        keyring::Keyring,
        open_streams::{Forgiven, OpenStreams},
        references::References,
        refusal::{Detail, Refusal},
    },
    policy::{
        claims::Claims,
        ids::{SessionId, UserId},
        key_life::KeyRules,
        keys::{Algorithm, SigningKey},
        lockout::{AccountRules, AddressRules, DeviceRules, LockoutRules, Pace, PairRules, Rung},
        master_key::MasterKey,
        oauth_client::OAuthClient,
        password::PasswordRules,
        reason::Reason,
        refresh::{Delivery, RefreshRules},
        token::{self, Expectations},
    },
    store::{AuditEvent, SharedStore, memory::revocations::Revocations, sql},
    telemetry::metrics::Metrics,
};

const PASSWORD: &str = "kettle orbit walrus";
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
const CLIENT_ID: &str = "docs";
const CLIENT_SECRET: &str = "0123456789abcdef0123456789abcdef";
const START: Timestamp = Timestamp::from_seconds(1_800_000_000);

pub(crate) fn portal() -> Portal {
    Portal {
        admin_api: AdminApi::Admin,
        enabled: true,
        host: None,
        base_paths: vec!["/auth".into()],
        compat: Compat::None,
        registration: Registration::Open,
        default_role: "user".into(),
        limits: settings::Limiting::default(),
        cookie_name: "__Secure-refresh".into(),
        access_cookie_name: "__Host-access".into(),
        sets_access_cookie: false,
        allowed_origins: vec!["https://app.test".into()],
        api_keys: ApiKeys {
            max_per_user: 3,
            made_per_user: Pace { calls: NonZeroU32::new(30).unwrap(), period: Duration::from_hours(1) },
            max_life: None,
            scopes: vec!["docs:read".into()],
        },
    }
}

/// As the default is.
pub(crate) fn lockout() -> settings::Lockout {
    let count = |number| NonZeroU32::new(number).unwrap();
    let rung = |(accounts, minutes)| Rung { accounts: count(accounts), wait: Duration::from_mins(minutes) };
    settings::Lockout {
        enabled: true,
        rules: LockoutRules {
            pair: PairRules { free: count(5), waits: [1, 2, 4, 8, 15].map(Duration::from_mins).to_vec() },
            account: AccountRules {
                slow_after: count(20),
                slow_by: Duration::from_secs(1),
                slow_most: Duration::from_secs(30),
                hard_stop: count(100),
                forget_after: Duration::from_hours(90 * 24),
            },
            address: AddressRules {
                window: Duration::from_hours(24),
                ladder: [(7, 1), (10, 10), (15, 15), (20, 60), (25, 1_440)].map(rung).to_vec(),
            },
            device: DeviceRules { failures: count(10) },
            hold: Duration::from_mins(1),
        },
        device_cookie: "__Secure-device".into(),
        device_life: Duration::from_hours(180 * 24),
        registrations_by_address: Pace { calls: count(100), period: Duration::from_hours(1) },
        registrations_of_target: Pace { calls: count(10), period: Duration::from_hours(1) },
    }
}

/// Nearly the cheapest argon2id there is: what is tested is that it runs, not how long.
pub(crate) fn passwords() -> Passwords {
    let rules = PasswordRules { min_chars: 15, max_chars: 128, blocklist: true, context_words: Vec::new() };
    Passwords {
        rules,
        argon2_memory_kib: 16,
        argon2_iterations: 1,
        argon2_lanes: 1,
        hash_threads: 2,
        hash_queue: 16,
        hash_queue_per_address: 16,
    }
}

fn tokens() -> Tokens {
    Tokens {
        stream_grace: Duration::from_mins(1),
        issuer: "https://gw.test".into(),
        audience: "rag".into(),
        algorithm: Algorithm::Es256,
        secret: None,
        signing_keys: Vec::new(),
        rotation: KeyRules { every: None, publish_ahead: Duration::ZERO, verify_for: Duration::ZERO },
        access_ttl: Duration::from_mins(15),
        leeway: Duration::from_secs(30),
        refresh: RefreshRules {
            idle: Duration::from_hours(7 * 24),
            absolute: Duration::from_hours(30 * 24),
            grace: Duration::from_secs(10),
        },
        max_sessions: NonZeroU32::new(3),
        delivery: Delivery::Body,
        cache_entries: 16,
    }
}

async fn sqlite(folder: &Path) -> SharedStore {
    let engine = Engine::Sqlite { path: folder.join("portcullis.db") };
    let settings = settings::Store { engine, master_key: None, pool: 2, timeout: Duration::from_secs(5) };
    sql::open(&settings).await.unwrap()
}

/// Time that moves only when the test says so.
struct ManualClock(AtomicI64);

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Relaxed))
    }

    fn tick(&self) -> Tick {
        Tick::from_nanos(0)
    }
}

/// A portal and everything a test may want to move or look at.
struct Harness {
    service: Service,
    clock: Arc<ManualClock>,
    store: Arc<cut::Cuttable>,
    known: Arc<Revocations>,
    keyring: Arc<Keyring>,
    hash_pool: Arc<HashPool>,
    metrics: Arc<Metrics>,
    tokens: Tokens,
    _folder: TempDir,
}

impl Harness {
    async fn new() -> Self {
        Self::with(portal(), tokens(), passwords()).await
    }

    async fn with(portal: Portal, tokens: Tokens, passwords: Passwords) -> Self {
        let hash_pool = HashPool::new(&passwords, Arc::new(SystemEntropy), Arc::new(SystemClock::new())).unwrap();
        Self::with_pool(portal, tokens, hash_pool).await
    }

    async fn with_pool(portal: Portal, tokens: Tokens, hash_pool: HashPool) -> Self {
        Self::with_lockout(portal, tokens, hash_pool, lockout()).await
    }

    async fn with_lockout(portal: Portal, tokens: Tokens, hash_pool: HashPool, rules: settings::Lockout) -> Self {
        let clock = Arc::new(ManualClock(AtomicI64::new(START.micros())));
        let hash_pool = Arc::new(hash_pool);
        let entropy = Arc::new(SystemEntropy);
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(cut::Cuttable::new(sqlite(folder.path()).await));
        let known = Arc::new(Revocations::default());
        let metrics = Arc::new(Metrics::new());
        let pkcs8 = SigningKey::generate_pkcs8(tokens.algorithm).unwrap();
        let key = Arc::new(SigningKey::from_pkcs8(tokens.algorithm, pkcs8.expose_secret()).unwrap());
        let keyring = Arc::new(Keyring::new(key.clone(), Vec::new(), &[]));
        let service = Service::new(PortalState {
            portal,
            tokens: tokens.clone(),
            lockout: rules,
            lines: Arc::default(),
            quotas: Vec::new(),
            stuffing: None,
            stuffing_watch: Arc::new(crate::store::memory::stuffing::StuffingWatch::new(&SystemEntropy)),
            oauth: vec![OAuthClient::new(CLIENT_ID, CLIENT_SECRET.as_bytes())],
            store: store.clone(),
            keyring: keyring.clone(),
            master: Arc::new(MasterKey::new(&mut [9; 32])),
            known: known.clone(),
            told: Arc::new(|| {}),
            streams: Arc::new(OpenStreams::new(
                Box::new(|_| None),
                Forgiven { leeway: Duration::ZERO, grace: Duration::ZERO },
                metrics.clone(),
            )),
            references: Arc::new(References::new(entropy.clone(), clock.clone())),
            metrics: metrics.clone(),
            clock: clock.clone(),
            entropy,
            hash_pool: hash_pool.clone(),
        });
        Self { service, clock, store, known, keyring, hash_pool, metrics, tokens, _folder: folder }
    }

    fn advance(&self, by: Duration) {
        self.clock.0.fetch_add(i64::try_from(by.as_micros()).unwrap(), Relaxed);
    }

    /// As the gate calls it: with an exchange, and a principal that its authentication found.
    async fn ask(&self, ask: Ask) -> Result<Reply, Refusal> {
        let mut request = Request::new(ask.body.map_or(GateBody::Empty, GateBody::full));
        *request.method_mut() = ask.method.parse().unwrap();
        *request.uri_mut() = ask.path.parse().unwrap();
        *request.headers_mut() = ask.headers;
        let exchange = Exchange::for_test("r-1", CLIENT, ask.claims);
        let record = exchange.record().clone();
        request.extensions_mut().insert(exchange);
        let response = self.service.clone().oneshot(request).await?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let json = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
        let subject = record.subject().map(ToString::to_string);
        Ok(Reply { status: parts.status, headers: parts.headers, json, subject })
    }

    async fn ok(&self, ask: Ask) -> Reply {
        self.ask(ask).await.unwrap()
    }

    async fn refused(&self, ask: Ask) -> Reason {
        self.ask(ask).await.unwrap_err().reason
    }

    /// Registers ann and logs her in with this delivery.
    async fn ann(&self, delivery: &str) -> Reply {
        let body = json!({"email": "ann@example.org", "password": PASSWORD, "username": "ann", "delivery": delivery});
        self.ok(Ask::post("/auth/register").json(&body)).await
    }

    /// What the gate would make of an access token now; its signature checked by the published keys.
    fn verified(&self, access_token: &str) -> Arc<Claims> {
        let claims = token::verify(access_token, &self.keyring.access_keys()).unwrap().claims;
        let expect = Expectations {
            issuer: &self.tokens.issuer,
            audiences: std::slice::from_ref(&self.tokens.audience),
            leeway: self.tokens.leeway,
        };
        token::admit(&claims, &expect, self.clock.now()).unwrap();
        claims
    }

    async fn audited(&self, user: &str) -> Vec<AuditEvent> {
        let rows = (self.store.clone() as SharedStore).audit_of(user.parse::<UserId>().unwrap(), 100).await.unwrap();
        assert!(
            rows.iter()
                .all(|row| row.address.as_deref() == Some("192.0.2.7") && row.request_id.as_deref() == Some("r-1"))
        );
        rows.into_iter().map(|row| AuditEvent::named(&row.event).unwrap()).collect()
    }

    /// Asks, as far as that comes without waiting (the store is asked), and drops the request.
    async fn hung_up(&self, ask: Ask) {
        let asking = self.ask(ask);
        tokio::pin!(asking);
        assert!(futures_util::poll!(asking.as_mut()).is_pending());
    }

    /// Waits until the session is known here to have ended.
    async fn ends(&self, sid: SessionId) {
        let ended = async {
            while !self.is_ended(sid) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), ended).await.unwrap();
    }

    fn is_ended(&self, sid: SessionId) -> bool {
        self.known.ended(sid)
    }
}

/// A request.
struct Ask {
    method: &'static str,
    path: String,
    headers: HeaderMap,
    body: Option<String>,
    claims: Option<Arc<Claims>>,
}

impl Ask {
    fn new(method: &'static str, path: &str) -> Self {
        Self { method, path: path.to_owned(), headers: HeaderMap::new(), body: None, claims: None }
    }

    fn post(path: &str) -> Self {
        Self::new("POST", path)
    }

    fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    fn json(self, body: &Value) -> Self {
        self.raw("application/json", &body.to_string())
    }

    fn raw(mut self, media_type: &str, body: &str) -> Self {
        self.body = Some(body.to_owned());
        self.header(header::CONTENT_TYPE.as_str(), media_type)
    }

    fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.append(name.parse::<header::HeaderName>().unwrap(), value.parse().unwrap());
        self
    }

    /// The refresh cookie an earlier answer set, sent by a page of our own.
    fn cookie_of(self, reply: &Reply) -> Self {
        self.foreign_cookie_of(reply).header("sec-fetch-site", "same-origin")
    }

    /// The same, sent by nobody knows whom.
    fn foreign_cookie_of(self, reply: &Reply) -> Self {
        let cookie = reply.set_cookie();
        let pair = cookie.split(';').next().unwrap().to_owned();
        self.header("cookie", &pair)
    }

    fn by(mut self, claims: &Arc<Claims>) -> Self {
        self.claims = Some(Arc::clone(claims));
        self
    }
}

/// An answer.
#[derive(Debug)]
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    json: Value,
    subject: Option<String>,
}

impl Reply {
    fn access(&self) -> &str {
        self.json["access_token"].as_str().unwrap()
    }

    fn refresh(&self) -> &str {
        self.json["refresh_token"].as_str().unwrap()
    }

    fn user_id(&self) -> &str {
        self.json["user"]["id"].as_str().unwrap()
    }

    fn set_cookie(&self) -> &str {
        self.headers[header::SET_COOKIE].to_str().unwrap()
    }

    fn cache_control(&self) -> &str {
        self.headers[header::CACHE_CONTROL].to_str().unwrap()
    }
}

/// The fields a refusal names.
fn fields_of(refusal: Refusal) -> Vec<String> {
    assert_eq!(refusal.reason, Reason::Validation);
    let Some(Detail::Fields(faults)) = refusal.detail.map(|detail| *detail) else { panic!("no fields") };
    faults.into_iter().map(|fault| fault.field).collect()
}
