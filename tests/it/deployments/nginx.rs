//! `behind-nginx.yaml` and `behind-nginx.conf`: a real nginx speaks TLS to clients and hands their requests on.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
};

use portcullis::{app::Rim, clock::SystemEntropy};
use reqwest::{Body, Client, ClientBuilder, RequestBuilder, Response, StatusCode, Version};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Example, exchanged, sent, shipped};
use crate::harness::{
    client::PASSWORD,
    clock::ManualClock,
    nginx::{Beside, Nginx},
    soon,
    tls::Authority,
    upstream::Upstream,
    wire::Piece,
};

const HOST: &str = "rag.example.com";

/// Clients, nginx, the gateway, a service.
struct Deployment {
    service: Upstream,
    gateway: Example,
    nginx: SocketAddr,
    authority: Authority,
    _nginx: Nginx,
}

impl Deployment {
    async fn start() -> Self {
        let service = Upstream::start().await;
        let rim = Rim { clock: Arc::<ManualClock>::default(), entropy: Arc::new(SystemEntropy) };
        let places = [("http://127.0.0.1:8000", &*service.url())];
        let gateway = Example::start("behind-nginx.yaml", &places, &[], rim).await;

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let nginx = listener.local_addr().unwrap();
        let (authority, beside) = (Authority::new(), Beside::new());
        let certified = authority.certify(HOST);
        let blocks = [
            ("127.0.0.1:8080", gateway.running.public_addr().to_string()),
            ("listen 443 ", format!("listen {nginx} ")),
            ("/etc/nginx/tls/chain.pem", beside.file("chain.pem", &certified.certificate)),
            ("/etc/nginx/tls/key.pem", beside.file("key.pem", &certified.key)),
        ];
        let conf = shipped("behind-nginx.conf");
        let conf = blocks.iter().fold(conf, |text, (there, here)| exchanged(&text, there, here));
        Self { service, gateway, nginx, authority, _nginx: beside.start(&conf, listener) }
    }

    /// Somebody elsewhere: on another loopback address than nginx.
    fn from(&self, address: &str) -> Someone {
        self.someone(address, Client::builder())
    }

    fn over_http1(&self, address: &str) -> Someone {
        self.someone(address, Client::builder().http1_only())
    }

    fn someone(&self, address: &str, builder: ClientBuilder) -> Someone {
        let root = reqwest::Certificate::from_pem(self.authority.pem().as_bytes()).unwrap();
        let client = builder
            .no_proxy()
            .tls_certs_only([root])
            .resolve(HOST, self.nginx)
            .local_address(address.parse::<IpAddr>().unwrap());
        Someone { client: client.build().unwrap(), base: format!("https://{HOST}:{}", self.nginx.port()) }
    }
}

struct Someone {
    client: Client,
    base: String,
}

