//! The pipeline as a whole, without sockets: the order of its layers, told by which of two faults answers.
//!
//! Each test sends a request that two layers would refuse and sees which does. Swap two lines in `stack` and the test
//! that names what was lost goes red.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use futures_util::future::{Ready, ready};
use http::{Request, Response, StatusCode, request::Builder};
use http_body_util::BodyExt;
use secrecy::ExposeSecret;
use tower::{Service, ServiceExt};

use crate::{
    app,
    clock::{Clock, Entropy, SystemEntropy, Tick, Timestamp},
    config::{self, Source},
    edge::Connection,
    gate::{
        admission::{Admission, Load},
        authenticate::Authenticate,
        authorise::Authorise,
        bad_tokens::BadTokens,
        body::GateBody,
        charge::SubjectLimit,
        exchange::Exchange,
        finish::RequestLog,
        floods::Floods,
        identity::{Identity, X_GATEWAY_IDENTITY},
        keyring::Keyring,
        limits::AddressPeek,
        observe::Observer,
        references::References,
        refusal::Refusal,
        stack::{Layers, pipeline},
        token_cache::TokenCache,
    },
    policy::{
        claims::Claims,
        ids::SessionId,
        keys::{Algorithm, SigningKey},
        mint,
    },
    store::{
        feed::News,
        memory::{ended_sessions::Expiry, revocations::Revocations},
    },
    telemetry::metrics::Metrics,
    upstream::cluster::Cluster,
};

const CONFIG: &str = r#"
tokens: { issuer: "https://gate.invalid", audience: gate }
limits:
  narrow: { by: subject, rate: "1/m", burst: 2 }
  wide: { by: address, rate: "1/m", burst: 3 }
clusters:
  rag: { endpoints: ["http://127.0.0.1:9"] }
routes:
  - { name: open, match: { path: "/open/{*rest}" }, auth: none, cluster: rag }
  - { name: ask, match: { path: "/ask/{*rest}" }, limits: [narrow, wide], cluster: rag }
  - { name: admins, match: { path: "/admins", methods: [POST] }, roles: [admin], cluster: rag, body_limit: 10B }
"#;

#[derive(Debug)]
struct Frozen(AtomicU64);

impl Clock for Frozen {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(1_800_000_000).plus(std::time::Duration::from_nanos(self.0.load(Ordering::Relaxed)))
    }

    fn tick(&self) -> Tick {
        Tick::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// Stands for the upstream: counts, and answers with the identity it was sent.
#[derive(Clone)]
struct Terminal(Arc<AtomicUsize>);

impl Service<Request<GateBody>> for Terminal {
    type Response = Response<GateBody>;
    type Error = Refusal;
    type Future = Ready<Result<Response<GateBody>, Refusal>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<GateBody>) -> Self::Future {
        self.0.fetch_add(1, Ordering::Relaxed);
        let permitted = Exchange::of(&request).and_then(|exchange| exchange.authorised().map(|_| ()));
        let identity = request.headers().get(X_GATEWAY_IDENTITY).map(|token| token.as_bytes().to_vec());
        ready(permitted.map(|()| Response::new(GateBody::full(identity.unwrap_or_default()))))
    }
}

struct Gate {
    layers: Layers,
    key: Arc<SigningKey>,
    clock: Arc<Frozen>,
    known: Arc<Revocations>,
    reached: Arc<AtomicUsize>,
}

struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn code(&self) -> String {
        let document: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        document["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Gate {
    async fn new() -> Self {
        let source = Source { name: "gate.yaml", text: CONFIG, base_dir: std::path::Path::new("/nonexistent") };
        let settings = config::parse(&source, &HashMap::new()).unwrap();
        let metrics = Arc::new(Metrics::new());
        let mut clusters = Vec::new();
        for cluster in &settings.clusters {
            clusters.push(Arc::new(Cluster::start(Arc::clone(cluster), &metrics).await));
        }
        let snapshot = app::snapshot(&settings, &clusters, &[], &metrics).unwrap();
        let pkcs8 = SigningKey::generate_pkcs8(Algorithm::Es256).unwrap();
        let key = Arc::new(SigningKey::from_pkcs8(Algorithm::Es256, pkcs8.expose_secret()).unwrap());
        let keyring = Arc::new(Keyring::new(Arc::clone(&key), Vec::new(), &[]));
        let clock = Arc::new(Frozen(AtomicU64::new(1)));
        let known = Arc::new(Revocations::default());
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
        let flood = &settings.listeners.public.flood;
        let time = Arc::clone(&clock) as Arc<dyn Clock>;
        let floods = Arc::new(Floods::new(flood, Arc::clone(&snapshot), time, Arc::clone(&metrics)));
        let layers = Layers {
            observer: Arc::new(Observer {
                door: crate::gate::exchange::Door::Public,
                snapshot,
                unrouted: metrics.route("-"),
                metrics: Arc::clone(&metrics),
                clock: Arc::clone(&clock) as Arc<dyn Clock>,
                entropy: Arc::new(SystemEntropy),
                log: RequestLog::default(),
                traces: None,
            }),
            floods,
            address_peek: AddressPeek,
            authenticate: Authenticate::new(
                Arc::clone(&keyring),
                (TokenCache::new(100), BadTokens::new(flood, Arc::clone(&metrics))),
                Arc::clone(&known),
                tokio::sync::mpsc::channel(1).0,
                Arc::clone(&metrics),
                None,
            ),
            admission: Admission(Arc::new(Load::new(settings.overload.max_in_flight, Arc::clone(&metrics)))),
            authorise: Authorise::new(tokio::sync::mpsc::channel(1).0, metrics),
            subject_limit: SubjectLimit,
            identity: Identity::new(
                keyring,
                Arc::new(References::new(Arc::new(SystemEntropy), Arc::clone(&clock) as Arc<dyn Clock>)),
            ),
        };
        Self { layers, key, clock, known, reached: Arc::new(AtomicUsize::new(0)) }
    }

    fn claims(&self, subject: &str) -> Claims {
        let now = self.clock.now().seconds();
        Claims {
            issuer: "https://gate.invalid".into(),
            subject: subject.into(),
            audience: vec!["gate".into()],
            expires: now + 900,
            not_before: None,
            issued: now,
            token_id: "t".into(),
            session: Some(SessionId(SystemEntropy.uuid_v7(self.clock.now()))),
            client_id: None,
            roles: vec!["user".into()],
            scopes: Vec::new(),
            org: None,
            authorization_version: 1,
            generation: 1,
            email: None,
            email_verified: false,
            methods: Vec::new(),
            auth_time: None,
        }
    }

    fn bearer(&self, claims: &Claims) -> String {
        format!("Bearer {}", mint::access_token(&self.key, claims).unwrap().expose_secret())
    }

    async fn send(&self, request: Builder) -> Answer {
        self.send_from([192, 0, 2, 1], request.body(GateBody::Empty).unwrap()).await
    }

    async fn send_from(&self, peer: [u8; 4], mut request: Request<GateBody>) -> Answer {
        request.extensions_mut().insert(Connection { peer: SocketAddr::from((peer, 40_000)), tls: false });
        let gate = pipeline(self.layers.clone(), Terminal(Arc::clone(&self.reached)));
        let response: Result<_, Infallible> = gate.oneshot(request).await;
        let (parts, body) = response.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    fn reached(&self) -> usize {
        self.reached.load(Ordering::Relaxed)
    }
}

fn get(path: &str) -> Builder {
    Request::get(path).header("host", "gate.invalid")
}

#[tokio::test]
async fn even_a_refusal_before_every_other_layer_has_a_request_id() {
    let gate = Gate::new().await;
    let answer = gate.send(get("/ask/../x")).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_REQUEST, "path_invalid"));
    assert!(answer.headers.contains_key("x-request-id"));
}

#[tokio::test]
async fn hygiene_comes_before_routing() {
    let gate = Gate::new().await;
    // No route there either; were routing first, this would be 404.
    assert_eq!(gate.send(get("/nowhere/%2e%2e/x")).await.code(), "path_invalid");
}

#[tokio::test]
async fn what_no_route_names_is_closed_even_with_a_good_token() {
    let gate = Gate::new().await;
    let bearer = gate.bearer(&gate.claims("ada"));
    assert_eq!(gate.send(get("/nowhere").header("authorization", bearer)).await.status, StatusCode::NOT_FOUND);
    assert_eq!(gate.reached(), 0);
}

