//! Pages in a browser: whose may read an answer (the Fetch standard's CORS protocol), and for whose a cookie speaks.

use serde_json::json;

use crate::harness::{
    client::{Answer, Call, Client, PASSWORD},
    gateway::{Engine, Gateway},
    upstream::{Reply, Upstream},
};

const APP: &str = "https://app.gw.test";

fn yaml(upstream: &Upstream) -> String {
    format!(
        r#"
limits: {{slow: {{by: address, rate: 1/m, burst: 2}}}}
clusters:
  rag: {{endpoints: ["{}"]}}
portal: {{allowed_origins: ["{APP}"]}}
routes:
  - {{name: listed, match: {{path: "/listed/{{*rest}}", methods: [GET, PUT]}}, allowed_origins: ["{APP}", "http://localhost:3000"], cluster: rag}}
  - {{name: slow, match: {{path: /slow}}, auth: none, limits: [slow], allowed_origins: ["{APP}"], cluster: rag}}
  - {{name: theirs, match: {{path: "/theirs/{{*rest}}"}}, auth: none, cluster: rag}}
"#,
        upstream.url()
    )
}

async fn gateway(upstream: &Upstream) -> Gateway {
    Gateway::start(Engine::Sqlite, &yaml(upstream)).await
}

fn preflight(client: &Client, path: &str, origin: &str, method: &str) -> Call {
    client.call("OPTIONS", path).header("origin", origin).header("access-control-request-method", method)
}

/// Who may read this, and whether with credentials.
#[track_caller]
fn reader(answer: &Answer) -> Option<&str> {
    let origin = answer.header("access-control-allow-origin");
    assert_eq!(answer.header("access-control-allow-credentials"), origin.map(|_| "true"));
    origin
}

#[tokio::test]
async fn a_preflight_is_answered_before_authentication_for_portal_and_services() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream).await;
    let client = gateway.client();
    for (path, method) in [
        ("/listed/a", "GET"),
        ("/listed/a", "PUT"),
        ("/slow", "DELETE"),
        ("/auth/login", "POST"),
        ("/auth/me", "PATCH"),
    ] {
        let asked = preflight(&client, path, APP, method).header("access-control-request-headers", "authorization,x-a");
        // No browser sends one here; were credentials looked at first, this would be 401.
        let answer = asked.bearer("garbage").send().await.expect(204);
        assert_eq!(reader(&answer), Some(APP), "{path}");
        assert_eq!(answer.header("access-control-allow-methods"), Some(method));
        assert_eq!(answer.header("access-control-allow-headers"), Some("authorization,x-a"));
        assert_eq!(answer.header("access-control-max-age"), Some("600"));
        assert_eq!(answer.header("vary"), Some("origin"));
    }
    // Preflights cost no limit: four more than the two there are.
    for _ in 0..4 {
        preflight(&client, "/slow", APP, "GET").send().await.expect(204);
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn a_preflight_of_a_stranger_or_for_what_no_route_takes_is_refused() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream).await;
    let client = gateway.client();
    for origin in
        ["https://evil.test", "null", "https://app.gw.test.evil.test", "http://app.gw.test", "https://gw.test"]
    {
        for path in ["/listed/a", "/auth/login"] {
            let method = if path == "/auth/login" { "POST" } else { "GET" };
            let answer = preflight(&client, path, origin, method).send().await;
            answer.refused(403, "origin_refused");
            assert_eq!((reader(&answer), answer.header("vary")), (None, Some("origin")));
        }
    }
    preflight(&client, "/listed/a", APP, "DELETE").send().await.refused(405, "method_not_allowed");
    preflight(&client, "/auth/login", APP, "PUT").send().await.refused(405, "method_not_allowed");
    preflight(&client, "/nowhere", APP, "GET").send().await.refused(404, "no_route");
    // No preflight, so an ordinary request with a method the route does not take.
    client.call("OPTIONS", "/auth/login").header("origin", APP).send().await.refused(405, "method_not_allowed");
    upstream.assert_untouched();
}

