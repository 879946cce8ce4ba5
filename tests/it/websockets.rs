//! WebSockets (RFC 6455) through the gateway: let in as any request is, then left alone; and whatever only looks like
//! one.

use tokio_tungstenite::tungstenite::Message;

use crate::harness::{
    gateway::{Engine, Gateway, ISSUER, Setup},
    gateways::{Deployment, Gateways},
    raw::Raw,
    soon,
    tls::Authority,
    upstream::{Reply, Upstream},
    websocket::{Echo, Socket, bearer, handshake},
};

on_every_deployment!(
    what_is_said_passes_both_ways_and_the_service_knows_who_says_it,
    nobody_without_a_token_gets_a_socket,
    a_socket_opened_by_a_page_of_another_site_is_refused,
);

/// A route for sockets, one that knows none, one for everybody; `more` keys of the first.
fn yaml(service: &str, more: &str) -> String {
    format!(
        r#"
clusters:
  rag: {{endpoints: ["{service}"]}}
routes:
  - {{name: ws, match: {{path: "/ws/{{*rest}}"}}, credentials: [bearer, cookie], upgrades: [websocket], cluster: rag{more}}}
  - {{name: ask, match: {{path: "/ask/{{*rest}}"}}, cluster: rag}}
  - {{name: open, match: {{path: "/open/{{*rest}}"}}, auth: none, upgrades: [websocket], cluster: rag}}
"#
    )
}

const TUNNELS: &str = "portcullis_open_streams{kind=\"tunnel\"}";
const IN_FLIGHT: &str = "portcullis_requests_in_flight";

async fn all_over(gateway: &Gateway) {
    let over = async { while gateway.metric(IN_FLIGHT).await > 0.5 || gateway.metric(TUNNELS).await > 0.5 {} };
    soon("the tunnels to end", over).await;
}

/// How many sockets ended for this reason.
async fn ended(gateway: &Gateway, route: &str, reason: &str) -> f64 {
    let line =
        format!("portcullis_requests_total{{route=\"{route}\",reason=\"{reason}\",method=\"GET\",status=\"1xx\"}}");
    gateway.metric(&line).await
}

async fn what_is_said_passes_both_ways_and_the_service_knows_who_says_it(deployment: Deployment) {
    let echo = Echo::start().await;
    let gateways = Gateways::start(deployment, &yaml(&echo.url(), "")).await;
    let ann = gateways.client().register("ann@example.org").await;
    for gateway in &gateways.all {
        let mut socket = Socket::open(gateway.address(), "/ws/chat?room=1", &ann.access).await;
        socket.echoed("hello").await;
        assert!(gateway.metric(TUNNELS).await > 0.5 && gateway.metric(IN_FLIGHT).await > 0.5);
        socket.send(Message::Ping("still there?".into())).await;
        // Larger than any buffer on the way.
        let large = Message::binary(vec![7; 5 << 20]);
        socket.send(large.clone()).await;
        assert_eq!(socket.next().await, Ok(large));
        socket.close().await;
        all_over(gateway).await;
        assert!(ended(gateway, "ws", "ok").await > 0.5, "{}", gateway.admin("/metrics").await.1);
    }
    let head = echo.heads().pop().unwrap();
    assert_eq!(head["x-user-id"], ann.user["id"].as_str().unwrap());
    assert!(head.contains_key("x-gateway-identity") && !head.contains_key("authorization"), "{head:?}");
}

