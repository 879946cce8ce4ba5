//! `forward-auth.yaml` and the files of `forward-auth/`: real proxies that forward requests themselves and ask the
//! gateway whether they may. Each promise is kept with each proxy, started with the very file that is shipped.

use std::{
    env, fs, io,
    net::{IpAddr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use portcullis::{app::Rim, clock::SystemEntropy};
use reqwest::{Body, Client, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpSocket, sync::mpsc, time::interval};

use super::{Example, exchanged, sent, shipped};
use crate::harness::{
    client::PASSWORD,
    clock::ManualClock,
    nginx::{Beside, Nginx},
    peer::{Peer, patiently},
    soon,
    tokens::claims_of,
    upstream::{Received, Upstream},
    wire::{Conn, Head, Piece},
};

const HOST: &str = "rag.example.com";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nginx,
    Caddy,
    Traefik,
    Envoy,
}

/// A proxy; gone when dropped.
enum Proxy {
    Nginx(#[expect(dead_code, reason = "held until the end")] Nginx),
    Other(#[expect(dead_code, reason = "held until the end")] Peer, #[expect(dead_code, reason = "the same")] TempDir),
}

/// Where the proxies of `scripts/python-env proxies` are.
fn environment() -> PathBuf {
    const VARIABLE: &str = "PORTCULLIS_TEST_PROXIES";
    #[expect(clippy::disallowed_methods, reason = "a test's own environment")]
    let python = env::var_os(VARIABLE);
    let python =
        python.unwrap_or_else(|| panic!("{VARIABLE} names a Python of scripts/python-env proxies: run `make test`"));
    Path::new(&python).parent().and_then(Path::parent).expect("bin/python of an environment").to_owned()
}

/// Envoy itself: its wheel's command is a script that would outlive a kill.
fn envoy() -> PathBuf {
    let libraries = fs::read_dir(environment().join("lib")).expect("an environment has libraries");
    let program =
        libraries.map(|one| one.unwrap().path().join("site-packages/envoy/_bin/envoy")).find(|path| path.is_file());
    program.expect("Envoy is installed")
}

/// A program in a folder of its own with these files.
fn program(path: PathBuf, folder: &TempDir, files: &[(&str, String)], arguments: &[&str]) -> Peer {
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let mut command = Command::new(path);
    command.args(arguments).env_clear().env("HOME", folder.path()).current_dir(folder.path());
    Peer::start(&mut command)
}

/// Clients, a proxy, the gateway that it asks, a service.
struct Deployment {
    service: Upstream,
    gateway: Example,
    at: SocketAddr,
    _proxy: Proxy,
}

impl Deployment {
    async fn start(kind: Kind) -> Self {
        let service = Upstream::start().await;
        let rim = Rim { clock: Arc::<ManualClock>::default(), entropy: Arc::new(SystemEntropy) };
        let gateway =
            Example::start("forward-auth.yaml", &[("http://127.0.0.1:8000", &*service.url())], &[], rim).await;
        let (asked, behind) = (gateway.running.public_addr(), service.address());
        let file = |name: &str| shipped(&format!("forward-auth/{name}"));
        let placed = |name: &str| {
            let text = exchanged(&file(name), "127.0.0.1:8080", &asked.to_string());
            exchanged(&text, "127.0.0.1:8000", &behind.to_string())
        };
        let folder = TempDir::new().unwrap();
        let (proxy, at) = match kind {
            Kind::Nginx => {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let at = listener.local_addr().unwrap();
                let conf = exchanged(&placed("nginx.conf"), "listen 80;", &format!("listen {at};"));
                (Proxy::Nginx(Beside::new().start(&conf, listener)), at)
            }
            Kind::Caddy => {
                // No certificates are fetched for it, and no second Caddy is in its way.
                let site = format!("http://{HOST}:0 {{\n\tbind 127.0.0.1\n");
                let text = exchanged(&placed("Caddyfile"), &format!("{HOST} {{\n"), &site);
                let files = [("Caddyfile", format!("{{\n\tadmin off\n}}\n{text}"))];
                let peer = program(environment().join("bin/caddy"), &folder, &files, &["run"]);
                let at = peer.listens_at().await;
                (Proxy::Other(peer, folder), at)
            }
            Kind::Traefik => {
                let routes = placed("traefik-routes.yaml");
                let entry = exchanged(&file("traefik.yaml"), "\":80\"", "\"127.0.0.1:0\"");
                let files = [("traefik.yaml", entry), ("traefik-routes.yaml", routes)];
                let peer = program(environment().join("bin/traefik"), &folder, &files, &["--configFile=traefik.yaml"]);
                let at = peer.listens_at().await;
                (Proxy::Other(peer, folder), at)
            }
            Kind::Envoy => {
                let text = exchanged(&file("envoy.yaml"), "0.0.0.0, port_value: 80}", "127.0.0.1, port_value: 0}");
                let text = exchanged(&text, "port_value: 8080", &format!("port_value: {}", asked.port()));
                let text = exchanged(&text, "port_value: 8000", &format!("port_value: {}", behind.port()));
                let arguments = ["-c", "envoy.yaml", "--concurrency", "1", "--disable-hot-restart"];
                let peer = program(envoy(), &folder, &[("envoy.yaml", text)], &arguments);
                let at = peer.listens_at().await;
                (Proxy::Other(peer, folder), at)
            }
        };
        let deployment = Self { service, gateway, at, _proxy: proxy };
        deployment.ready().await;
        deployment
    }

    /// Traefik listens before it has read its routes.
    async fn ready(&self) {
        let mut asking = interval(Duration::from_millis(20));
        let routed = async {
            loop {
                asking.tick().await;
                if sent(self.from("127.0.0.99").call("GET", "/auth/me")).await.status() == 401 {
                    return;
                }
            }
        };
        patiently("the proxy to know its routes", routed).await;
    }

    /// Somebody elsewhere: on another loopback address than the proxy.
    fn from(&self, address: &str) -> Someone {
        let client = Client::builder().no_proxy().resolve(HOST, self.at);
        let client = client.local_address(address.parse::<IpAddr>().unwrap()).build().unwrap();
        Someone { client, base: format!("http://{HOST}:{}", self.at.port()) }
    }

    /// What no HTTP library would write; the answer's head.
    async fn raw(&self, target: &str, fields: &[(&str, &str)]) -> (u16, Head) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.7:0".parse().unwrap()).unwrap();
        let mut conn = Conn::new(socket.connect(self.at).await.unwrap());
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let text = format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n{}\r\n", fields.concat());
        soon("the proxy to take it", conn.write(text.as_bytes())).await.unwrap();
        let head = soon("an answer", conn.head()).await.expect("an answer");
        (head.word(1).parse().unwrap(), head)
    }
}

struct Someone {
    client: Client,
    base: String,
}

impl Someone {
    fn call(&self, method: &str, path: &str) -> RequestBuilder {
        self.client.request(method.parse().unwrap(), format!("{}{path}", self.base))
    }

    /// Registers by way of the proxy.
    async fn token(&self) -> String {
        let account = json!({"email": "ann@example.org", "password": PASSWORD});
        let answer = sent(self.call("POST", "/auth/register").json(&account)).await;
        assert_eq!(answer.status(), 201);
        answer.json::<Value>().await.unwrap()["access_token"].as_str().unwrap().to_owned()
    }
}

async fn whoever_may_is_forwarded_and_the_service_knows_who(kind: Kind) {
    let deployment = Deployment::start(kind).await;
    let ann = deployment.from("127.0.0.2");
    let token = ann.token().await;
    let asked = ann.call("POST", "/api/documents?q=a%2Fb&c").bearer_auth(&token).body("a document");
    assert_eq!(sent(asked).await.status(), 200);
    let seen = deployment.service.last();
    assert_eq!((seen.method(), seen.target()), ("POST", "/api/documents?q=a%2Fb&c"));
    assert_eq!(seen.body.bytes, b"a document");
    let (identity, mine) = (claims_of(seen.head.header("x-gateway-identity").unwrap()), claims_of(&token));
    assert_eq!((&identity["sub"], &identity["aud"]), (&mine["sub"], &"rag".into()));
    assert_eq!(seen.head.header("x-user-id"), mine["sub"].as_str());
    assert_eq!(seen.head.header("x-user-roles"), Some("user"));
    assert!(seen.head.header("x-request-id").is_some());
    assert!(seen.head.header("authorization").is_none());

    assert_eq!(sent(ann.call("GET", "/app/")).await.status(), 200);
    let identity = deployment.service.last().head.header("x-gateway-identity").map(claims_of).unwrap();
    assert!(identity.get("sub").is_none(), "{identity}");
}

async fn whoever_may_not_is_refused_and_the_service_sees_nothing(kind: Kind) {
    let deployment = Deployment::start(kind).await;
    let ann = deployment.from("127.0.0.2");
    let token = ann.token().await;
    let bearer = |token: &str| format!("Bearer {token}");
    for (method, path, authorization, status) in [
        ("GET", "/api/a", None, 401),
        ("DELETE", "/api/a", Some("Bearer x.y.z".to_owned()), 401),
        ("GET", "/api/a", Some(bearer(&token[..token.len() - 2])), 401),
        ("GET", "/admin/a", Some(bearer(&token)), 403),
        ("GET", "/nowhere", Some(bearer(&token)), 404),
        ("POST", "/app/a", None, 405),
        ("OPTIONS", "/api/a", None, 401),
        ("GET", "/AUTH/me", Some(bearer(&token)), 404),
    ] {
        let asked = ann.call(method, path);
        let asked = authorization.iter().fold(asked, |asked, value| asked.header("authorization", value));
        let preflight = [("origin", "https://app.example.com"), ("access-control-request-method", "GET")];
        let asked = preflight.iter().filter(|_| method == "OPTIONS").fold(asked, |asked, (n, v)| asked.header(*n, *v));
        let no = sent(asked).await;
        assert_eq!(no.status(), status, "{method} {path}");
        assert_eq!(no.headers().contains_key("www-authenticate"), status == 401, "{method} {path}");
        assert!(!no.headers().contains_key("x-gateway-identity"));
    }
    deployment.service.assert_untouched();
}

async fn nothing_a_client_says_of_itself_reaches_the_service(kind: Kind) {
    let deployment = Deployment::start(kind).await;
    let ann = deployment.from("127.0.0.2");
    let token = ann.token().await;
    let bearer = format!("Bearer {token}");
    let cookie = format!("theirs=1; __Host-portcullis-access={token}");
    let forged = [
        ("X-Gateway-Identity", "eve"),
        ("x-user-id", "eve"),
        ("X-USER-EMAIL", "eve"),
        ("X-User-Roles", "eve"),
        ("X-Org-Id", "eve"),
        ("X-Org-Id", "eve again"),
        ("x-envoy-auth-headers-to-remove", "x-user-id"),
    ];
    for (target, more) in
        [("/app/a", None), ("/app/b", Some(("Cookie", &*cookie))), ("/api/a", Some(("Authorization", &*bearer)))]
    {
        let fields: Vec<_> = forged.into_iter().chain(more).collect();
        let (status, _) = deployment.raw(target, &fields).await;
        assert_eq!(status, 200, "{target}");
        let head = deployment.service.last().head;
        assert!(!format!("{head:?}").contains("eve\"") && !format!("{head:?}").contains("eve again"), "{head:#?}");
        assert!(!format!("{head:?}").contains(&token), "the token arrived: {head:#?}");
        let cookies = more.filter(|(name, _)| *name == "Cookie").map(|_| "theirs=1");
        assert_eq!(head.header("cookie"), cookies, "{target}");
    }
    // Names that some services read alike, and headers that would be taken off on the way.
    for fields in [
        &[("x_user_id", "eve"), ("X_Gateway_Identity", "eve")][..],
        &[
            ("Connection", "close, X-Gateway-Identity, X-User-Id, X-Forwarded-Uri, X-Forwarded-Method"),
            ("X-User-Id", "eve"),
        ],
        &[("Connection", "close"), ("Connection", "x-gateway-identity")],
    ] {
        deployment.raw("/app/c", fields).await;
    }
    for seen in deployment.service.received() {
        assert!(!format!("{:?}", seen.head).contains("eve\""), "{:#?}", seen.head);
        assert!(seen.head.header("x-gateway-identity").is_some(), "{:#?}", seen.head);
    }
}

async fn what_was_asked_is_the_proxy_s_word_and_not_the_client_s(kind: Kind) {
    let deployment = Deployment::start(kind).await;
    let lies = [
        ("X-Original-Method", "GET"),
        ("X-Original-URI", "/app/a"),
        ("X-Original-URL", "/app/a"),
        ("X-Forwarded-Method", "GET"),
        ("X-Forwarded-Uri", "/app/a"),
        ("X-Forwarded-Host", "elsewhere.example.com"),
        ("X-Rewrite-URL", "/app/a"),
        ("X-HTTP-Method-Override", "GET"),
    ];
    let connection = "close, X-Original-URI, X-Original-Method, X-Forwarded-Uri, X-Forwarded-Method, X-Forwarded-Host";
    for fields in [lies.to_vec(), [&lies[..], &lies[..]].concat(), [&lies[..], &[("Connection", connection)]].concat()]
    {
        let (status, _) = deployment.raw("/api/a", &fields).await;
        assert!((400..500).contains(&status), "{status} {fields:?}");
    }
    deployment.service.assert_untouched();
}

async fn a_client_cannot_ask_for_decisions_itself(kind: Kind) {
    let deployment = Deployment::start(kind).await;
    let token = deployment.from("127.0.0.2").token().await;
    let bearer = format!("Bearer {token}");
    let fields = [
        ("Authorization", &*bearer),
        ("X-Original-Method", "GET"),
        ("X-Original-URI", "/api/a"),
        ("X-Forwarded-Method", "GET"),
        ("X-Forwarded-Uri", "/api/a"),
        ("X-Forwarded-Host", HOST),
    ];
    for target in [
        "/auth/forward/nginx",
        "/auth/forward/traefik",
        "/auth/forward/caddy?a",
        "/auth/forward/envoy/api/a",
        "/auth/forward",
        "/Auth/Forward/caddy",
        "/auth/Forward/nginx",
        "/auth/forwarD/envoy/api/a",
        "/auth/%66orward/nginx",
        "/auth//forward/nginx",
        "//auth/forward/envoy/api/a",
        "/auth/./forward/traefik",
        "/auth/me/../forward/envoy/api/a",
        "/auth/forward/envoy/api/a/../../../me",
        "/auth/forward/envoy/api/..%2f..%2f..%2fme",
        "/auth%2fforward/nginx",
    ] {
        let (status, head) = deployment.raw(target, &fields).await;
        // Caddy leads its clients to a cleaned path; they ask there again.
        assert!((300..500).contains(&status), "{status} {target}");
        assert!(
            head.header("x-gateway-identity").is_none() && head.header("x-user-id").is_none(),
            "{target}: {head:?}"
        );
    }
    deployment.service.assert_untouched();
}

async fn no_spelling_of_a_path_leads_around_its_route(kind: Kind) {
    let deployment = Deployment::start(kind).await;
    for target in [
        "/app/../api/a",
        "/app/%2e%2e/api/a",
        "/app/..%2fapi/a",
        "/app%2f..%2fapi/a",
        "/app/..;/api/a",
        "/app/a;/../../api/a",
        "/app//../api/a",
        "//app/../api/a",
        "/app/..\\api/a",
        "/app/%2e%2e%5capi/a",
        "/app/.%2e/api/a",
        "/app/%252e%252e/api/a",
        "/app/%00/../../api/a",
        "/%61pi/a",
        "/api%2fa",
        "//api/a",
        "/./api/a",
        "/app#/../api/a",
        "/app/a%0d%0aX-User-Id:%20eve",
        "http://rag.example.com/api/a",
        "/api/a?/app/",
    ] {
        let (status, _) = deployment.raw(target, &[]).await;
        // What a proxy makes of it first is what is judged, and what the service gets.
        if status < 300 {
            let seen = deployment.service.last();
            let plain = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'/');
            let led = seen.target().strip_prefix("/app/").is_some_and(plain);
            assert!(led, "{target} arrived as {}", seen.target());
        }
    }
    let closed = |seen: &Received| !seen.target().starts_with("/app/");
    assert!(!deployment.service.received().iter().any(closed));
}

async fn limits_count_the_client_whatever_it_says_of_its_address(kind: Kind) {
    let deployment = Deployment::start(kind).await;
    // `flood`: twenty a second. The clock stands still.
    let asked = async |who: &str, claimed: &str| {
        sent(deployment.from(who).call("GET", "/app/").header("x-forwarded-for", claimed)).await
    };
    for n in 0..20 {
        assert_eq!(asked("127.0.0.2", &format!("198.51.100.{n}")).await.status(), 200);
    }
    let no = asked("127.0.0.2", "198.51.100.77").await;
    assert_eq!(no.status(), 429);
    assert!(no.headers().contains_key("retry-after"));
    assert_eq!(asked("127.0.0.3", "127.0.0.2").await.status(), 200);
    assert_eq!(deployment.service.received().len(), 21);
}

async fn a_cookie_changes_nothing_from_another_site(kind: Kind) {
    let deployment = Deployment::start(kind).await;
    let ann = deployment.from("127.0.0.2");
    let token = ann.token().await;
    let asked = async |method: &str, site: &str| {
        let cookie = format!("__Host-portcullis-access={token}");
        let call = ann.call(method, "/api/a").header("cookie", cookie).header("sec-fetch-site", site);
        sent(call).await.status().as_u16()
    };
    assert_eq!(asked("POST", "cross-site").await, 403);
    assert_eq!(asked("DELETE", "same-site").await, 403);
    // A WebSocket's handshake is a GET that changes things.
    let cookie = format!("__Host-portcullis-access={token}");
    let handshake = [
        ("Cookie", &*cookie),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
        ("Origin", "https://evil.example"),
    ];
    assert_eq!(deployment.raw("/api/socket", &handshake).await.0, 403);
    deployment.service.assert_untouched();
    assert_eq!(asked("POST", "same-origin").await, 200);
    assert_eq!(asked("GET", "cross-site").await, 200);
}

async fn a_stream_passes_event_by_event(kind: Kind) {
    let deployment = Deployment::start(kind).await;
    deployment.service.hold("/api/ask");
    let ann = deployment.from("127.0.0.2");
    let token = ann.token().await;
    // Of unknown length: its beginning arrives before the rest is sent.
    let (pieces, mut queue) = mpsc::channel::<&'static str>(1);
    let body = futures_util::stream::poll_fn(move |context| {
        queue.poll_recv(context).map(|piece| piece.map(Ok::<_, io::Error>))
    });
    let call = ann.call("POST", "/api/ask").bearer_auth(&token).body(Body::wrap_stream(body));
    let asking = tokio::spawn(sent(call));
    pieces.send("a ").await.unwrap();
    let mut held = deployment.service.held().await;
    assert!(matches!(held.piece().await, Piece::Data(bytes) if &bytes[..] == b"a "));
    pieces.send("question").await.unwrap();
    drop(pieces);
    assert!(held.read_body().await);
    held.begin(200, &[("content-type", "text/event-stream")]).await;
    held.chunk("data: first\n\n").await;
    let mut answer = asking.await.unwrap();
    assert_eq!(soon("the first event", answer.chunk()).await.unwrap().unwrap(), "data: first\n\n");
    for n in 0..5 {
        let event = format!("data: {n}\n\n");
        held.chunk(&event).await;
        assert_eq!(soon("an event", answer.chunk()).await.unwrap().unwrap(), event);
    }
    held.end(&[]).await;
    let end = soon("the end", answer.chunk()).await.unwrap();
    assert!(end.is_none_or(|rest| rest.is_empty()));
}

async fn nobody_passes_while_the_gateway_is_gone(kind: Kind) {
    let deployment = Deployment::start(kind).await;
    let ann = deployment.from("127.0.0.2");
    let token = ann.token().await;
    let Deployment { service, gateway, _proxy, .. } = deployment;
    soon("the gateway to stop", gateway.running.stop()).await;
    for path in ["/app/", "/api/a"] {
        let no = sent(ann.call("GET", path).bearer_auth(&token)).await;
        assert!(no.status().is_server_error(), "{path}: {}", no.status());
    }
    service.assert_untouched();
}

macro_rules! with_each_proxy {
    ($($name:ident),* $(,)?) => {
        with_each_proxy!(@ nginx, Nginx, $($name)*);
        with_each_proxy!(@ caddy, Caddy, $($name)*);
        with_each_proxy!(@ traefik, Traefik, $($name)*);
        with_each_proxy!(@ envoy, Envoy, $($name)*);
    };
    (@ $module:ident, $kind:ident, $($name:ident)*) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(super::Kind::$kind).await;
                }
            )*
        }
    };
}

with_each_proxy!(
    whoever_may_is_forwarded_and_the_service_knows_who,
    whoever_may_not_is_refused_and_the_service_sees_nothing,
    nothing_a_client_says_of_itself_reaches_the_service,
    what_was_asked_is_the_proxy_s_word_and_not_the_client_s,
    a_client_cannot_ask_for_decisions_itself,
    no_spelling_of_a_path_leads_around_its_route,
    limits_count_the_client_whatever_it_says_of_its_address,
    a_cookie_changes_nothing_from_another_site,
    a_stream_passes_event_by_event,
    nobody_passes_while_the_gateway_is_gone,
);