#[tokio::test]
async fn answers_and_refusals_are_readable_by_listed_origins_only() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream).await;
    let client = gateway.client();
    let session = client.register("ann@example.org").await;
    let get = |path: &str, origin: &str| client.get(path).header("origin", origin);

    let answer = get("/listed/a", APP).bearer(&session.access).send().await.expect(200);
    assert_eq!((reader(&answer), answer.text().as_str()), (Some(APP), "from the upstream"));
    let other = get("/listed/a", "http://localhost:3000").bearer(&session.access).send().await.expect(200);
    assert_eq!(reader(&other), Some("http://localhost:3000"));

    // A page must be able to tell a bad token from a network that is down, and when to come back.
    let refused = get("/listed/a", APP).send().await;
    refused.refused(401, "credentials_missing");
    assert_eq!(reader(&refused), Some(APP));
    let exposed = refused.header("access-control-expose-headers").unwrap();
    for name in ["www-authenticate", "retry-after", "x-request-id"] {
        assert!(exposed.split(", ").any(|one| one == name), "{name} in {exposed}");
    }
    for _ in 0..2 {
        get("/slow", APP).send().await.expect(200);
    }
    let limited = get("/slow", APP).send().await.expect(429);
    assert_eq!(reader(&limited), Some(APP));
    let wrong = json!({"email": "ann@example.org", "password": "wrong"});
    let failed = client.post("/auth/login").header("origin", APP).json(&wrong).send().await;
    failed.refused(401, "login_failed");
    assert_eq!(reader(&failed), Some(APP));

    for origin in ["https://evil.test", "null"] {
        for answer in [
            get("/listed/a", origin).bearer(&session.access).send().await,
            get("/listed/a", origin).send().await,
            client.post("/auth/login").header("origin", origin).json(&wrong).send().await,
        ] {
            assert_eq!((reader(&answer), answer.header("vary")), (None, Some("origin")), "{origin}");
        }
    }
    let without = client.get("/listed/a").bearer(&session.access).send().await.expect(200);
    assert_eq!((reader(&without), without.header("vary")), (None, Some("origin")), "a cache may give it to anybody");
}

#[tokio::test]
async fn a_service_s_own_words_on_origins_stand_only_where_no_origin_is_listed() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream).await;
    let client = gateway.client();
    let session = client.register("ann@example.org").await;
    let wild = || {
        Reply::new(200, "x")
            .with("access-control-allow-origin", "*")
            .with("access-control-expose-headers", "x-total")
            .with("vary", "accept-encoding")
    };
    upstream.reply("/listed/a", wild());
    upstream.reply("/theirs/a", wild());

    let call = |path: &str| client.get(path).header("origin", "https://evil.test").bearer(&session.access);
    let answer = call("/listed/a").send().await.expect(200);
    assert_eq!(reader(&answer), None);
    assert_eq!(answer.all("vary"), ["accept-encoding", "origin"]);
    let mine = client.get("/listed/a").header("origin", APP).bearer(&session.access).send().await.expect(200);
    assert_eq!(reader(&mine), Some(APP));
    assert!(mine.all("access-control-expose-headers").contains(&"x-total"));

    let theirs = call("/theirs/a").send().await.expect(200);
    assert_eq!(theirs.header("access-control-allow-origin"), Some("*"));
    assert_eq!(theirs.header("vary"), Some("accept-encoding"));
    let before = upstream.received().len();
    preflight(&client, "/theirs/a", "https://any.test", "GET").send().await.expect(200);
    assert_eq!(upstream.received().len(), before + 1, "the service answers its own preflights");
    assert_eq!(upstream.last().head.word(0), "OPTIONS");
}

on_both_stores!(
    a_page_asks_with_its_cookie_and_the_service_sees_who_but_not_the_cookie,
    a_cookie_changes_nothing_from_another_site,
    a_cookie_never_stands_in_for_bad_credentials,
    another_cookie_locks_nobody_out_whatever_it_holds,
    the_access_cookie_is_set_only_where_a_route_takes_it,
);

const ACCESS: &str = "__Host-portcullis-access";

