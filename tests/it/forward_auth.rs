//! Decisions for other proxies, question by question: the policy of the route that the original names, and nothing
//! else. (With the real proxies: [`crate::deployments`]; every route and credential: [`crate::access_matrix`].)

use std::collections::HashMap;

use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpSocket;

use crate::harness::{
    binary::Binary,
    gateway::{Engine, Gateway, ISSUER},
    h2::{Fate, H2},
    identity,
    question::{Decided, HOST, PROXIES, PROXY, ask, question},
    tokens::claims_of,
    upstream::Upstream,
};

/// The proxies at .8 and .9 are believed, that at .9 may ask.
fn yaml(upstream: &Upstream) -> String {
    format!(
        r#"
listeners: {{public: {{bind: "127.0.0.1:0"}}, admin: {{bind: "127.0.0.1:0"}}, trusted_proxies: [127.0.0.8, 127.0.0.9]}}
forward_auth: {{trusted: [127.0.0.9]}}
limits: {{slow: {{by: address, rate: 1/m, burst: 2}}}}
clusters:
  rag: {{endpoints: ["{}"]}}
routes:
  - {{name: ask, match: {{path: "/ask/{{*rest}}", hosts: [{HOST}]}}, cluster: rag}}
  - {{name: maybe, match: {{path: "/maybe/{{*rest}}"}}, auth: optional, credentials: [bearer, cookie], cluster: rag}}
  - {{name: open, match: {{path: "/open/{{*rest}}"}}, auth: none, cluster: rag}}
  - {{name: read, match: {{path: "/read/{{*rest}}", methods: [GET]}}, auth: none, cluster: rag}}
  - {{name: keep, match: {{path: "/keep/{{*rest}}"}}, forward_authorization: true, cluster: rag}}
  - {{name: admin, match: {{path: "/admin/{{*rest}}"}}, roles: [admin], cluster: rag}}
  - {{name: slow, match: {{path: "/slow/{{*rest}}"}}, auth: none, limits: [slow], cluster: rag}}
  - {{name: page, match: {{path: "/page/{{*rest}}"}}, credentials: [bearer, cookie], allowed_origins: ["https://app.test"], cluster: rag}}
"#,
        upstream.url()
    )
}

struct House {
    upstream: Upstream,
    gateway: Gateway,
    token: String,
}

impl House {
    async fn new() -> Self {
        let upstream = Upstream::start().await;
        let gateway = Gateway::start(Engine::Sqlite, &yaml(&upstream)).await;
        let token = gateway.client().register("ann@example.org").await.access;
        Self { upstream, gateway, token }
    }

    async fn ask(&self, proxy: &str, method: &str, uri: &str, client: &[(&str, &str)]) -> Decided {
        ask(self.gateway.address(), PROXY, &question(proxy, method, uri), client).await
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }
}

#[tokio::test]
async fn a_decision_tells_the_proxy_who_calls_and_the_service_is_not_asked() {
    let house = House::new().await;
    let bearer = house.bearer();
    for proxy in PROXIES {
        let yes = house.ask(proxy, "POST", "/ask/a?q=%2f..", &[("authorization", &bearer)]).await;
        assert_eq!((yes.status, yes.body.len()), (200, 0), "{proxy}");
        let token = yes.head.header("x-gateway-identity").unwrap();
        let claims = identity::verify(&house.gateway.client(), token, ISSUER, "rag").await.unwrap();
        let mine = claims_of(&house.token);
        assert_eq!(claims["sub"], mine["sub"]);
        assert_eq!(yes.head.header("x-user-id"), mine["sub"].as_str());
        assert_eq!(yes.head.header("x-user-roles"), Some("user"));
        assert!(yes.head.header("x-request-id").is_some());
        assert_eq!(yes.head.header("cache-control"), Some("no-store"));

        let no = house.ask(proxy, "POST", "/ask/a", &[]).await;
        assert_eq!((no.status, &*no.code()), (401, "credentials_missing"), "{proxy}");
        assert_eq!(no.head.header("www-authenticate"), Some("Bearer realm=\"portcullis\""));
        let no = house.ask(proxy, "POST", "/ask/a", &[("authorization", "Bearer x.y.z")]).await;
        assert_eq!((no.status, &*no.code()), (401, "invalid_token"), "{proxy}");
        let no = house.ask(proxy, "GET", "/admin/a", &[("authorization", &bearer)]).await;
        assert_eq!((no.status, &*no.code()), (403, "role_missing"), "{proxy}");
        // A route of another method, or of none: nginx makes 500 of what it does not know.
        for (method, uri, status, code) in
            [("PUT", "/read/a", 405, "method_not_allowed"), ("GET", "/nowhere", 404, "no_route")]
        {
            let no = house.ask(proxy, method, uri, &[("authorization", &bearer)]).await;
            assert_eq!((no.true_status(), &*no.code()), (status, code), "{proxy}");
            assert_eq!(no.status, if proxy == "nginx" { 403 } else { status }, "{proxy}");
        }
        let anonymous = house.ask(proxy, "GET", "/open/a", &[("authorization", &bearer)]).await;
        assert_eq!(anonymous.status, 200, "{proxy}");
        let token = anonymous.head.header("x-gateway-identity").unwrap();
        assert!(claims_of(token).get("sub").is_none() && anonymous.head.header("x-user-id").is_none());
    }
    house.upstream.assert_untouched();
    // By the route and method that were asked about.
    let counted = r#"portcullis_requests_total{route="ask",reason="ok",method="POST",status="2xx"}"#;
    assert!((house.gateway.metric(counted).await - 4.0).abs() < 0.1);
}

