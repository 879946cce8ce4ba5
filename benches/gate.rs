//! What the pipeline costs per request, without sockets: every layer on, before a service that answers at once.
//!
//! Read the rows against each other, not as times: `anonymous` is what any request pays; `cached` adds the digest,
//! the look-up and the checks of a known token, both limits and the identity; `first_use` adds the signature check.
//! Run with `cargo bench --bench gate`.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot set up has nothing to report")]

use std::{
    collections::HashMap,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use criterion::{Criterion, criterion_group, criterion_main};
use http::{Request, Response};
use portcullis::{
    app::Rim,
    config::{self, Source},
    gate::{
        authenticate::Authenticate,
        body::GateBody,
        charge::SubjectLimit,
        finish::RequestLog,
        identity::Identity,
        keyring::Keyring,
        limits::AddressPeek,
        observe::Observer,
        refusal::Refusal,
        snapshot::Snapshot,
        stack::{Stages, pipeline},
        token_cache::TokenCache,
    },
    policy::{
        claims::Claims,
        keys::{Algorithm, SigningKey},
        mint,
    },
    store::memory::ended_sessions::EndedSessions,
    telemetry::metrics::Metrics,
    upstream::cluster::Cluster,
};
use secrecy::ExposeSecret;
use tower::Service;

const CONFIG: &str = r#"
tokens: { issuer: "https://bench.invalid", audience: bench }
limits:
  per_user: { by: subject, rate: "1000000000/s" }
  per_address: { by: address, rate: "1000000000/s" }
clusters:
  rag: { endpoints: ["http://127.0.0.1:9"] }
routes:
  - { name: open, match: { path: "/open/{*rest}" }, auth: none, cluster: rag }
  - { name: ask, match: { path: "/ask/{*rest}" }, limits: [per_user, per_address], cluster: rag }
"#;

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
    stages: Stages,
    key: Arc<SigningKey>,
    rim: Rim,
}

async fn bench() -> Bench {
    let rim = Rim::system();
    let source = Source { name: "bench.yaml", text: CONFIG, base_dir: std::path::Path::new("/nonexistent") };
    let settings = config::parse(&source, &HashMap::new()).unwrap();
    let metrics = Arc::new(Metrics::new());
    let pkcs8 = SigningKey::generate_pkcs8(Algorithm::Es256).unwrap();
    let key = Arc::new(SigningKey::from_pkcs8(Algorithm::Es256, pkcs8.expose_secret()).unwrap());
    let keyring = Arc::new(Keyring::new(Arc::clone(&key), Vec::new(), &[]));
    let mut clusters = Vec::new();
    for cluster in &settings.clusters {
        clusters.push(Arc::new(Cluster::start(Arc::clone(cluster), &metrics).await));
    }
    let snapshot = portcullis::app::snapshot(&settings, &clusters, &metrics).unwrap();
    let snapshot: Arc<ArcSwap<Snapshot>> = Arc::new(ArcSwap::from_pointee(snapshot));
    let (seen, _) = tokio::sync::mpsc::channel(1);
    let stages = Stages {
        observer: Arc::new(Observer {
            snapshot,
            unrouted: metrics.route("-"),
            metrics: Arc::clone(&metrics),
            clock: Arc::clone(&rim.clock),
            entropy: Arc::clone(&rim.entropy),
            log: RequestLog::default(),
            traces: None,
        }),
        address_peek: AddressPeek,
        authenticate: Authenticate::new(
            Arc::clone(&keyring),
            TokenCache::new(100_000),
            Arc::new(EndedSessions::default()),
            seen,
            metrics,
        ),
        subject_limit: SubjectLimit,
        identity: Identity::new(keyring),
    };
    Bench { stages, key, rim }
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
        format!("Bearer {}", mint::access_token(&self.key, &claims).unwrap().expose_secret())
    }
}

fn request(path: &'static str, authorization: Option<&str>) -> Request<GateBody> {
    let builder = Request::get(path).header("host", "bench.invalid").header("accept", "*/*");
    let builder = match authorization {
        Some(value) => builder.header("authorization", value),
        None => builder,
    };
    builder.body(GateBody::Empty).unwrap()
}

fn gate(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bench = runtime.block_on(bench());
    let mut service = pipeline(bench.stages.clone(), AtOnce);
    let mut one = |request| {
        let response = runtime.block_on(service.call(request)).unwrap();
        assert_eq!(response.status(), 200);
    };

    criterion.bench_function("anonymous", |b| b.iter(|| one(request("/open/x", None))));
    let known = bench.token(0);
    criterion.bench_function("cached", |b| b.iter(|| one(request("/ask/x", Some(&known)))));
    let mut nth = 0;
    criterion.bench_function("first_use", |b| {
        b.iter_batched(
            || {
                nth += 1;
                bench.token(nth)
            },
            |token| one(request("/ask/x", Some(&token))),
            criterion::BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, gate);
criterion_main!(benches);