fn with_cookies(upstream: &Upstream) -> String {
    format!(
        r#"
clusters:
  rag: {{endpoints: ["{}"]}}
portal: {{allowed_origins: ["{APP}"]}}
routes:
  - {{name: page, match: {{path: "/page/{{*rest}}"}}, credentials: [bearer, cookie], allowed_origins: ["{APP}"], cluster: rag}}
  - {{name: maybe, match: {{path: "/maybe/{{*rest}}"}}, auth: optional, credentials: [bearer, cookie], cluster: rag}}
  - {{name: tokens_only, match: {{path: "/tokens-only/{{*rest}}"}}, cluster: rag}}
"#,
        upstream.url()
    )
}

/// The access cookie as a browser would send it, and what it was set with.
fn access_cookie(answer: &Answer) -> Option<(String, String)> {
    let lines = answer.all("set-cookie");
    let found: Vec<_> = lines.into_iter().filter(|line| line.starts_with(ACCESS)).collect();
    assert!(found.len() <= 1, "{found:?}");
    let (pair, attributes) = found.first()?.split_once("; ").unwrap();
    Some((pair.to_owned(), attributes.to_owned()))
}

/// Ann, logged in by a browser: the answer and her cookie.
async fn ann(client: &Client) -> (Answer, String) {
    let body = json!({"email": "ann@example.org", "password": PASSWORD, "delivery": "cookie"});
    let registered = client.post("/auth/register").json(&body).send().await.expect(201);
    let (cookie, attributes) = access_cookie(&registered).expect("an access cookie");
    assert_eq!(attributes, "Max-Age=900; Path=/; HttpOnly; Secure; SameSite=Strict");
    (registered, cookie)
}

async fn a_page_asks_with_its_cookie_and_the_service_sees_who_but_not_the_cookie(engine: Engine) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(engine, &with_cookies(&upstream)).await;
    let client = gateway.client();
    let (registered, cookie) = ann(&client).await;
    let id = registered.json()["user"]["id"].as_str().unwrap().to_owned();
    // A page, an image, a download, an EventSource: what a browser asks for without a script's help.
    upstream.reply("/page/a", Reply::new(200, "x").with("set-cookie", &format!("{ACCESS}=planted; Path=/")));
    let page = client.get("/page/a").header("cookie", &format!("theme=dark; {cookie}")).send().await.expect(200);
    let received = upstream.last().head;
    assert_eq!(received.header("x-user-id"), Some(id.as_str()));
    assert_eq!(received.header("cookie"), Some("theme=dark"));
    assert_eq!(page.header("set-cookie"), None, "a service cannot plant ours");
    assert_eq!(page.header("cache-control"), Some("private"), "no shared cache is to give it to somebody else");
    let by_token = client.get("/page/a").header("cookie", &cookie).bearer(&client.tokens(&registered).access);
    assert_eq!(by_token.send().await.expect(200).header("cache-control"), None);

    let me = client.get("/auth/me").header("cookie", &cookie).send().await.expect(200).json();
    assert_eq!(me["id"], id.as_str());
    let change = client.call("PATCH", "/auth/me").header("cookie", &cookie).json(&json!({"full_name": "Ann"}));
    change.header("sec-fetch-site", "same-origin").send().await.expect(200);

    let leave = client.post("/auth/logout").header("cookie", &cookie).header("sec-fetch-site", "same-origin");
    let left = leave.send().await.expect(204);
    let (emptied, attributes) = access_cookie(&left).unwrap();
    assert_eq!(emptied, format!("{ACCESS}="));
    assert!(attributes.starts_with("Max-Age=0; Path=/;"));
    client.get("/page/a").header("cookie", &cookie).send().await.refused(401, "invalid_token");
}

