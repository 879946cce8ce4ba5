//! What the pipeline costs per request, without sockets: every layer on, before a service that answers at once.
//!
//! Read the rows against each other, not as times: `open` is what any request pays, each other row of `layers` adds what
//! it names. `own` and `issuer` are the whole pipeline with a token signed by each algorithm, known and new; `routes` is
//! the whole with ten routes and with ten thousand; `floods` is what is refused, and how much sooner than a token whose
//! signature is looked at. Run with `cargo bench --bench gate`.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot set up has nothing to report")]

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt::Write as _,
    future::{Ready, ready},
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use criterion::{BatchSize, BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use http::{Request, Response};
use portcullis::{
    app::Rim,
    config::{
        self, Source,
        settings::{self, IssuerKeys},
    },
    gate::{
        admission::{Admission, Load},
        authenticate::Authenticate,
        authorise::Authorise,
        bad_tokens::BadTokens,
        body::GateBody,
        charge::SubjectLimit,
        finish::RequestLog,
        floods::Floods,
        identity::Identity,
        keyring::Keyring,
        limits::AddressPeek,
        observe::Observer,
        references::References,
        refusal::Refusal,
        snapshot::Snapshot,
        stack::{Layers, pipeline},
        token_cache::TokenCache,
    },
    policy::{
        claims::Claims,
        keys::{Algorithm, KeySet, SigningKey},
        mint,
    },
    store::memory::revocations::Revocations,
    telemetry::metrics::Metrics,
    upstream::{cluster::Cluster, issuers::Issuer},
};
use secrecy::ExposeSecret;
use serde_json::json;
use tower::Service;

const CONFIG: &str = r#"
tokens: { issuer: "https://bench.invalid", audience: bench }
listeners: { public: { flood: { bad_requests: 10, failed_tokens: none } } }
limits:
  per_user: { by: subject, rate: "1000000000/s" }
  per_address: { by: address, rate: "1000000000/s" }
clusters:
  rag: { endpoints: ["http://127.0.0.1:9"] }
  bound: { endpoints: ["http://127.0.0.1:9"], identity: { bind: request } }
  bound_hs256:
    endpoints: ["http://127.0.0.1:9"]
    identity: { bind: request, algorithm: HS256, secret: "${SECRET}" }
routes:
  - { name: open, match: { path: "/open/{*rest}" }, auth: none, cluster: rag }
  - { name: address, match: { path: "/address/{*rest}" }, auth: none, limits: [per_address], cluster: rag }
  - { name: token, match: { path: "/token/{*rest}" }, cluster: rag }
  - { name: ask, match: { path: "/ask/{*rest}" }, limits: [per_user, per_address], cluster: rag }
  - { name: cookie, match: { path: "/cookie/{*rest}" }, credentials: [bearer, cookie], limits: [per_user, per_address], cluster: rag }
  - { name: cors, match: { path: "/cors/{*rest}" }, allowed_origins: ["https://app.example"], limits: [per_user, per_address], cluster: rag }
  - { name: bound, match: { path: "/bound/{*rest}" }, limits: [per_user, per_address], cluster: bound }
  - { name: bound-hs256, match: { path: "/bound-hs256/{*rest}" }, limits: [per_user, per_address], cluster: bound_hs256 }
"#;

/// Our own tokens may be signed so.
const OWN: [Algorithm; 4] = [Algorithm::Es256, Algorithm::EdDsa, Algorithm::Rs256, Algorithm::Hs256];
/// Other issuers' so.
const THEIRS: [Algorithm; 6] =
    [Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa, Algorithm::Rs256, Algorithm::Ps256, Algorithm::Hs256];

/// The whole file: with an issuer for each algorithm, and `more` routes than those above.
fn config(more: usize) -> String {
    let mut text = CONFIG.to_owned();
    for i in 0..more {
        let _ = writeln!(text, r#"  - {{ name: other-{i}, match: {{ path: "/{i}/other/{{id}}" }}, cluster: rag }}"#);
    }
    let names: Vec<_> = THEIRS.iter().map(|algorithm| algorithm.name()).collect();
    let names = names.join(", ");
    let _ = writeln!(
        text,
        r#"  - {{ name: theirs, match: {{ path: "/theirs/{{*rest}}" }}, issuers: [{names}], limits: [per_user, per_address], cluster: rag }}"#
    );
    text.push_str("issuers:\n");
    for algorithm in THEIRS {
        // Keys are put in by hand: nothing is fetched here.
        let (name, keys) = match algorithm {
            Algorithm::Hs256 => ("HS256", r#"secret: "${SECRET}""#.to_owned()),
            other => (other.name(), format!("jwks_uri: https://issuer.invalid/jwks, algorithms: [{}]", other.name())),
        };
        let _ = writeln!(text, r#"  {name}: {{ issuer: "https://{name}.invalid", audiences: [bench], {keys} }}"#);
    }
    text
}

/// Answers at once: what is left is the pipeline.
#[derive(Clone)]
struct AtOnce;

impl Service<Request<GateBody>> for AtOnce {
    type Response = Response<GateBody>;
    type Error = Refusal;
    type Future = Ready<Result<Response<GateBody>, Refusal>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<GateBody>) -> Self::Future {
        ready(Ok(Response::new(GateBody::Empty)))
    }
}

struct Bench {
    layers: Layers,
    keyring: Arc<Keyring>,
    theirs: Vec<SigningKey>,
    rim: Rim,
}

fn key(algorithm: Algorithm) -> SigningKey {
    let pkcs8 = match algorithm {
        Algorithm::Hs256 => b"a secret of the bench alone, 32 bytes or more".to_vec().into(),
        other => SigningKey::generate_pkcs8(other).unwrap(),
    };
    SigningKey::from_pkcs8(algorithm, pkcs8.expose_secret()).unwrap()
}

async fn bench(more_routes: usize, own: Algorithm) -> Bench {
    let rim = Rim::system();
    let text = config(more_routes);
    let source = Source { name: "bench.yaml", text: &text, base_dir: std::path::Path::new("/nonexistent") };
    let secret = "a secret of the bench alone, 32 bytes or more".to_owned();
    let settings = config::parse(&source, &HashMap::from([("SECRET".to_owned(), secret)])).unwrap();
    let metrics = Arc::new(Metrics::new());
    let own = key(own);
    let keyring = match own.algorithm() {
        Algorithm::Hs256 => Keyring::new(Arc::new(key(Algorithm::Es256)), Vec::new(), &[]).with_secret(Arc::new(own)),
        _ => Keyring::new(Arc::new(own), Vec::new(), &[]),
    };
    let keyring = Arc::new(keyring);
    let theirs: Vec<_> = THEIRS.map(key).into();
    let issuers = settings.issuers.iter().zip(&theirs).map(|(issuer, key)| {
        let mut issuer = settings::Issuer::clone(issuer);
        issuer.keys = IssuerKeys::Secret(Arc::new(KeySet::new([key.verifying()])));
        let told = metrics.issuer(&issuer.rules.name);
        Issuer::new(Arc::new(issuer), Arc::clone(&rim.clock), Arc::clone(&rim.entropy), told)
    });
    let issuers: Vec<_> = issuers.collect();
    let mut clusters = Vec::new();
    for cluster in &settings.clusters {
        clusters.push(Arc::new(Cluster::start(Arc::clone(cluster), &metrics).await));
    }
    let snapshot = portcullis::app::snapshot(&settings, &clusters, &issuers, &metrics).unwrap();
    let snapshot: Arc<ArcSwap<Snapshot>> = Arc::new(ArcSwap::from_pointee(snapshot));
    let (seen, _) = tokio::sync::mpsc::channel(1);
    let flood = &settings.listeners.public.flood;
    let floods = Arc::new(Floods::new(flood, Arc::clone(&snapshot), Arc::clone(&rim.clock), Arc::clone(&metrics)));
    let layers = Layers {
        observer: Arc::new(Observer {
            door: portcullis::gate::exchange::Door::Public,
            snapshot,
            unrouted: metrics.route("-"),
            metrics: Arc::clone(&metrics),
            clock: Arc::clone(&rim.clock),
            entropy: Arc::clone(&rim.entropy),
            log: RequestLog::default(),
            traces: None,
        }),
        floods,
        address_peek: AddressPeek,
        authenticate: Authenticate::new(
            Arc::clone(&keyring),
            (TokenCache::new(100_000), BadTokens::new(flood, Arc::clone(&metrics))),
            Arc::new(Revocations::default()),
            seen,
            Arc::clone(&metrics),
            None,
        ),
        admission: Admission(Arc::new(Load::new(settings.overload.max_in_flight, Arc::clone(&metrics)))),
        authorise: Authorise::new(tokio::sync::mpsc::channel(1).0, metrics),
        subject_limit: SubjectLimit,
        identity: Identity::new(
            Arc::clone(&keyring),
            Arc::new(References::new(Arc::clone(&rim.entropy), Arc::clone(&rim.clock))),
        ),
    };
    Bench { layers, keyring, theirs, rim }
}

impl Bench {
    fn token(&self, nth: u64) -> String {
        let now = self.rim.clock.now();
        let claims = Claims {
            issuer: "https://bench.invalid".into(),
            subject: self.rim.entropy.uuid_v7(now).to_string().into(),
            audience: vec!["bench".into()],
            expires: now.seconds() + 900,
            not_before: Some(now.seconds()),
            issued: now.seconds(),
            token_id: nth.to_string().into(),
            session: Some(portcullis::policy::ids::SessionId(self.rim.entropy.uuid_v7(now))),
            client_id: None,
            roles: vec!["user".into()],
            scopes: Vec::new(),
            org: None,
            authorization_version: 1,
            generation: 1,
            email: Some("ada@example.com".into()),
            email_verified: true,
            methods: vec!["pwd".into()],
            auth_time: Some(now.seconds()),
        };
        format!("Bearer {}", mint::access_token(&self.keyring.access(), &claims).unwrap().expose_secret())
    }

    fn their_token(&self, key: &SigningKey, nth: u64) -> String {
        let (name, now) = (key.algorithm().name(), self.rim.clock.now().seconds());
        let header = json!({"typ": "JWT", "alg": name, "kid": &**key.kid()});
        let claims = json!({
            "iss": format!("https://{name}.invalid"), "sub": nth.to_string(), "aud": "bench", "iat": now, "exp": now + 900,
            "jti": nth.to_string(), "scope": "docs:read docs:write", "email": "ada@example.com", "email_verified": true,
        });
        let input = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        format!("Bearer {input}.{}", URL_SAFE_NO_PAD.encode(key.sign(input.as_bytes()).unwrap()))
    }
}

fn request(path: &'static str, authorization: Option<&str>) -> Request<GateBody> {
    let builder = Request::get(path).header("host", "bench.invalid").header("accept", "*/*");
    let builder = match authorization {
        Some(value) => builder.header("authorization", value),
        None => builder,
    };
    let builder = if path.starts_with("/cors") { builder.header("origin", "https://app.example") } else { builder };
    builder.body(GateBody::Empty).unwrap()
}

/// The runtime and the pipeline on it.
struct Ask<S> {
    runtime: tokio::runtime::Runtime,
    service: S,
}

impl<S: Service<Request<GateBody>, Response = Response<GateBody>, Error = Infallible>> Ask<S> {
    fn one(&mut self, request: Request<GateBody>) {
        self.answers(request, 200);
    }

    fn answers(&mut self, request: Request<GateBody>, status: u16) {
        let response = self.runtime.block_on(self.service.call(request)).unwrap();
        assert_eq!(response.status(), status);
    }
}

/// The gateway with this many routes beside its own, and a way to ask it.
fn ask(
    more_routes: usize,
    own: Algorithm,
) -> (Bench, Ask<impl Service<Request<GateBody>, Response = Response<GateBody>, Error = Infallible>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bench = runtime.block_on(bench(more_routes, own));
    let service = pipeline(bench.layers.clone(), AtOnce);
    (bench, Ask { runtime, service })
}

fn layers(criterion: &mut Criterion) {
    let (bench, mut ask) = ask(0, Algorithm::Es256);
    let known = bench.token(0);
    let mut group = criterion.benchmark_group("layers");
    for (name, path, token) in [
        ("open", "/open/x", None),
        ("address_limit", "/address/x", None),
        ("token", "/token/x", Some(&*known)),
        ("token+limits", "/ask/x", Some(&*known)),
        ("token+limits+cookies", "/cookie/x", Some(&*known)),
        ("token+limits+origins", "/cors/x", Some(&*known)),
        ("token+limits+bound_ES256", "/bound/x", Some(&*known)),
        ("token+limits+bound_HS256", "/bound-hs256/x", Some(&*known)),
    ] {
        group.bench_function(name, |b| b.iter(|| ask.one(request(path, token))));
    }
    group.finish();
}

fn routes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("routes");
    for more in [1, 9_991] {
        let (bench, mut ask) = ask(more, Algorithm::Es256);
        let known = bench.token(0);
        group.bench_function((more + 9).to_string(), |b| b.iter(|| ask.one(request("/ask/x", Some(&known)))));
    }
    group.finish();
}

/// Each algorithm with a token that is known, and with one that was never seen: one signature check, and one identity
/// signed (ES256).
fn algorithms(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("own");
    for algorithm in OWN {
        let (bench, mut ask) = ask(0, algorithm);
        both(&mut group, algorithm.name(), &mut ask, "/ask/x", |nth| bench.token(nth));
    }
    group.finish();
    let (bench, mut ask) = ask(0, Algorithm::Es256);
    let mut group = criterion.benchmark_group("issuer");
    for key in &bench.theirs {
        both(&mut group, key.algorithm().name(), &mut ask, "/theirs/x", |nth| bench.their_token(key, nth));
    }
    group.finish();
}

fn both<S: Service<Request<GateBody>, Response = Response<GateBody>, Error = Infallible>>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    ask: &mut Ask<S>,
    path: &'static str,
    token: impl Fn(u64) -> String,
) {
    let known = token(0);
    group.bench_function(format!("{name}/known"), |b| b.iter(|| ask.one(request(path, Some(&known)))));
    let mut nth = 0;
    group.bench_function(format!("{name}/new"), |b| {
        b.iter_batched(
            || {
                nth += 1;
                token(nth)
            },
            |token| ask.one(request(path, Some(&token))),
            BatchSize::SmallInput,
        );
    });
}

/// What a flood costs: a bad token that must be computed, the same one again, a malformed one, and any request of an
/// address that was found to flood.
fn floods(criterion: &mut Criterion) {
    let (bench, mut ask) = ask(0, Algorithm::Es256);
    let mut group = criterion.benchmark_group("floods");
    // Another key's signature in place of each token's own.
    let forged = |nth: u64| {
        let (token, other) = (bench.token(nth), bench.token(nth + 1));
        let ((input, _), (_, signature)) = (token.rsplit_once('.').unwrap(), other.rsplit_once('.').unwrap());
        format!("{input}.{signature}")
    };
    let mut nth = 0;
    group.bench_function("bad_token/new", |b| {
        b.iter_batched(
            || {
                nth += 2;
                forged(nth)
            },
            |token| ask.answers(request("/token/x", Some(&token)), 401),
            BatchSize::SmallInput,
        );
    });
    let known = forged(0);
    group.bench_function("bad_token/known", |b| b.iter(|| ask.answers(request("/token/x", Some(&known)), 401)));
    group.bench_function("malformed_token", |b| {
        b.iter(|| ask.answers(request("/token/x", Some("Bearer e30.e30.")), 401));
    });
    // So many that they have not faded before the bench is over.
    let unspecified = IpAddr::from([0, 0, 0, 0]);
    (0..100_000).for_each(|_| bench.layers.floods.bad_connection(unspecified));
    group.bench_function("flooding_address", |b| b.iter(|| ask.answers(request("/token/x", Some(&known)), 429)));
    group.finish();
}

criterion_group!(benches, layers, routes, algorithms, floods);
criterion_main!(benches);
