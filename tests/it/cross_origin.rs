//! Pages of other origins: who may read an answer (the Fetch standard's CORS protocol).

use serde_json::json;

use crate::harness::{
    client::{Answer, Call, Client},
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
        let answer = asked.send().await.expect(204);
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
