//! Floods before authentication: how many connections an address may hold and open, who makes room when the listener is
//! full, what follows from bad requests and from garbage tokens; and that honest clients are served meanwhile.

use std::time::Duration;

use portcullis::policy::keys::{Algorithm, SigningKey};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::harness::{
    client::Answer,
    gateway::{Engine, Gateway, Setup, standard},
    raw::Raw,
    site::connect,
    soon,
    tls::Authority,
    tokens::{good_claims, good_header, signed, unsigned, with},
    upstream::Upstream,
    websocket::{Echo, Socket, bearer},
};

/// A listener that these keys are said of.
fn yaml(public: &str, more: &str, routes: &str) -> String {
    format!(
        "listeners: {{public: {{bind: \"127.0.0.1:0\"{public}}}, admin: {{bind: \"127.0.0.1:0\"}}{more}}}\n{routes}"
    )
}

async fn gateway(public: &str, more: &str) -> (Gateway, Upstream) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Engine::Sqlite, &yaml(public, more, &standard(&upstream))).await;
    (gateway, upstream)
}

const GET: &str = "GET /open/a HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// The status of a request over a connection of its own; `None` when that is closed instead.
async fn asks(source: &str, gateway: &Gateway) -> Option<(u16, Raw)> {
    let mut raw = Raw::over(connect(source, gateway.address()).await, &gateway.invariants);
    // It may be reset before or after it is written.
    raw.try_send(GET.as_bytes()).await.ok()?;
    let answer = raw.answer().await?;
    Some((answer.status, raw))
}

async fn served(source: &str, gateway: &Gateway) -> bool {
    asks(source, gateway).await.is_some_and(|(status, _)| status == 200)
}

async fn refused(gateway: &Gateway, kind: &str) -> f64 {
    gateway.metric(&format!("portcullis_floods_refused_total{{kind=\"{kind}\"}}")).await
}

#[tokio::test]
async fn an_address_holds_its_share_of_connections_and_no_more() {
    let (gateway, _upstream) = gateway(", max_connections_per_address: 3", "").await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(asks("127.0.0.1", &gateway).await.expect("a place"));
    }
    assert!(asks("127.0.0.1", &gateway).await.is_none());
    assert!(refused(&gateway, "held").await >= 1.0);
    assert!(served("127.0.0.2", &gateway).await, "another address has its own");
    held.pop();
    soon("the place to be free again", async { while !served("127.0.0.1", &gateway).await {} }).await;
}

#[tokio::test]
async fn a_place_is_free_again_however_its_connection_ends() {
    let echo = Echo::start().await;
    let routes = format!(
        "clusters: {{rag: {{endpoints: [\"{}\"]}}}}\nroutes:\n  \
         - {{name: ws, match: {{path: \"/ws/{{*rest}}\"}}, auth: none, upgrades: [websocket], cluster: rag}}\n",
        echo.url()
    );
    let public = ", max_connections_per_address: 1, timeouts: {first_byte: 100ms, header: 100ms}";
    let gateway = Gateway::start(Engine::Sqlite, &yaml(public, "", &routes)).await;
    let open = || async {
        let (name, value) = bearer("unread");
        let request = crate::harness::websocket::handshake("/ws/a", &[(name, &value)]);
        let stream = connect("127.0.0.1", gateway.address()).await;
        Socket::try_over(Box::new(stream), request).await
    };
    // A tunnel ends by a client that is gone, by one that says so, and by its service.
    for end in ["gone", "close", "service"] {
        let opened = async {
            loop {
                if let Some(socket) = open().await {
                    return socket;
                }
            }
        };
        let mut socket = soon("a place for a tunnel", opened).await;
        socket.echoed("hello").await;
        let before = refused(&gateway, "held").await;
        assert!(asks("127.0.0.1", &gateway).await.is_none(), "a tunnel holds its place: {end}");
        assert!(refused(&gateway, "held").await > before, "{end}");
        match end {
            "gone" => drop(socket),
            "close" => socket.close().await,
            _ => {
                echo.kill();
                socket.closed().await;
            }
        }
    }
    // Silent, half-typed and malformed ones end each in its own way.
    for bytes in ["", "GET /op", "\0\r\n\r\n"] {
        let failed = "portcullis_connections_total{result=\"failed\"}";
        let before = gateway.metric(failed).await;
        // Refused as long as the one before holds the place; that is no failure of a connection.
        let fails = async {
            while gateway.metric(failed).await <= before {
                let mut raw = Raw::over(connect("127.0.0.1", gateway.address()).await, &gateway.invariants);
                let _ = raw.try_send(bytes.as_bytes()).await;
                raw.closed().await;
            }
        };
        soon("a place, and its end", fails).await;
    }
    soon("a place for the last", async { while asks("127.0.0.1", &gateway).await.is_none() {} }).await;
}