async fn nobody_without_a_token_gets_a_socket(deployment: Deployment) {
    let echo = Echo::start().await;
    let gateways = Gateways::start(deployment, &yaml(&echo.url(), "")).await;
    let ann = gateways.client().register("ann@example.org").await;
    for gateway in &gateways.all {
        let ask = async |path: &str, headers: &[(&'static str, &str)]| {
            Socket::ask(gateway.address(), headers, path).await.err()
        };
        assert_eq!(ask("/ws/a", &[]).await, Some(401));
        assert_eq!(ask("/ws/a", &[("authorization", "Bearer wrong")]).await, Some(401));
        // A query ends up in logs and histories: no token is taken from one, under whatever name.
        for name in ["access_token", "token", "authorization"] {
            assert_eq!(ask(&format!("/ws/a?{name}={}", ann.access), &[]).await, Some(401), "{name}");
        }
        let protocol = format!("bearer, {}", ann.access);
        assert_eq!(ask("/ws/a", &[("sec-websocket-protocol", &protocol)]).await, Some(401));
    }
    assert!(echo.heads().is_empty());
}

async fn a_socket_opened_by_a_page_of_another_site_is_refused(deployment: Deployment) {
    let echo = Echo::start().await;
    let gateways = Gateways::start(deployment, &yaml(&echo.url(), "")).await;
    let ann = gateways.client().register("ann@example.org").await;
    let cookie = format!("__Host-portcullis-access={}", ann.access);
    for gateway in &gateways.all {
        let heads = echo.heads().len();
        for origin in [Some("https://evil.example"), Some("null"), None] {
            let mut headers = vec![("cookie", cookie.as_str())];
            headers.extend(origin.map(|origin| ("origin", origin)));
            let refused = Socket::ask(gateway.address(), &headers, "/ws/a").await.err();
            assert_eq!(refused, Some(403), "{origin:?}");
        }
        assert_eq!(echo.heads().len(), heads);
        let headers = [("cookie", cookie.as_str()), ("origin", ISSUER)];
        let mut socket = Socket::ask(gateway.address(), &headers, "/ws/a").await.unwrap_or_else(|no| panic!("{no}"));
        socket.echoed("from our own page").await;
    }
    assert!(!echo.heads().pop().unwrap().contains_key("cookie"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_on_either_side_changes_nothing() {
    let authority = Authority::new();
    let (ours, theirs) = (authority.certify("localhost"), authority.certify("127.0.0.1"));
    let echo = Echo::start_tls(&theirs).await;
    let yaml = format!(
        "listeners: {{public: {{bind: \"127.0.0.1:0\", tls: {{certificate: cert.pem, key: key.pem}}}}, \
         admin: {{bind: \"127.0.0.1:0\"}}}}\n{}",
        yaml(&echo.url(), "").replace("\"]}", "\"], tls: {ca_file: ca.pem}}")
    );
    let setup = Setup::new(Engine::Sqlite, &yaml).file("cert.pem", &ours.certificate).file("key.pem", &ours.key);
    let gateway = setup.file("ca.pem", authority.pem()).start().await;
    let ann = gateway.tls_client(authority.pem()).register("ann@example.org").await;
    let (name, token) = bearer(&ann.access);
    let io = Box::new(authority.connect_h1(gateway.address()).await);
    let mut socket = Socket::over(io, handshake("/ws/a", &[(name, &token)])).await.unwrap_or_else(|no| panic!("{no}"));
    socket.echoed("hello").await;
    let large = Message::binary(vec![7; 1 << 20]);
    socket.send(large.clone()).await;
    assert_eq!(socket.next().await, Ok(large));
    let mut other =
        Socket::over(Box::new(authority.connect_h1(gateway.address()).await), handshake("/ws/a", &[(name, &token)]))
            .await
            .unwrap_or_else(|no| panic!("{no}"));
    let client = gateway.tls_client(authority.pem());
    client.post("/auth/logout").bearer(&ann.access).send().await.expect(204);
    for socket in [&mut socket, &mut other] {
        assert_eq!(socket.closed().await, Some((1008, "session_ended".to_owned())));
    }
    all_over(&gateway).await;
}

const HANDSHAKE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A frame of text as a service sends it.
fn text(text: &str) -> String {
    format!("\u{81}{}{text}", char::from(u8::try_from(text.len()).unwrap()))
}

/// The bytes of a text whose characters all are below 256.
fn latin(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
}

async fn raw_gateway(more: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Engine::Sqlite, &yaml(&upstream.url(), more)).await;
    (upstream, gateway)
}

async fn asked(gateway: &Gateway, path: &str) -> Raw {
    let mut raw = gateway.raw().await;
    raw.send(&format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{HANDSHAKE}\r\n")).await;
    raw
}

#[tokio::test]
async fn a_route_without_upgrades_takes_the_word_off() {
    let (upstream, gateway) = raw_gateway("").await;
    let ann = gateway.client().register("ann@example.org").await;
    let mut raw = gateway.raw().await;
    let authorization = format!("Authorization: Bearer {}\r\n", ann.access);
    raw.send(&format!("GET /ask/a HTTP/1.1\r\nHost: a.test\r\n{authorization}{HANDSHAKE}\r\n")).await;
    assert_eq!(raw.answer().await.unwrap().status, 200);
    let sent = upstream.last().head;
    assert!(sent.header("upgrade").is_none() && sent.header("connection").is_none(), "{sent:?}");
    // A service that switches all the same is broken, and nothing of it passes.
    upstream.hold("/ask/b");
    raw.send(&format!("GET /ask/b HTTP/1.1\r\nHost: a.test\r\n{authorization}{HANDSHAKE}\r\n")).await;
    let mut held = upstream.held().await;
    held.write(&format!(
        "HTTP/1.1 101 Fine\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    ))
    .await;
    let answer = raw.answer().await.unwrap();
    assert_eq!((answer.status, answer.code()), (502, "upstream_broken".to_owned()));
}

#[tokio::test]
async fn what_only_looks_like_a_handshake_is_refused_or_no_handshake() {
    let (upstream, gateway) = raw_gateway("").await;
    let send = async |request: &str| {
        let mut raw = gateway.raw().await;
        raw.send(request).await;
        raw.answer().await.unwrap()
    };
    let with = |start: &str, change: (&str, &str), end: &str| {
        format!("{start}Host: a.test\r\n{}{end}", HANDSHAKE.replace(change.0, change.1))
    };
    let get = "GET /open/a HTTP/1.1\r\n";
    for bad in [
        with(get, ("", ""), "Content-Length: 5\r\n\r\nhello"),
        with(get, ("", ""), "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        with("POST /open/a HTTP/1.1\r\n", ("", ""), "\r\n"),
        with(get, ("Version: 13", "Version: 1337"), "\r\n"),
        with(get, ("Version: 13", "Version: 13\r\nSec-WebSocket-Version: 13"), "\r\n"),
        with(get, ("dGhlIHNhbXBsZSBub25jZQ==", "short"), "\r\n"),
    ] {
        let answer = send(&bad).await;
        assert_eq!((answer.status, answer.code()), (400, "header_invalid".to_owned()), "{bad}");
    }
    upstream.assert_untouched();
    for other in [
        with(get, ("Upgrade: websocket", "Upgrade: h2c"), "\r\n"),
        with(get, ("Upgrade: websocket", "Upgrade: websocket, h2c"), "\r\n"),
        with(get, ("Connection: Upgrade", "Connection: keep-alive"), "\r\n"),
    ] {
        assert_eq!(send(&other).await.status, 200, "{other}");
        assert_eq!(upstream.last().head.header("upgrade"), None, "{other}");
    }
}

#[tokio::test]
async fn a_service_that_answers_another_handshake_is_broken() {
    let (upstream, gateway) = raw_gateway("").await;
    upstream.hold("/open/a");
    for answer in [
        "Connection: upgrade\r\nUpgrade: websocket\r\n".to_owned(),
        "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n"
            .to_owned(),
        format!("Connection: upgrade\r\nUpgrade: h2c\r\nSec-WebSocket-Accept: {ACCEPT}\r\n"),
        format!("Upgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\n"),
    ] {
        let mut raw = asked(&gateway, "/open/a").await;
        let mut held = upstream.held().await;
        held.write(&format!("HTTP/1.1 101 Fine\r\n{answer}\r\n{}", "not a frame of anybody's")).await;
        let refused = raw.answer().await.unwrap();
        assert_eq!((refused.status, refused.code()), (502, "upstream_broken".to_owned()), "{answer}");
        held.given_up().await;
    }
    all_over(&gateway).await;
}

#[tokio::test]
async fn what_follows_a_handshake_that_is_refused_is_the_next_request() {
    let (upstream, gateway) = raw_gateway("").await;
    upstream.reply("/open/a", Reply::new(426, "no sockets here"));
    let mut raw = gateway.raw().await;
    // Smuggled behind the handshake: were the tunnel open, it would reach the service as it is.
    let smuggled = "GET /ask/secret HTTP/1.1\r\nHost: a.test\r\nX-User-Id: eve\r\n\r\n";
    raw.send(&format!("GET /open/a HTTP/1.1\r\nHost: a.test\r\n{HANDSHAKE}\r\n{smuggled}")).await;
    let refused = raw.answer().await.unwrap();
    assert_eq!((refused.status, refused.text()), (426, "no sockets here".to_owned()));
    assert_eq!(raw.answer().await.unwrap().status, 401);
    assert_eq!(upstream.received().len(), 1);
    assert_eq!(upstream.last().head.header("upgrade"), Some("websocket"));
}

#[tokio::test]
async fn frames_sent_with_the_handshake_are_not_lost_on_either_side() {
    let (upstream, gateway) = raw_gateway("").await;
    upstream.hold("/open/a");
    let mut raw = gateway.raw().await;
    let early = "early frames of the client";
    raw.send(&format!("GET /open/a HTTP/1.1\r\nHost: a.test\r\n{HANDSHAKE}\r\n{early}")).await;
    let mut held = upstream.held().await;
    held.write(&format!(
        "HTTP/1.1 101 Fine\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\
         X-User-Id: forged\r\n\r\nearly frames of the service"
    ))
    .await;
    let answer = raw.head_only().await;
    assert_eq!(answer.word(1), "101");
    assert_eq!(answer.header("x-user-id"), None, "{answer:?}");
    assert!(answer.header("x-request-id").is_some() && answer.header("content-length").is_none(), "{answer:?}");
    assert_eq!(held.bytes(early.len()).await, early.as_bytes());
    held.write(", and later ones").await;
    drop(held);
    assert_eq!(raw.closed().await, b"early frames of the service, and later ones");
    all_over(&gateway).await;
    assert!(ended(&gateway, "open", "answer_cut").await > 0.5);
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_tunnel_with_it() {
    let (upstream, gateway) = raw_gateway("").await;
    upstream.hold("/open/a");
    let mut raw = asked(&gateway, "/open/a").await;
    let mut held = upstream.held().await;
    held.switch(ACCEPT).await;
    assert_eq!(raw.head_only().await.word(1), "101");
    drop(raw);
    assert_eq!(held.given_up().await, 0);
    all_over(&gateway).await;
    assert!(ended(&gateway, "open", "client_gone").await > 0.5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_service_ends_its_tunnels() {
    let echo = Echo::start().await;
    let gateway = Gateway::start(Engine::Sqlite, &yaml(&echo.url(), "")).await;
    let ann = gateway.client().register("ann@example.org").await;
    let mut socket = Socket::open(gateway.address(), "/ws/a", &ann.access).await;
    socket.echoed("hello").await;
    echo.kill();
    assert_eq!(socket.closed().await, None, "nobody has said goodbye in its place");
    all_over(&gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_s_own_refusal_passes() {
    let echo = Echo::start().await;
    let gateway = Gateway::start(Engine::Sqlite, &yaml(&echo.url(), "")).await;
    let ann = gateway.client().register("ann@example.org").await;
    let (name, token) = bearer(&ann.access);
    let refused = Socket::ask(gateway.address(), &[(name, &token)], "/ws/refused").await.err();
    assert_eq!(refused, Some(403));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_gives_tunnels_its_time_and_then_says_goodbye() {
    let echo = Echo::start().await;
    let yaml = format!(
        "listeners: {{public: {{bind: \"127.0.0.1:0\"}}, admin: {{bind: \"127.0.0.1:0\"}}, drain: 1s}}\n{}",
        yaml(&echo.url(), "")
    );
    let mut gateway = Gateway::start(Engine::Sqlite, &yaml).await;
    let ann = gateway.client().register("ann@example.org").await;
    let mut socket = Socket::open(gateway.address(), "/ws/a", &ann.access).await;
    let mut leaving = Socket::open(gateway.address(), "/ws/b", &ann.access).await;
    let stop = gateway.stop();
    let both = async {
        // The listener is closed, the tunnels are not.
        socket.echoed("before the time is up").await;
        leaving.close().await;
        socket.closed().await
    };
    let ((), closed) = tokio::join!(stop, both);
    assert_eq!(closed.map(|(code, _)| code), Some(1001));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_in_which_nothing_moves_is_closed_and_no_connection_s_idle_time_is_its() {
    let echo = Echo::start().await;
    // Shorter than the tunnel's: it must not count.
    let listeners =
        "listeners: {public: {bind: \"127.0.0.1:0\", timeouts: {idle: 1s}}, admin: {bind: \"127.0.0.1:0\"}}";
    let more = ", timeouts: {idle: 100ms, tunnel_idle: 2s}";
    let gateway = Gateway::start(Engine::Sqlite, &format!("{listeners}\n{}", yaml(&echo.url(), more))).await;
    let ann = gateway.client().register("ann@example.org").await;
    let mut socket = Socket::open(gateway.address(), "/ws/a", &ann.access).await;
    // Whoever else had ended it would not have said so.
    assert_eq!(socket.closed().await, Some((1001, "answer_cut".to_owned())));
}

#[tokio::test]
async fn a_goodbye_stands_between_frames_or_is_not_said() {
    let (upstream, gateway) = raw_gateway("").await;
    let client = gateway.client();
    client.register("ann@example.org").await;
    upstream.hold("/ws/a");
    let whole = text("hello");
    for (sent, passed, said) in [
        (whole.clone(), whole.clone(), true),
        // Half a frame is here: who follows it would be part of it.
        (format!("{whole}\u{81}\u{5}he"), format!("{whole}\u{81}\u{5}he"), false),
        // The service has said it: there is no second one.
        ("\u{88}\u{2}\u{3}\u{e8}".to_owned(), "\u{88}\u{2}\u{3}\u{e8}".to_owned(), false),
    ] {
        let ann = client.login("ann@example.org").await;
        let mut raw = gateway.raw().await;
        let authorization = format!("Authorization: Bearer {}\r\n", ann.access);
        raw.send(&format!("GET /ws/a HTTP/1.1\r\nHost: a.test\r\n{authorization}{HANDSHAKE}\r\n")).await;
        let mut held = upstream.held().await;
        held.switch(ACCEPT).await;
        held.write_bytes(&latin(&sent)).await;
        assert_eq!(raw.head_only().await.word(1), "101");
        assert_eq!(raw.bytes(latin(&passed).len()).await, latin(&passed));
        client.post("/auth/logout").bearer(&ann.access).send().await.expect(204);
        let mut last = raw.closed().await;
        if said {
            assert_eq!(last.drain(..4).collect::<Vec<_>>(), [0x88, 15, 0x03, 0xf0]);
            assert_eq!(last, b"session_ended");
        } else {
            assert_eq!(last, b"");
        }
        held.given_up().await;
    }
}
