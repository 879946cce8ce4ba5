//! What the gateway knows and no client or service can say in its place, over HTTP/1.1 and over HTTP/2: who calls, from
//! where, and under which id; in the head both ways, and in an answer's trailers.

use http_body_util::BodyExt;
use tokio::net::TcpSocket;

use crate::harness::{
    gateway::{Engine, Gateway, standard},
    h2::{Fate, H2},
    raw::Raw,
    upstream::{Received, Upstream},
};

/// The protocol a gateway speaks to its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Http {
    One,
    Two,
}

/// A gateway with the standard routes that believes the proxies at 127.0.0.9 and in 10.0.0.0/8.
async fn gateway(http: Http, upstream: &Upstream, more: &str) -> Gateway {
    let yaml = format!(
        "listeners: {{public: {{bind: \"127.0.0.1:0\", h2c: {}}}, admin: {{bind: \"127.0.0.1:0\"}}, \
         trusted_proxies: [127.0.0.9, 10.0.0.0/8]}}\n{}",
        http == Http::Two,
        standard(upstream).replace("rag: {", &format!("rag: {{{more}"))
    );
    Gateway::start(Engine::Sqlite, &yaml).await
}

/// Status, and code of a problem document, of one request from this address on a connection of its own.
async fn ask(gateway: &Gateway, http: Http, from: &str, path: &str, fields: &[(&str, &str)]) -> (u16, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    let stream = socket.connect(gateway.address()).await.unwrap();
    match http {
        Http::One => {
            let lines: Vec<_> = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let mut raw = Raw::over(stream, &gateway.invariants);
            raw.send(&format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{}\r\n", lines.concat())).await;
            let answer = raw.answer().await.unwrap();
            (answer.status, answer.code())
        }
        Http::Two => {
            let mut h2 = H2::begin(stream).await;
            let head = [(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", path)];
            h2.headers(&[&head[..], fields].concat(), true).await;
            match h2.fate().await {
                Fate::Answered(status, code) => (status, code),
                other => panic!("{other:?}"),
            }
        }
    }
}

async fn nothing_a_client_says_of_itself_arrives(http: Http) {
    const SPOOFED: [(&str, &str); 24] = [
        ("x-gateway-identity", "e30.e30.eve"),
        ("x-user", "eve"),
        ("x-user-id", "eve"),
        ("x-user-email", "eve@example.org"),
        ("x-user-roles", "eve"),
        ("x-user-groups", "eve"),
        ("x-org-id", "eve"),
        ("x-forwarded-for", "eve"),
        ("x-forwarded-host", "eve.example"),
        ("x-forwarded-proto", "eve"),
        ("x-forwarded-user", "eve"),
        ("x-auth-request-email", "eve"),
        ("x-real-ip", "eve"),
        ("forwarded", "for=eve"),
        ("remote-user", "eve"),
        ("x-webauth-user", "eve"),
        ("x-original-url", "/eve"),
        ("x-rewrite-url", "/eve"),
        ("x-http-method-override", "eve"),
        ("x-goog-iap-jwt-assertion", "eve"),
        ("cf-access-jwt-assertion", "eve"),
        ("x-request-id", "eve"),
        ("proxy", "eve"),
        ("x-who", "eve"),
    ];
    let upstream = Upstream::start().await;
    let gateway = gateway(http, &upstream, "identity: {headers: {user: X-Who}}, ").await;
    for path in ["/open/a", "/maybe/a"] {
        assert_eq!(ask(&gateway, http, "127.0.0.1", path, &SPOOFED).await, (200, String::new()), "{path}");
        let head = upstream.last().head;
        assert!(!format!("{head:?}").contains("eve"), "{path}: {head:#?}");
        assert_eq!(head.header("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(head.header("x-forwarded-host"), Some("a.test"));
        assert!(head.header("x-gateway-identity").is_some() && head.header("x-request-id").is_some());
    }
    let arrived = upstream.received().len();
    for name in ["x_user_id", "x-user_id", "x_gateway-identity", "content_length", "_"] {
        let refused = ask(&gateway, http, "127.0.0.1", "/open/a", &[(name, "eve")]).await;
        assert_eq!(refused, (400, "header_invalid".to_owned()), "{name}");
    }
    assert_eq!(upstream.received().len(), arrived);
}

async fn the_client_s_address_is_found_through_trusted_proxies_only(http: Http) {
    let upstream = Upstream::start().await;
    let gateway = gateway(http, &upstream, "").await;
    let address = |received: &Received| received.head.header("x-forwarded-for").map(str::to_owned);
    for (from, values, expected) in [
        ("127.0.0.1", &["6.6.6.6, 9.9.9.9"][..], "127.0.0.1"),
        ("127.0.0.1", &["nonsense"][..], "127.0.0.1"),
        ("127.0.0.9", &[][..], "127.0.0.9"),
        ("127.0.0.9", &["6.6.6.6, 9.9.9.9"][..], "9.9.9.9"),
        ("127.0.0.9", &["6.6.6.6, 9.9.9.9, 10.1.2.3"][..], "9.9.9.9"),
        ("127.0.0.9", &["6.6.6.6", "9.9.9.9", "10.1.2.3, 127.0.0.9"][..], "9.9.9.9"),
        ("127.0.0.9", &["nonsense, 9.9.9.9"][..], "9.9.9.9"),
        ("127.0.0.9", &["10.1.2.3, 10.4.5.6"][..], "10.1.2.3"),
        ("127.0.0.9", &["[2001:db8::7]:4711"][..], "2001:db8::7"),
    ] {
        let fields: Vec<_> = values.iter().map(|value| ("x-forwarded-for", *value)).collect();
        assert_eq!(ask(&gateway, http, from, "/open/a", &fields).await.0, 200, "{from} {values:?}");
        assert_eq!(address(&upstream.last()).as_deref(), Some(expected), "{from} {values:?}");
    }
    let arrived = upstream.received().len();
    for values in ["9.9.9.9, nonsense", "unknown", "9.9.9.9, 10.0.0.1 10.0.0.2"] {
        let refused = ask(&gateway, http, "127.0.0.9", "/open/a", &[("x-forwarded-for", values)]).await;
        assert_eq!(refused, (400, "header_invalid".to_owned()), "{values}");
    }
    assert_eq!(upstream.received().len(), arrived);
}

/// A service writes these trailers; what of them reaches the client.
async fn trailers_of(http: Http, trailers: &[(&str, &str)]) -> Vec<String> {
    let upstream = Upstream::start().await;
    let gateway = gateway(http, &upstream, "identity: {headers: {user: X-Who}}, ").await;
    upstream.hold("/open/x");
    let announced: Vec<_> = trailers.iter().map(|(name, _)| ("trailer", *name)).collect();
    let answer = async {
        let mut held = upstream.held().await;
        held.begin(200, &announced).await;
        held.chunk("data").await;
        held.end(trailers).await;
    };
    let url = format!("http://{}/open/x", gateway.address());
    let mut got = match http {
        Http::One => {
            let mut raw = gateway.raw().await;
            raw.send("GET /open/x HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\n\r\n").await;
            answer.await;
            let body = raw.answer().await.unwrap().body;
            assert!(body.whole);
            body.trailers.into_iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>()
        }
        Http::Two => {
            let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
            let (response, ()) = tokio::join!(client.get(url).send(), answer);
            let response: http::Response<reqwest::Body> = response.unwrap().into();
            let body = response.into_body().collect().await.unwrap();
            let trailers = body.trailers().cloned().unwrap_or_default();
            trailers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
        }
    };
    got.sort();
    got
}

async fn trailers_cannot_say_what_the_head_may_not(http: Http) {
    let got = trailers_of(
        http,
        &[
            ("x-checksum", "abc"),
            ("grpc-status", "0"),
            ("x-user-id", "eve"),
            ("x-gateway-identity", "eve"),
            ("x-who", "eve"),
            ("x-request-id", "eve"),
            ("x-forwarded-for", "eve"),
        ],
    )
    .await;
    assert_eq!(got, ["grpc-status: 0", "x-checksum: abc"]);
}

async fn trailers_set_no_cookie_of_ours_and_frame_nothing(http: Http) {
    let got = trailers_of(
        http,
        &[
            ("x-checksum", "abc"),
            ("set-cookie", "__Secure-portcullis-refresh=eve; Path=/auth; Secure"),
            ("content-type", "text/eve"),
            ("keep-alive", "timeout=5"),
        ],
    )
    .await;
    assert_eq!(got, ["x-checksum: abc"]);
}

macro_rules! both_ways {
    ($($name:ident),* $(,)?) => {
        mod over_http_1 {
            $(
                #[tokio::test]
                async fn $name() {
                    super::$name(super::Http::One).await;
                }
            )*
        }
        mod over_http_2 {
            $(
                #[tokio::test]
                async fn $name() {
                    super::$name(super::Http::Two).await;
                }
            )*
        }
    };
}

both_ways!(
    nothing_a_client_says_of_itself_arrives,
    the_client_s_address_is_found_through_trusted_proxies_only,
    trailers_cannot_say_what_the_head_may_not,
    trailers_set_no_cookie_of_ours_and_frame_nothing,
);