impl Someone {
    fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.base))
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.base))
    }

    /// Registers, as the app's pages would; gives the answer.
    async fn registered(&self) -> Response {
        let account = json!({"email": "ann@example.org", "password": PASSWORD});
        let answer = sent(self.post("/auth/register").json(&account)).await;
        assert_eq!(answer.status(), StatusCode::CREATED);
        answer
    }

    async fn token(&self) -> String {
        let body: Value = self.registered().await.json().await.unwrap();
        body["access_token"].as_str().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_nginx_limits_count_the_client_whatever_it_says_of_its_address() {
    let deployment = Deployment::start().await;
    // `guessing`: ten a minute. The clock stands still.
    let asked = async |who: &str, claimed: Option<&str>| {
        let request = deployment.from(who).get("/auth/me");
        let request = claimed.into_iter().fold(request, |request, claim| request.header("x-forwarded-for", claim));
        sent(request).await.status().as_u16()
    };
    for n in 0..10 {
        assert_eq!(asked("127.0.0.2", Some(&format!("198.51.100.{n}"))).await, 401);
    }
    for claimed in [None, Some("198.51.100.77"), Some("10.20.0.9"), Some("198.51.100.77, 10.20.0.9, 127.0.0.1")] {
        assert_eq!(asked("127.0.0.2", claimed).await, 429, "{claimed:?}");
    }
    // Neither nginx nor anybody else pays for it, and nobody can be made to.
    assert_eq!(asked("127.0.0.3", Some("127.0.0.2")).await, 401);
    assert_eq!(asked("127.0.0.4", None).await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_nginx_the_service_knows_who_came_how_and_by_which_id() {
    let deployment = Deployment::start().await;
    let ann = deployment.from("127.0.0.2");
    let token = ann.token().await;
    let request = ann.get("/api/documents").bearer_auth(token).header("x-forwarded-proto", "gopher");
    let answer = sent(request.header("x-request-id", "chosen-by-the-client")).await;
    assert_eq!(answer.status(), 200);
    let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();

    let seen = deployment.service.last();
    assert_eq!(seen.target(), "/documents");
    assert_eq!(seen.head.all("x-forwarded-for"), ["127.0.0.2"]);
    assert_eq!(seen.head.all("x-forwarded-proto"), ["https"]);
    assert_eq!(seen.head.header("host"), Some(HOST));
    // nginx's own: 32 hex digits.
    assert_eq!(seen.head.all("x-request-id"), [&*id]);
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    assert!(seen.head.header("authorization").is_none() && seen.head.header("x-gateway-identity").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_nginx_cookies_are_for_https_and_sessions_live_on() {
    let deployment = Deployment::start().await;
    let ann = deployment.from("127.0.0.2");
    let answer = ann.registered().await;
    let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(
        cookie.starts_with("__Secure-") && cookie.contains("; Secure") && cookie.contains("; HttpOnly"),
        "{cookie}"
    );
    let body: Value = answer.json().await.unwrap();
    assert!(body.get("refresh_token").is_none(), "{body}");

    let found = sent(ann.get("/.well-known/openid-configuration")).await.json::<Value>().await.unwrap();
    assert_eq!(found["issuer"], format!("https://{HOST}"));
    let pair = cookie.split(';').next().unwrap();
    let refresh = ann.post("/auth/refresh").header("cookie", pair).header("origin", format!("https://{HOST}"));
    assert_eq!(sent(refresh).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_nginx_a_stream_passes_event_by_event() {
    let deployment = Deployment::start().await;
    deployment.service.hold("/ask");
    let ann = deployment.from("127.0.0.2");
    let token = ann.token().await;
    for (client, version) in [(ann, Version::HTTP_2), (deployment.over_http1("127.0.0.3"), Version::HTTP_11)] {
        let asking = tokio::spawn(sent(client.post("/api/ask").bearer_auth(&token)));
        let mut held = deployment.service.held().await;
        held.begin(200, &[("content-type", "text/event-stream")]).await;
        held.chunk("data: first\n\n").await;
        let mut answer = asking.await.unwrap();
        assert_eq!(answer.version(), version);
        assert_eq!(soon("the first event", answer.chunk()).await.unwrap().unwrap(), "data: first\n\n");
        // The next one is written only when this one has arrived.
        for n in 0..20 {
            let event = format!("data: {n}\n\n");
            held.chunk(&event).await;
            assert_eq!(soon("an event", answer.chunk()).await.unwrap().unwrap(), event);
        }
        held.end(&[]).await;
        let end = soon("the end", answer.chunk()).await.unwrap();
        assert!(end.is_none_or(|rest| rest.is_empty()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_nginx_an_upload_streams_and_the_gateway_says_how_large_it_may_be() {
    const PIECE: usize = 1 << 20;
    let deployment = Deployment::start().await;
    deployment.service.hold("/documents");
    let ann = deployment.from("127.0.0.2");
    let token = ann.token().await;
    let (pieces, mut queue) = mpsc::channel::<Vec<u8>>(1);
    let body = futures_util::stream::poll_fn(move |context| {
        queue.poll_recv(context).map(|piece| piece.map(Ok::<_, io::Error>))
    });
    let upload = ann.post("/api/documents").bearer_auth(&token).body(Body::wrap_stream(body));
    let uploading = tokio::spawn(sent(upload));
    pieces.send(vec![b'x'; PIECE]).await.unwrap();
    // The service reads the beginning before the client has sent the rest.
    let mut held = deployment.service.held().await;
    assert!(matches!(held.piece().await, Piece::Data(bytes) if !bytes.is_empty()));
    let rest = tokio::spawn(async move {
        for _ in 1..32 {
            pieces.send(vec![b'x'; PIECE]).await.unwrap();
        }
    });
    assert!(held.read_body().await);
    rest.await.unwrap();
    held.begin(200, &[]).await;
    held.end(&[]).await;
    assert_eq!(uploading.await.unwrap().status(), 200);

    // Told by its head alone: nothing of the body is ever sent.
    let nothing = Body::wrap_stream(futures_util::stream::pending::<Result<Vec<u8>, io::Error>>());
    let too_large = deployment.over_http1("127.0.0.2").post("/api/documents").bearer_auth(&token);
    let refused = sent(too_large.header("content-length", 101 << 20).body(nothing)).await;
    assert_eq!(refused.status(), 413);
    assert_eq!(refused.headers()["content-type"], "application/problem+json");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_nginx_connections_to_the_gateway_are_kept() {
    let deployment = Deployment::start().await;
    for n in 2..12 {
        // Ten clients, each on a connection of its own to nginx.
        assert_eq!(sent(deployment.from(&format!("127.0.0.{n}")).get("/app/")).await.status(), 200);
    }
    assert_eq!(deployment.gateway.metric("portcullis_connections_open").await.as_deref(), Some("1"));
    let ended = deployment.gateway.metric("portcullis_connections_total{result=\"closed\"}").await;
    assert!(ended.as_deref().is_none_or(|ended| ended == "0"), "{ended:?}");
}
