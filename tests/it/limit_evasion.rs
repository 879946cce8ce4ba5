//! Ways around a limit that are none: however a client writes its request, and however often it becomes a new one of
//! the same person at the same place, it finds the same bucket.

use serde_json::json;

use crate::harness::{
    client::Call,
    gateway::{Engine, Gateway, Setup},
    h2::{Fate, H2},
    raw::Raw,
    tls::Authority,
    tokens::{good_claims, good_header, signed},
    upstream::Upstream,
};

/// Six requests of a user, an address and on a route; the limit under test is the one that `limits` names.
async fn gateway(limit: &str) -> (Gateway, Upstream) {
    let upstream = Upstream::start().await;
    (Gateway::start(Engine::Sqlite, &yaml(&upstream, limit, "")).await, upstream)
}

fn yaml(upstream: &Upstream, limit: &str, tls: &str) -> String {
    format!(
        r#"
listeners: {{public: {{bind: "127.0.0.1:0"{tls}}}, admin: {{bind: "127.0.0.1:0"}}, trusted_proxies: [127.0.0.9]}}
clusters:
  rag: {{endpoints: ["{}"]}}
limits:
  subject: {{by: subject, rate: 6/1d}}
  subject-route: {{by: [subject, route], rate: 6/1d}}
  address: {{by: address, rate: 6/1d}}
  route: {{by: route, rate: 6/1d}}
  tenant: {{by: header:x-tenant, rate: 6/1d}}
routes:
  - {{name: ask, match: {{path: "/ask/{{*rest}}"}}, auth: optional, limits: [{limit}], cluster: rag}}
"#,
        upstream.url()
    )
}

/// Each way once admitted or refused as malformed, then all refused: whoever finds a bucket of its own would be let in.
/// Gives how many were admitted.
async fn one_bucket(ways: &[&dyn Fn() -> Call], rounds: usize) -> usize {
    let mut admitted = 0;
    for _ in 0..rounds {
        for way in ways {
            admitted += usize::from(way().send().await.status == 200);
        }
    }
    admitted
}

#[tokio::test]
async fn new_tokens_of_the_same_user_find_the_same_bucket() {
    for limit in ["subject", "subject-route"] {
        let (gateway, upstream) = gateway(limit).await;
        let client = &gateway.client();
        let first = client.register("ann@example.org").await;
        let (second, third) = (client.login("ann@example.org").await, client.login("ANN@example.org").await);
        let refreshed = client.refreshed(&second.refresh).await;
        let tokens = [&first.access, &second.access, &third.access, &refreshed.access];
        let ways = tokens.map(|token| move || client.get("/ask/a").bearer(token));
        let ways = ways.each_ref().map(|way| way as &dyn Fn() -> Call);
        assert_eq!(one_bucket(&ways, 5).await, 6, "{limit}");
        assert_eq!(upstream.received().len(), 6);
        // From other addresses too.
        for address in ["127.0.0.2", "127.0.0.3"] {
            let there = gateway.client_at(address);
            there.get("/ask/a").bearer(tokens[0]).send().await.refused(429, "quota_exceeded");
        }
    }
}

#[tokio::test]
async fn a_token_is_the_same_however_its_header_is_written() {
    let (gateway, upstream) = gateway("subject").await;
    let ann = gateway.client().register("ann@example.org").await;
    let spelled = [
        format!("Authorization: Bearer {}", ann.access),
        format!("authorization: Bearer {}", ann.access),
        format!("AUTHORIZATION: bearer {}", ann.access),
        format!("aUtHoRiZaTiOn:\tBEARER {}", ann.access),
        format!("Authorization:Bearer  {}", ann.access),
    ];
    let mut admitted = 0;
    for _ in 0..4 {
        for header in &spelled {
            let mut raw = gateway.raw().await;
            raw.send(&format!("GET /ask/a HTTP/1.1\r\nHost: a.test\r\n{header}\r\nX-Noise: 1\r\n\r\n")).await;
            admitted += usize::from(raw.answer().await.unwrap().status == 200);
        }
    }
    assert_eq!((admitted, upstream.received().len()), (6, 6));
}