#[tokio::test]
async fn nobody_but_a_trusted_peer_is_told_anything() {
    let house = House::new().await;
    let bearer = house.bearer();
    // A stranger, and a proxy that is only believed where its clients are, whatever they say of themselves.
    for from in ["127.0.0.1", "127.0.0.8"] {
        for proxy in PROXIES {
            let told = [("authorization", &*bearer), ("x-forwarded-for", PROXY), ("x-real-ip", PROXY)];
            let no = ask(house.gateway.address(), from, &question(proxy, "GET", "/open/a"), &told).await;
            assert_eq!((no.status, &*no.code()), (403, "forward_auth_peer"), "{from} {proxy}");
            assert!(no.head.header("x-gateway-identity").is_none());
        }
    }
    house.upstream.assert_untouched();
}

#[tokio::test]
async fn a_question_put_wrongly_is_answered_by_no_service() {
    let upstream = Upstream::start().await;
    // No portal, nobody trusted, and a catch-all for everybody: it would say 200 to anything.
    let catch_all = format!(
        "portal: {{enabled: false}}\nclusters: {{rag: {{endpoints: [\"{}\"]}}}}\n\
         routes: [{{name: all, match: {{path: \"/{{*rest}}\"}}, auth: none, cluster: rag}}]\n",
        upstream.url()
    );
    let closed = Gateway::start(Engine::Sqlite, &catch_all).await;
    let house = House::new().await;
    for path in ["/nginx", "/envoy/a", "", "/", "/ngnix", "/Nginx", "/nginx/", "/nginx/a", "/envoyer/a"] {
        for base in ["/auth/forward", "/Auth/Forward", "/auth/Forward", "/AUTH/forward"] {
            let question = question("nginx", "GET", "/open/a");
            let question = (format!("GET {base}{path}"), question.1);
            let no = ask(closed.address(), PROXY, &question, &[]).await;
            assert_eq!((no.status, &*no.code()), (403, "forward_auth_peer"), "{base}{path}");
            // In letters that a proxy does not keep from its clients nobody is told anything.
            if base != "/auth/forward" || !["/nginx", "/envoy/a"].contains(&path) {
                let no = ask(house.gateway.address(), PROXY, &question, &[]).await;
                assert_eq!((no.status, &*no.code()), (404, "no_route"), "{base}{path}");
            }
        }
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn what_was_asked_is_said_once_or_nothing_is_allowed() {
    let house = House::new().await;
    for proxy in PROXIES {
        let whole = question(proxy, "GET", "/open/a");
        assert_eq!(ask(house.gateway.address(), PROXY, &whole, &[]).await.status, 200, "{proxy}");
        let facts: Vec<_> = whole.1.iter().filter(|(name, _)| name.starts_with("X-")).cloned().collect();
        for (name, value) in &facts {
            let mut without = whole.clone();
            without.1.retain(|(other, _)| other != name);
            let mut twice = whole.clone();
            twice.1.push((name.to_lowercase(), value.clone()));
            let mut empty = whole.clone();
            empty.1.iter_mut().filter(|(other, _)| other == name).for_each(|(_, value)| value.clear());
            for (how, wrong) in [("without", without), ("twice", twice), ("empty", empty)] {
                let no = ask(house.gateway.address(), PROXY, &wrong, &[]).await;
                assert_eq!((no.status, &*no.code()), (403, "forward_auth_original"), "{proxy} {how} {name}");
            }
        }
        // The other proxies' headers, which this one does not set over, decide nothing.
        let other = if proxy == "nginx" { "traefik" } else { "nginx" };
        let lies = question(other, "GET", "/open/a").1;
        let lies: Vec<_> = lies.iter().filter(|(name, _)| name != "Host").map(|(n, v)| (&**n, &**v)).collect();
        let no = ask(house.gateway.address(), PROXY, &question(proxy, "GET", "/ask/a"), &lies).await;
        assert_eq!(no.status, 401, "{proxy}");
        let lies = [("x-original-method", "GET"), ("x-original-url", "/open/a"), ("x-rewrite-url", "/open/a")];
        let lies = if proxy == "nginx" { &lies[1..] } else { &lies[..] };
        let no = ask(house.gateway.address(), PROXY, &question(proxy, "POST", "/read/a"), lies).await;
        assert_eq!(no.true_status(), 405, "{proxy}");
        // `_` is `-` to some; it is refused before anything counts.
        let no = ask(house.gateway.address(), PROXY, &whole, &[("x_original_uri", "/open/a")]).await;
        assert_eq!((no.true_status(), &*no.code()), (400, "header_invalid"), "{proxy}");
    }
    let (_, fields) = question("envoy", "GET", "/open/a");
    let no = ask(house.gateway.address(), PROXY, &("GET /auth/forward/envoy".to_owned(), fields), &[]).await;
    assert_eq!((no.status, &*no.code()), (403, "forward_auth_original"));
    house.upstream.assert_untouched();
}

#[tokio::test]
async fn an_ambiguous_path_is_no_better_for_being_asked_about() {
    let house = House::new().await;
    for proxy in PROXIES {
        for uri in [
            "/open/%2e%2e/ask/a",
            "/open/../ask/a",
            "/open/a%2fb",
            "/open//a",
            "//open/a",
            "/open/a;b",
            "/open/a%3bb",
            "/open/a%5cb",
            "/open/a\\b",
            "/open/a%00",
            "/open/a%252fb",
            "/open/%zz",
        ] {
            let no = house.ask(proxy, "GET", uri, &[]).await;
            assert_eq!((no.true_status(), &*no.code()), (400, "path_invalid"), "{proxy} {uri}");
        }
        // Spelled in another way it is still the closed route.
        assert_eq!(house.ask(proxy, "GET", "/%61sk/a", &[]).await.status, 401, "{proxy}");
        assert_eq!(house.ask(proxy, "GET", "/ope%6e/a", &[]).await.status, 200, "{proxy}");
    }
    // What a request's own target cannot be, a header could say.
    for uri in ["/open/a#/../../ask", "http://rag.test/open/a", "*", "open/a", "/open/a\u{e9}"] {
        for proxy in ["nginx", "traefik", "caddy"] {
            let no = house.ask(proxy, "GET", uri, &[]).await;
            assert_eq!((no.true_status(), &*no.code()), (400, "path_invalid"), "{proxy} {uri}");
        }
    }
    for method in ["TRACE", "CONNECT"] {
        let no = house.ask("nginx", method, "/open/a", &[]).await;
        assert_eq!((no.status, no.true_status()), (403, 405), "{method}");
    }
}

#[tokio::test]
async fn limits_are_the_client_s_and_not_the_proxy_s() {
    let house = House::new().await;
    for (proxy, client) in PROXIES.into_iter().zip(["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]) {
        // The left one is the client's own word.
        let through = format!("198.51.100.1, {client}");
        for _ in 0..2 {
            assert_eq!(house.ask(proxy, "GET", "/slow/a", &[("x-forwarded-for", &through)]).await.status, 200);
        }
        let no = house.ask(proxy, "GET", "/slow/a", &[("x-forwarded-for", &through)]).await;
        assert_eq!((no.true_status(), &*no.code()), (429, "quota_exceeded"), "{proxy}");
        assert_eq!(no.status, if proxy == "nginx" { 403 } else { 429 });
        assert!(no.head.header("retry-after").is_some());
    }
}

#[tokio::test]
async fn a_cookie_counts_by_the_method_that_was_asked_about() {
    let house = House::new().await;
    let cookie = format!("theirs=1; __Host-portcullis-access={}; more=2", house.token);
    for proxy in PROXIES {
        let asked = async |method: &str, more: &[(&str, &str)]| {
            let fields = [&[("cookie", &*cookie)], more].concat();
            let answer = house.ask(proxy, method, "/page/a", &fields).await;
            (answer.status, answer.code())
        };
        let (yes, no) = ((200, String::new()), (403, "cross_site".to_owned()));
        let (here, there) = (("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site"));
        // The question itself is a GET to all but Envoy.
        assert_eq!(asked("POST", &[there]).await, no, "{proxy}");
        assert_eq!(asked("POST", &[]).await, no, "{proxy}");
        assert_eq!(asked("POST", &[here]).await, yes, "{proxy}");
        assert_eq!(asked("GET", &[there]).await, yes, "{proxy}");
        // A WebSocket's handshake is no safe request, and `Upgrade` does not always come along.
        let evil = ("origin", "https://evil.test");
        assert_eq!(asked("GET", &[evil, ("sec-websocket-version", "13")]).await, no, "{proxy}");
        assert_eq!(asked("GET", &[evil, ("connection", "upgrade"), ("upgrade", "websocket")]).await, no, "{proxy}");
        assert_eq!(asked("GET", &[here, ("connection", "upgrade"), ("upgrade", "websocket")]).await, yes, "{proxy}");
        // Ours is not the service's to see.
        let told = house.ask(proxy, "GET", "/page/a", &[("cookie", &cookie), here]).await;
        assert_eq!(told.head.header("cookie"), Some("theirs=1; more=2"), "{proxy}");
    }
}

#[tokio::test]
async fn a_preflight_is_not_let_in_without_credentials() {
    let house = House::new().await;
    for proxy in PROXIES {
        let preflight = [("origin", "https://app.test"), ("access-control-request-method", "GET")];
        let no = house.ask(proxy, "OPTIONS", "/page/a", &preflight).await;
        assert_eq!((no.status, &*no.code()), (401, "credentials_missing"), "{proxy}");
    }
}

#[tokio::test]
async fn the_portal_is_no_service_to_forward_a_password_to() {
    let house = House::new().await;
    let bearer = house.bearer();
    for proxy in PROXIES {
        for uri in ["/auth/login", "/auth/logon", "/auth/forward/nginx", "/.well-known/jwks.json", "/Auth/me"] {
            for method in ["GET", "POST"] {
                let no = house.ask(proxy, method, uri, &[("authorization", &bearer)]).await;
                assert!(matches!(no.true_status(), 404 | 405) && no.status != 200, "{proxy} {method} {uri}: {no:?}");
            }
        }
    }
}

#[tokio::test]
async fn what_a_client_says_of_itself_is_not_told_back() {
    let house = House::new().await;
    let forged = [
        ("x-gateway-identity", "eve"),
        ("x-user-id", "eve"),
        ("x-user-email", "eve@example.org"),
        ("x-user-roles", "admin"),
        ("x-org-id", "eve"),
        ("remote-user", "eve"),
        ("x-envoy-auth-headers-to-remove", "eve"),
    ];
    let bearer = house.bearer();
    for proxy in PROXIES {
        for (uri, more) in [("/open/a", None), ("/maybe/a", None), ("/ask/a", Some(("authorization", &*bearer)))] {
            let fields: Vec<_> = forged.into_iter().chain(more).collect();
            let yes = house.ask(proxy, "GET", uri, &fields).await;
            assert_eq!(yes.status, 200, "{proxy} {uri}");
            assert!(
                !format!("{:?}", yes.head).contains("eve") && !format!("{:?}", yes.head).contains("admin"),
                "{yes:?}"
            );
            assert!(yes.head.header("authorization").is_none());
            // Envoy takes off only what it is told to.
            let gone = yes.head.header("x-envoy-auth-headers-to-remove").map(str::to_owned);
            assert_eq!(gone.is_some(), proxy == "envoy");
            let Some(gone) = gone else { continue };
            let anonymous = "authorization,cookie,x-user-id,x-user-email,x-user-roles,x-org-id";
            let known = "authorization,cookie,x-user-email,x-org-id";
            assert_eq!(gone, if more.is_some() { known } else { anonymous }, "{uri}");
        }
        let kept = house.ask(proxy, "GET", "/keep/a", &[("authorization", &bearer)]).await;
        assert_eq!(kept.head.header("authorization"), Some(&*bearer), "{proxy}");
    }
}

#[tokio::test]
async fn over_http_2_the_authority_is_the_original_s_or_the_proxy_s_own() {
    let upstream = Upstream::start().await;
    let h2c = yaml(&upstream).replace("{bind: \"127.0.0.1:0\"}, admin", "{bind: \"127.0.0.1:0\", h2c: true}, admin");
    let gateway = Gateway::start(Engine::Sqlite, &h2c).await;
    // The route is that of one host alone; elsewhere the path is nobody's.
    for (proxy, more, expected) in [
        ("nginx", None, (401, "credentials_missing")),
        ("envoy", None, (401, "credentials_missing")),
        ("traefik", None, (401, "credentials_missing")),
        ("caddy", Some(("host", "gateway.internal")), (401, "credentials_missing")),
        ("envoy", Some(("host", "other.test")), (400, "host_invalid")),
    ] {
        let (line, fields) = question(proxy, "GET", "/ask/a");
        let authority = &fields.iter().find(|(name, _)| name == "Host").unwrap().1;
        let named: Vec<_> = fields.iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
        let named = named.iter().filter(|(name, _)| name != "host").map(|(name, value)| (&**name, &***value));
        let path = line.split_once(' ').unwrap().1;
        let head = [(":method", "GET"), (":scheme", "http"), (":authority", authority), (":path", path)];
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{PROXY}:0").parse().unwrap()).unwrap();
        let mut h2 = H2::begin(socket.connect(gateway.address()).await.unwrap()).await;
        h2.headers(&head.into_iter().chain(named).chain(more).collect::<Vec<_>>(), true).await;
        match h2.fate().await {
            Fate::Answered(status, code) => assert_eq!((status, &*code), expected, "{proxy}"),
            other => panic!("{proxy}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn an_ended_session_is_refused_at_the_next_question() {
    let house = House::new().await;
    let bearer = house.bearer();
    assert_eq!(house.ask("nginx", "GET", "/ask/a", &[("authorization", &bearer)]).await.status, 200);
    house.gateway.client().post("/auth/logout").bearer(&house.token).send().await.expect(204);
    for proxy in PROXIES {
        let no = house.ask(proxy, "GET", "/ask/a", &[("authorization", &bearer)]).await;
        assert_eq!((no.status, &*no.code()), (401, "invalid_token"), "{proxy}");
    }
}

#[tokio::test]
async fn a_body_that_comes_along_is_not_waited_for() {
    let house = House::new().await;
    for proxy in PROXIES {
        let yes = house.ask(proxy, "POST", "/open/a", &[("content-length", "1000000")]).await;
        assert_eq!(yes.status, 200, "{proxy}");
    }
}

#[tokio::test]
async fn whom_the_list_names_is_taken_by_a_reload() {
    let upstream = Upstream::start().await;
    let mut gateway = Gateway::start(Engine::Sqlite, &yaml(&upstream)).await;
    let open = question("nginx", "GET", "/open/a");
    assert_eq!(ask(gateway.address(), PROXY, &open, &[]).await.status, 200);
    let other = yaml(&upstream).replace("forward_auth: {trusted: [127.0.0.9]}", "forward_auth: {trusted: [127.0.0.8]}");
    gateway.reload(&other).await;
    assert_eq!(ask(gateway.address(), PROXY, &open, &[]).await.status, 403);
    assert_eq!(ask(gateway.address(), "127.0.0.8", &open, &[]).await.status, 200);
}

#[tokio::test]
async fn the_access_line_tells_what_was_asked_about_and_by_which_proxy() {
    let upstream = Upstream::start().await;
    let folder = TempDir::new().unwrap();
    let text = format!("tokens: {{issuer: \"{ISSUER}\"}}\nstore: {{url: \"sqlite://data.db\"}}\n{}", yaml(&upstream));
    std::fs::write(folder.path().join("gateway.yaml"), text).unwrap();
    let gateway = Binary::serve(&folder.path().join("gateway.yaml"), &HashMap::new()).await;
    let through = [("x-forwarded-for", "192.0.2.7")];
    let yes = ask(gateway.public, PROXY, &question("caddy", "PUT", "/open/a?secret=q"), &through).await;
    assert_eq!(yes.status, 200);
    let no = ask(gateway.public, PROXY, &question("nginx", "GET", "/nowhere"), &through).await;
    assert_eq!(no.status, 403);
    gateway.client().get("/open/a").send().await.expect(200);
    gateway.terminate();
    let (_, log) = gateway.ended().await;
    let lines = log.iter().filter(|line| line.contains("portcullis::access"));
    let lines: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = |line: &Value| {
        ["decision_for", "method", "path", "route", "client", "status"]
            .map(|name| line[name].to_string().replace('"', ""))
    };
    assert_eq!(told(&lines[0]), ["caddy", "PUT", "/open/a", "open", "192.0.2.7", "200"]);
    // The status is the answer's: what nginx was told.
    assert_eq!(told(&lines[1]), ["nginx", "GET", "/nowhere", "", "192.0.2.7", "403"]);
    assert_eq!(told(&lines[2]), ["null", "GET", "/open/a", "open", "127.0.0.1", "200"]);
}