async fn a_cookie_changes_nothing_from_another_site(engine: Engine) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(engine, &with_cookies(&upstream)).await;
    let client = gateway.client();
    let (_, cookie) = ann(&client).await;
    for path in ["/page/a", "/maybe/a"] {
        let post = || client.post(path).header("cookie", &cookie).body("x");
        post().send().await.refused(403, "cross_site");
        for (name, value) in [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("origin", "https://evil.test"),
            ("origin", "null"),
        ] {
            post().header(name, value).send().await.refused(403, "cross_site");
        }
        // Without a cookie there is nothing to misuse.
        client.post("/maybe/a").body("x").header("origin", "https://evil.test").send().await.expect(200);
        let before = upstream.received().len();
        post().header("sec-fetch-site", "same-origin").send().await.expect(200);
        post().header("sec-fetch-site", "none").send().await.expect(200);
        post().header("origin", "https://gw.test").send().await.expect(200);
        assert_eq!(upstream.received().len(), before + 3);
    }
    // An app's origin that is listed for one route is not for another.
    let from_app = |path: &str| client.post(path).header("cookie", &cookie).header("origin", APP).body("x");
    from_app("/page/a").send().await.expect(200);
    from_app("/maybe/a").send().await.refused(403, "cross_site");
    // A WebSocket's handshake is a GET that no preflight guards.
    let socket = client.get("/page/a").header("cookie", &cookie).header("connection", "upgrade");
    socket.header("upgrade", "websocket").header("origin", "https://evil.test").send().await.refused(403, "cross_site");
}

async fn a_cookie_never_stands_in_for_bad_credentials(engine: Engine) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(engine, &with_cookies(&upstream)).await;
    let client = gateway.client();
    let (_, cookie) = ann(&client).await;
    let before = upstream.received().len();
    for path in ["/page/a", "/maybe/a"] {
        let with = |cookie: &str| client.get(path).header("cookie", cookie);
        with(&cookie).bearer("garbage").send().await.refused(401, "invalid_token");
        with(&format!("{ACCESS}=garbage")).send().await.refused(401, "invalid_token");
        with(&format!("{cookie}; {ACCESS}=planted")).send().await.refused(401, "invalid_token");
        with(&cookie).header("cookie", &cookie).send().await.refused(401, "invalid_token");
    }
    client.get("/tokens-only/a").header("cookie", &cookie).send().await.refused(401, "credentials_missing");
    assert_eq!(upstream.received().len(), before);
}

async fn another_cookie_locks_nobody_out_whatever_it_holds(engine: Engine) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(engine, &with_cookies(&upstream)).await;
    let client = gateway.client();
    let (registered, access) = ann(&client).await;
    let lines = registered.all("set-cookie");
    let refresh =
        lines.iter().find_map(|line| line.split(';').next().filter(|pair| !pair.starts_with(ACCESS))).unwrap();
    // What a script of the site, or a neighbouring host's, has stored as it is: browsers send the bytes.
    for other in [&b"name=Jos\xc3\xa9"[..], b"name=\xff"] {
        let beside = |ours: &str| [other, b"; ", ours.as_bytes()].concat();
        client.get("/page/a").header_bytes("cookie", &beside(&access)).send().await.expect(200);
        assert_eq!(upstream.last().head.header("x-user-id"), registered.json()["user"]["id"].as_str());
        let refreshed = client.post("/auth/refresh").header_bytes("cookie", &beside(refresh));
        refreshed.header("sec-fetch-site", "same-origin").send().await.expect(200);
    }
}

async fn the_access_cookie_is_set_only_where_a_route_takes_it(engine: Engine) {
    let upstream = Upstream::start().await;
    let mut gateway = Gateway::start(engine, &with_cookies(&upstream)).await;
    ann(&gateway.client()).await;
    let login = async |client: &Client, delivery: &str| {
        let body = json!({"email": "ann@example.org", "password": PASSWORD, "delivery": delivery});
        access_cookie(&client.post("/auth/login").json(&body).send().await.expect(200))
    };
    assert!(login(&gateway.client(), "cookie").await.is_some());
    assert_eq!(login(&gateway.client(), "body").await, None, "nor for a client that wants no cookies");
    gateway.restart_with(&yaml(&upstream)).await;
    assert_eq!(login(&gateway.client(), "cookie").await, None);
    // Browsers may still have one; no service is to see it.
    let old = gateway.client().get("/theirs/a").header("cookie", &format!("{ACCESS}=old; theme=dark"));
    old.send().await.expect(200);
    assert_eq!(upstream.last().head.header("cookie"), Some("theme=dark"));
}