#[tokio::test]
async fn paths_that_lead_to_a_route_share_its_bucket_and_others_lead_nowhere() {
    for limit in ["route", "subject-route"] {
        let (gateway, upstream) = gateway(limit).await;
        let ann = gateway.client().register("ann@example.org").await;
        let paths = [
            "/ask/a",
            "/ask/a/",
            "/ask//a",
            "//ask/a",
            "/ask/./a",
            "/ask/%2e/a",
            "/ask/b/../a",
            "/ask/%61",
            "/%61sk/a",
            "/ASK/a",
            "/ask/A",
            "/ask/a;v=1",
            "/ask/a?x=1",
            "/ask/a?",
            "/ask%2fa",
            "/ask\\a",
            "http://a.test/ask/a",
        ];
        let mut admitted = 0;
        for _ in 0..5 {
            for path in paths {
                let mut raw = gateway.raw().await;
                let bearer = &ann.access;
                raw.send(&format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {bearer}\r\n\r\n"))
                    .await;
                let status = raw.answer().await.unwrap().status;
                assert!([200, 400, 404, 429].contains(&status), "{path}: {status}");
                admitted += usize::from(status == 200);
            }
        }
        assert_eq!((admitted, upstream.received().len()), (6, 6), "{limit}");
    }
}

#[tokio::test]
async fn one_protocol_is_no_way_around_the_limit_of_the_other() {
    for limit in ["address", "subject", "route"] {
        let (upstream, authority) = (Upstream::start().await, Authority::new());
        let certified = authority.certify("localhost");
        let yaml = yaml(&upstream, limit, ", tls: {certificate: cert.pem, key: key.pem}");
        let setup = Setup::new(Engine::Sqlite, &yaml);
        let setup = setup.file("cert.pem", &certified.certificate).file("key.pem", &certified.key);
        let gateway = setup.start().await;
        let key = gateway.signing_key().await;
        let bearer = format!("Bearer {}", signed(&key, &good_header(&key), &good_claims()));
        let mut admitted = 0;
        for _ in 0..6 {
            let mut raw = Raw::over(authority.connect_h1(gateway.address()).await, &gateway.invariants);
            raw.send(&format!("GET /ask/a HTTP/1.1\r\nHost: a.test\r\nAuthorization: {bearer}\r\n\r\n")).await;
            admitted += usize::from(raw.answer().await.unwrap().status == 200);
            let mut h2 = H2::begin(authority.connect_h2(gateway.address()).await).await;
            let head = [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/ask/a")];
            h2.headers(&[&head[..], &[("authorization", &bearer)]].concat(), true).await;
            match h2.fate().await {
                Fate::Answered(status, _) => admitted += usize::from(status == 200),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((admitted, upstream.received().len()), (6, 6), "{limit}");
    }
}

#[tokio::test]
async fn what_a_client_says_of_its_address_or_tenant_is_not_believed() {
    const SAID: [&str; 7] =
        ["x-forwarded-for", "X-FORWARDED-FOR", "forwarded", "x-real-ip", "cf-connecting-ip", "x-client-ip", "x-tenant"];
    for limit in ["address", "tenant"] {
        let (gateway, upstream) = gateway(limit).await;
        let mut admitted = 0;
        for number in 0..30 {
            let mut raw = gateway.raw().await;
            let (name, value) = (SAID[number % SAID.len()], format!("198.51.100.{number}"));
            let value = if name == "forwarded" { format!("for={value}") } else { value };
            raw.send(&format!("GET /ask/a HTTP/1.1\r\nHost: a.test\r\n{name}: {value}\r\n\r\n")).await;
            admitted += usize::from(raw.answer().await.unwrap().status == 200);
        }
        assert_eq!((admitted, upstream.received().len()), (6, 6), "{limit}");
    }
}

#[tokio::test]
async fn a_proxy_that_is_believed_is_believed_for_the_last_entry_only() {
    let (gateway, upstream) = gateway("address").await;
    let proxy = gateway.client_at("127.0.0.9");
    let mut admitted = 0;
    for number in 0..30 {
        // The left part is the client's own invention; the proxy has appended the peer it saw.
        let said = format!("198.51.100.{number}, 203.0.113.7");
        admitted += usize::from(proxy.get("/ask/a").header("x-forwarded-for", &said).send().await.status == 200);
    }
    assert_eq!((admitted, upstream.received().len()), (6, 6));
}

#[tokio::test]
async fn the_addresses_of_one_ipv6_customer_are_one_and_so_are_two_ways_to_write_ipv4() {
    let (gateway, _upstream) = gateway("address").await;
    let proxy = gateway.client_at("127.0.0.9");
    let asked = async |from: &str| proxy.get("/ask/a").header("x-forwarded-for", from).send().await.status;
    let mut admitted = 0;
    for number in 0..30 {
        admitted += usize::from(asked(&format!("2001:db8:1:2:{number:x}::{number:x}")).await == 200);
    }
    assert_eq!(admitted, 6);
    assert_eq!(asked("2001:db8:1:3::1").await, 200, "the neighbour has its own");
    let mut admitted = 0;
    for _ in 0..10 {
        for from in ["203.0.113.7", "::ffff:203.0.113.7", "[::ffff:cb00:7107]:99", "203.0.113.7:1234"] {
            admitted += usize::from(asked(from).await == 200);
        }
    }
    assert_eq!(admitted, 6);
}

#[tokio::test]
async fn guesses_share_the_limit_whatever_the_login_is_written_like() {
    let upstream = Upstream::start().await;
    let yaml = format!(
        "clusters: {{rag: {{endpoints: [\"{}\"]}}}}\nlimits: {{door: {{by: address, rate: 6/1d}}}}\n\
         portal: {{limits: [door]}}\nroutes: [{{name: ask, match: {{path: /ask}}, cluster: rag}}]\n",
        upstream.url()
    );
    let gateway = Gateway::start(Engine::Sqlite, &yaml).await;
    let client = gateway.client();
    let mut looked_at = 0;
    for number in 0..30 {
        let guess = json!({"email": format!("user{number}@example.org"), "password": "wrong"});
        let path = ["/auth/login", "/auth/login?x=1"][number % 2];
        looked_at += usize::from(client.post(path).json(&guess).send().await.status == 401);
    }
    assert_eq!(looked_at, 6);
}