#[tokio::test]
async fn an_address_over_tls_is_refused_before_the_handshake() {
    let upstream = Upstream::start().await;
    let authority = Authority::new();
    let ours = authority.certify("localhost");
    let public = ", max_connections_per_address: 1, tls: {certificate: cert.pem, key: key.pem}";
    let setup = Setup::new(Engine::Sqlite, &yaml(public, "", &standard(&upstream)));
    let gateway = setup.file("cert.pem", &ours.certificate).file("key.pem", &ours.key).start().await;
    let _one = authority.connect_h1(gateway.address()).await;
    let mut raw = Raw::over(connect("127.0.0.1", gateway.address()).await, &gateway.invariants);
    assert_eq!(raw.closed().await, b"", "not even an alert");
    assert!((gateway.metric("portcullis_connection_errors_total{kind=\"tls\"}").await).abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_trusted_proxy_holds_and_opens_as_many_as_it_likes() {
    let public = ", max_connections_per_address: 1, flood: {connections: 2}";
    let (gateway, _upstream) = gateway(public, ", trusted_proxies: [127.0.0.1]").await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(asks("127.0.0.1", &gateway).await.expect("a place"));
    }
    assert!(served("127.0.0.2", &gateway).await && !held.is_empty());
}

#[tokio::test]
async fn a_full_listener_closes_who_says_nothing_for_who_asks() {
    let (gateway, upstream) = gateway(", max_connections: 6", "").await;
    upstream.hold("/open/held");
    let mut busy = Raw::over(connect("127.0.0.2", gateway.address()).await, &gateway.invariants);
    busy.send("GET /open/held HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    let mut held = upstream.held().await;
    let mut slow = Vec::new();
    for bytes in ["", "", "GET /open", "GET /open/a HTTP/1.1\r\nX-Slow: "] {
        let mut raw = Raw::over(connect("127.0.0.3", gateway.address()).await, &gateway.invariants);
        let _ = raw.try_send(bytes.as_bytes()).await;
        slow.push(raw);
    }
    let mut honest = Vec::new();
    for _ in 0..4 {
        let (status, raw) = asks("127.0.0.1", &gateway).await.expect("an answer");
        assert_eq!(status, 200);
        honest.push(raw);
    }
    assert!(gateway.metric("portcullis_connections_total{result=\"evicted\"}").await >= 3.0);
    // Who was busy all the time was left alone.
    held.answer(&crate::harness::upstream::Reply::new(200, "done")).await;
    assert_eq!(busy.answer().await.unwrap().text(), "done");
}

#[tokio::test]
async fn an_address_opens_so_many_connections_in_a_window() {
    let (gateway, _upstream) = gateway(", flood: {window: 10s, connections: 5}", "").await;
    for nth in 0..5 {
        assert!(served("127.0.0.1", &gateway).await, "{nth}");
    }
    for _ in 0..3 {
        assert!(asks("127.0.0.1", &gateway).await.is_none());
    }
    assert!(refused(&gateway, "connections").await > 2.5);
    assert!(served("127.0.0.2", &gateway).await);
    gateway.clock.advance(Duration::from_secs(13));
    assert!(served("127.0.0.1", &gateway).await, "some of them have faded; those that were refused never counted");
}

#[tokio::test]
async fn who_sends_what_is_no_request_is_not_let_in_again() {
    let (gateway, upstream) = gateway(", flood: {window: 10s, bad_requests: 4}", "").await;
    let mut kept = gateway.raw().await;
    kept.send(GET).await;
    assert_eq!(kept.answer().await.unwrap().status, 200);
    for _ in 0..4 {
        let mut raw = gateway.raw().await;
        raw.send("\0\0\r\n\r\n").await;
        raw.closed().await;
    }
    assert!(asks("127.0.0.1", &gateway).await.is_none());
    assert!(refused(&gateway, "bad_connections").await > 0.5);
    // A connection that stands is answered from the head alone.
    let asked = upstream.received().len();
    kept.send(GET).await;
    let answer = kept.answer().await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (429, "address_flooding"));
    assert_eq!(answer.head.header("retry-after"), Some("10"));
    assert_eq!(upstream.received().len(), asked);
    assert!(served("127.0.0.2", &gateway).await);
    gateway.clock.advance(Duration::from_secs(20));
    assert!(served("127.0.0.1", &gateway).await);
}

#[tokio::test]
async fn what_no_route_takes_counts_for_the_client_and_not_for_its_proxy() {
    let (gateway, _upstream) =
        gateway(", flood: {window: 10s, bad_requests: 6}", ", trusted_proxies: [127.0.0.1]").await;
    let client = gateway.client();
    let of =
        |client_address: &'static str, path: &str| client.get(path).header("x-forwarded-for", client_address).send();
    let mut statuses = Vec::new();
    for path in ["/nowhere", "/open//a", "/nowhere/else"] {
        statuses.push(of("203.0.113.9", path).await.status);
        statuses.push(of("203.0.113.9", path).await.status);
    }
    assert_eq!(statuses, [404, 404, 400, 400, 404, 404]);
    of("203.0.113.9", "/open/a").await.refused(429, "address_flooding");
    of("203.0.113.9", "/nowhere").await.refused(429, "address_flooding");
    of("203.0.113.10", "/open/a").await.expect(200);
    // The proxy itself, and what it says badly.
    for _ in 0..9 {
        client.get("/nowhere").send().await.expect(404);
        client.get("/open/a").header("x-forwarded-for", "garbage").send().await.expect(400);
    }
    client.get("/open/a").send().await.expect(200);
}

/// Tokens by a stranger's key under the name of ours: all is right but the signature.
struct Forger {
    stranger: SigningKey,
    header: Value,
    made: u32,
}

impl Forger {
    async fn new(gateway: &Gateway) -> Self {
        let key = SigningKey::generate_pkcs8(Algorithm::Es256).unwrap();
        let stranger = SigningKey::from_pkcs8(Algorithm::Es256, key.expose_secret()).unwrap();
        Self { stranger, header: good_header(&gateway.signing_key().await), made: 0 }
    }

    fn next(&mut self) -> String {
        self.made += 1;
        signed(&self.stranger, &self.header, &with(good_claims(), &json!({"jti": self.made.to_string()})))
    }
}

async fn checked(gateway: &Gateway, result: &str) -> u32 {
    let value = gateway.metric(&format!("portcullis_signature_checks_total{{result=\"{result}\"}}")).await;
    format!("{value:.0}").parse().unwrap()
}

async fn ask(gateway: &Gateway, source: &str, token: &str) -> Answer {
    gateway.client_at(source).get("/ask/a").bearer(token).send().await
}

#[tokio::test]
async fn a_malformed_token_costs_no_cryptography() {
    let (gateway, upstream) = gateway(", flood: {failed_tokens: 1}", "").await;
    let key = gateway.signing_key().await;
    let (header, claims) = (good_header(&key), good_claims());
    let good = signed(&key, &header, &claims);
    let (head, _) = good.split_once('.').unwrap();
    let by_header = |changes: Value| signed(&key, &with(header.clone(), &changes), &claims);
    for token in [
        "garbage",
        "a.b",
        "a.b.c",
        "..",
        "null",
        &format!("{good}.e30"),
        &format!("{good}="),
        &good[..good.len() - 1],
        &format!("{head}.e30."),
        &format!("{head}.!.e30"),
        &unsigned(&with(header.clone(), &json!({"alg": "none"})), &claims, b"e30"),
        &by_header(json!({"alg": "HS256"})),
        &by_header(json!({"kid": "elsewhere"})),
        &by_header(json!({"typ": "JWT"})),
        &by_header(json!({"crit": ["exp"]})),
        &"x".repeat(9 << 10),
    ] {
        ask(&gateway, "127.0.0.1", token).await.refused(401, "invalid_token");
    }
    for result in ["good", "bad", "known_bad"] {
        assert_eq!(checked(&gateway, result).await, 0, "{result}");
    }
    assert!(refused(&gateway, "failed_tokens").await < 0.5, "and nothing of it was charged");
    upstream.assert_untouched();
}

#[tokio::test]
async fn a_token_that_does_not_verify_is_computed_once() {
    let (gateway, _upstream) = gateway(", flood: {failed_tokens: 2}", "").await;
    let forged = Forger::new(&gateway).await.next();
    for _ in 0..10 {
        ask(&gateway, "127.0.0.1", &forged).await.refused(401, "invalid_token");
    }
    assert_eq!((checked(&gateway, "bad").await, checked(&gateway, "known_bad").await), (1, 9));
    gateway.clock.advance(Duration::from_secs(61));
    ask(&gateway, "127.0.0.1", &forged).await.refused(401, "invalid_token");
    assert_eq!(checked(&gateway, "bad").await, 2, "known for a minute and no longer");
}

#[tokio::test]
async fn who_sends_garbage_tokens_is_refused_unread_and_known_users_beside_them_go_on() {
    let (gateway, _upstream) = gateway(", flood: {window: 30s, failed_tokens: 3}", "").await;
    let ann = gateway.client().register("ann@example.org").await;
    ask(&gateway, "127.0.0.1", &ann.access).await.expect(200);
    let good = checked(&gateway, "good").await;
    let mut forger = Forger::new(&gateway).await;
    for _ in 0..3 {
        ask(&gateway, "127.0.0.1", &forger.next()).await.refused(401, "invalid_token");
    }
    for _ in 0..5 {
        let answer = ask(&gateway, "127.0.0.1", &forger.next()).await;
        answer.refused(429, "tokens_unchecked");
        assert_eq!(answer.header("retry-after"), Some("10"));
    }
    assert_eq!(checked(&gateway, "bad").await, 3, "no cryptography for the rest");
    assert!(refused(&gateway, "failed_tokens").await > 4.5);
    // Who is known goes on, behind the same address too; a token that was just issued there waits with the garbage.
    ask(&gateway, "127.0.0.1", &ann.access).await.expect(200);
    let fresh = gateway.client().login("ann@example.org").await;
    ask(&gateway, "127.0.0.1", &fresh.access).await.refused(429, "tokens_unchecked");
    ask(&gateway, "127.0.0.2", &fresh.access).await.expect(200);
    ask(&gateway, "127.0.0.1", &fresh.access).await.expect(200);
    let later = gateway.client().login("ann@example.org").await;
    gateway.clock.advance(Duration::from_secs(10));
    ask(&gateway, "127.0.0.1", &later.access).await.expect(200);
    assert_eq!(checked(&gateway, "good").await, good + 2);
}
