//! What a request costs over real sockets on loopback: straight to the service, through a bare hyper + Tower proxy, and
//! through the gateway with nothing on and with everything on. The benchmark behind decision 0001: run it anywhere with
//! `cargo bench --bench proxy` and read the rows against each other. Everything shares the machine's cores, so the rows
//! are ratios of whole round trips, not of one proxy's CPU; `bench/portcullis` measures that beside other proxies.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot set up has nothing to report")]

use std::{collections::HashMap, convert::Infallible, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{body::Incoming, client::conn::http1 as client, server::conn::http1 as server, service::service_fn};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use portcullis::{
    app::{self, App, Rim, Running},
    clock::{Clock, SystemClock},
    config::{self, Source, settings::Settings},
    policy::{claims::Claims, ids::SessionId, mint},
};
use secrecy::ExposeSecret;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    task::JoinSet,
};

/// Keep-alive connections that ask at the same time.
const CONNECTIONS: u64 = 16;

/// Serves `answer` on a port of its own.
async fn serve<F, A>(answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Response<http_body_util::combinators::BoxBody<Bytes, hyper::Error>>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answered = answer(request);
                async move { Ok::<_, Infallible>(answered.await) }
            });
            tokio::spawn(server::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

/// A kilobyte, at once.
async fn service() -> SocketAddr {
    serve(|_| async {
        Response::new(Full::new(Bytes::from_static(&[b'x'; 1024])).map_err(|never| match never {}).boxed())
    })
    .await
}

/// The least a proxy on this stack can be: hyper on both sides, a pooled client, nothing in between.
async fn bare(upstream: SocketAddr) -> SocketAddr {
    let pooled = Client::builder(TokioExecutor::new()).build_http::<Incoming>();
    serve(move |mut request| {
        let pooled = pooled.clone();
        async move {
            *request.uri_mut() = format!("http://{upstream}{}", request.uri().path()).parse().unwrap();
            pooled.request(request).await.unwrap().map(BodyExt::boxed)
        }
    })
    .await
}

fn settings(upstream: SocketAddr, folder: &Path) -> Settings {
    let text = format!(
        r#"
listeners: {{public: {{bind: "127.0.0.1:0"}}, admin: {{bind: "127.0.0.1:0"}}}}
store: {{url: "sqlite://bench.db"}}
tokens: {{issuer: "https://bench.invalid", audience: bench}}
limits:
  per_user: {{by: subject, rate: 1000000/s}}
  per_address: {{by: address, rate: 1000000/s}}
clusters: {{up: {{endpoints: ["http://{upstream}"]}}}}
routes:
  - {{name: open, match: {{path: /open}}, auth: none, cluster: up}}
  - {{name: ask, match: {{path: /ask}}, limits: [per_user, per_address], cluster: up}}
telemetry: {{access_log: false}}
"#
    );
    config::parse(&Source { name: "bench.yaml", text: &text, base_dir: folder }, &HashMap::new()).unwrap()
}

/// The gateway, and a token it takes.
async fn gateway(upstream: SocketAddr, folder: &Path) -> (Running, String) {
    let (settings, rim) = (settings(upstream, folder), Rim::system());
    let key = app::keyring(&settings, &rim).await.unwrap().own();
    let now = rim.clock.now();
    let claims = Claims {
        issuer: Arc::clone(&settings.tokens.issuer),
        subject: "ada".into(),
        audience: vec!["bench".into()],
        expires: now.plus(Duration::from_hours(12)).seconds(),
        not_before: None,
        issued: now.seconds(),
        token_id: "1".into(),
        session: Some(SessionId(rim.entropy.uuid_v7(now))),
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
    };
    let token = format!("Bearer {}", mint::access_token(&key, &claims).unwrap().expose_secret());
    (App::start(settings, Arc::default(), rim).await.unwrap(), token)
}

/// `requests` requests over [`CONNECTIONS`] connections; how long they took together.
async fn ask(to: SocketAddr, path: &'static str, token: Option<String>, requests: u64) -> Duration {
    let mut senders = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = client::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        senders.push(sender);
    }
    let clock = SystemClock::new();
    let began = clock.tick();
    let mut asking = JoinSet::new();
    for mut sender in senders {
        let token = token.clone();
        asking.spawn(async move {
            for _ in 0..requests.div_ceil(CONNECTIONS) {
                let request = Request::get(path).header("host", "bench.invalid");
                let request = match &token {
                    Some(token) => request.header("authorization", token),
                    None => request,
                };
                sender.ready().await.unwrap();
                let response = sender.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
                assert_eq!(response.status(), 200);
                response.into_body().collect().await.unwrap();
            }
        });
    }
    asking.join_all().await;
    clock.tick().since(began)
}

fn proxy(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let service = runtime.block_on(service());
    let bare = runtime.block_on(bare(service));
    let (running, token) = runtime.block_on(gateway(service, folder.path()));
    let gateway = running.public_addr();

    let mut group = criterion.benchmark_group("a_request");
    for (name, to, path, token) in [
        ("direct", service, "/open", None),
        ("bare_proxy", bare, "/open", None),
        ("gateway_open", gateway, "/open", None),
        ("gateway_everything", gateway, "/ask", Some(token)),
    ] {
        group.bench_function(name, |b| {
            b.iter_custom(|requests| runtime.block_on(ask(to, path, token.clone(), requests)));
        });
    }
    group.finish();
    runtime.block_on(running.stop());
}

criterion_group!(benches, proxy);
criterion_main!(benches);