#[tokio::test]
async fn a_flood_is_refused_before_its_tokens_are_looked_at() {
    let gate = Gate::new().await;
    let garbage = || get("/ask/x").header("authorization", "Bearer garbage");
    for _ in 0..3 {
        assert_eq!(gate.send(garbage()).await.code(), "invalid_token");
    }
    // The failed tries used the address up; were authentication first, this would still be 401.
    assert_eq!(gate.send(garbage()).await.status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn a_client_over_its_own_limit_drains_nobody_elses() {
    let gate = Gate::new().await;
    let (ada, bob) = (gate.bearer(&gate.claims("ada")), gate.bearer(&gate.claims("bob")));
    for expected in [200, 200, 429, 429, 429] {
        assert_eq!(gate.send(get("/ask/x").header("authorization", &ada)).await.status, expected);
    }
    // Ada's refused requests cost the shared address nothing: one of its three is left.
    assert_eq!(gate.send(get("/ask/x").header("authorization", &bob)).await.status, 200);
    let answer = gate.send(get("/ask/x").header("authorization", &bob)).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(answer.headers.contains_key("retry-after") && answer.headers.contains_key("ratelimit"));
}

#[tokio::test]
async fn a_missing_role_is_told_before_a_body_is_judged() {
    let gate = Gate::new().await;
    let bearer = gate.bearer(&gate.claims("ada"));
    let request = Request::post("/admins").header("host", "gate.invalid").header("authorization", bearer);
    let request = request.header("content-length", "1000").body(GateBody::full(vec![0; 1000])).unwrap();
    // Were the body limit first, this would be 413.
    assert_eq!(gate.send_from([192, 0, 2, 1], request).await.code(), "role_missing");
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_unread_and_closes_the_connection() {
    let gate = Gate::new().await;
    let mut claims = gate.claims("root");
    claims.roles = vec!["admin".into()];
    let request = Request::post("/admins").header("host", "gate.invalid").header("authorization", gate.bearer(&claims));
    let request = request.header("content-length", "11").body(GateBody::full(vec![0; 11])).unwrap();
    let answer = gate.send_from([192, 0, 2, 1], request).await;
    assert_eq!(
        (answer.status, answer.headers["connection"].as_bytes()),
        (StatusCode::PAYLOAD_TOO_LARGE, &b"close"[..])
    );
    assert_eq!(gate.reached(), 0);
}

#[tokio::test]
async fn an_ended_session_is_refused_at_once_although_its_token_is_cached() {
    let gate = Gate::new().await;
    let claims = gate.claims("ada");
    let bearer = gate.bearer(&claims);
    assert_eq!(gate.send(get("/ask/x").header("authorization", &bearer)).await.status, 200);
    let life = std::time::Duration::from_mins(15);
    let until = Expiry { at: gate.clock.now().plus(life), tick: gate.clock.tick().plus(life) };
    gate.known.learn(&News::Session(claims.session.unwrap()), until);
    assert_eq!(gate.send(get("/ask/x").header("authorization", &bearer)).await.code(), "invalid_token");
}

#[tokio::test]
async fn a_cached_token_still_expires() {
    let gate = Gate::new().await;
    let mut claims = gate.claims("ada");
    claims.expires = gate.clock.now().seconds() + 5;
    let bearer = gate.bearer(&claims);
    assert_eq!(gate.send(get("/ask/x").header("authorization", &bearer)).await.status, 200);
    gate.clock.0.store(36_000_000_000, Ordering::Relaxed);
    assert_eq!(gate.send(get("/ask/x").header("authorization", &bearer)).await.code(), "invalid_token");
}

#[tokio::test]
async fn every_bad_token_has_one_body() {
    let gate = Gate::new().await;
    let mut other = gate.claims("ada");
    other.audience = vec!["elsewhere".into()];
    let mut expired = gate.claims("ada");
    expired.expires -= 10_000;
    let strip_ids = |answer: &Answer| {
        let mut document: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        document["request_id"] = serde_json::Value::Null;
        document["instance"] = serde_json::Value::Null;
        document
    };
    let mut bodies = Vec::new();
    for (nth, bearer) in [gate.bearer(&other), gate.bearer(&expired), "Bearer a.b.c".to_owned()].iter().enumerate() {
        let request = get("/ask/x").header("authorization", bearer).body(GateBody::Empty).unwrap();
        bodies.push(strip_ids(&gate.send_from([198, 51, 100, u8::try_from(nth).unwrap()], request).await));
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
}

#[tokio::test]
async fn an_anonymous_request_carries_a_signed_identity_that_says_so_and_no_spoofed_one() {
    let gate = Gate::new().await;
    let answer = gate.send(get("/open/x").header("x-gateway-identity", "spoofed").header("x-user-id", "root")).await;
    let token = String::from_utf8(answer.body).unwrap();
    let payload = token.split('.').nth(1).expect("a signed token, not the spoofed one").to_owned();
    let payload = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, payload).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(
        (claims["anonymous"].as_bool(), claims.get("sub"), claims["aud"].as_str()),
        (Some(true), None, Some("rag"))
    );
}
