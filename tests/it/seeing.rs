//! What operators see of what happened: one access-log line a request, metrics by route and reason, and pages that say
//! whether the gateway lives and is ready.

use std::{collections::HashMap, time::Duration};

use portcullis::clock::{Clock, SystemClock};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    binary::Binary,
    gateway::{Engine, Gateway, standard},
    tokens::hmac_signed,
    upstream::{Held, Reply, Upstream},
};

#[tokio::test]
async fn requests_are_counted_by_route_reason_method_and_class() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(Engine::Sqlite, &upstream).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    for _ in 0..3 {
        client.get("/ask/a").bearer(&ann.access).send().await.expect(200);
    }
    client.get("/ask/a").bearer("wrong").send().await.refused(401, "invalid_token");
    client.get("/nowhere").send().await.refused(404, "no_route");
    upstream.reply("/open/a", Reply::new(500, "broken"));
    client.post("/open/a").send().await.expect(500);

    let requests = async |labels: &str| gateway.metric(&format!("portcullis_requests_total{{{labels}}}")).await;
    let near = |value: f64, expected: f64| (value - expected).abs() < 0.1;
    assert!(near(requests(r#"route="ask",reason="ok",method="GET",status="2xx""#).await, 3.0));
    assert!(near(requests(r#"route="ask",reason="token_malformed",method="GET",status="4xx""#).await, 1.0));
    assert!(near(requests(r#"route="-",reason="no_route",method="GET",status="4xx""#).await, 1.0));
    assert!(near(requests(r#"route="open",reason="ok",method="POST",status="5xx""#).await, 1.0));
    assert!(near(gateway.metric("portcullis_requests_in_flight").await, 0.0));
    assert!(near(gateway.metric("portcullis_token_cache_total{result=\"hit\"}").await, 2.0));
    let decided = r#"portcullis_auth_decisions_total{decision="failed",reason="token_malformed"}"#;
    assert!(near(gateway.metric(decided).await, 1.0));
    let (_, text) = gateway.admin("/metrics").await;
    for label in ["ann@example.org", "127.0.0.1", "/ask/"] {
        let told = text.lines().find(|line| line.contains(label) && !line.contains("endpoint="));
        assert_eq!(told, None, "a metric may name no user, address or path");
    }
    for name in
        ["build_info", "hash_seconds_count", "upstream_first_byte_seconds_count", "request_duration_seconds_count"]
    {
        assert!(text.contains(&format!("portcullis_{name}")), "{name}: {text}");
    }
}

#[tokio::test]
async fn a_request_in_flight_is_counted_until_its_last_byte() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(Engine::Sqlite, &upstream).await;
    upstream.hold("/open/a");
    let client = gateway.client();
    let asking = tokio::spawn(async move { client.get("/open/a").open().await });
    let mut held: Held = upstream.held().await;
    held.begin(200, &[]).await;
    let mut answer = asking.await.unwrap();
    assert!(gateway.metric("portcullis_requests_in_flight").await > 0.5);
    held.end(&[]).await;
    assert_eq!(answer.chunk().await, Ok(None));
    assert!(gateway.metric("portcullis_requests_in_flight").await < 0.5);
}

#[tokio::test]
async fn the_admin_pages_say_what_they_are_for() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(Engine::Sqlite, &upstream).await;
    for page in ["/livez", "/readyz", "/startupz", "/metrics"] {
        let (status, text) = gateway.admin(page).await;
        assert_eq!(status, 200, "{page}: {text}");
    }
    assert_eq!(gateway.admin("/anything").await.0, 404);
    // Nothing of it on the clients' side.
    for page in ["/livez", "/readyz", "/startupz", "/metrics"] {
        gateway.client().get(page).send().await.refused(404, "no_route");
    }
}

#[tokio::test]
async fn a_request_that_waits_long_for_its_answer_is_warned_of() {
    let upstream = Upstream::start().await;
    for (slow_request, warned) in [("1ms", true), ("1d", false)] {
        let folder = TempDir::new().unwrap();
        let telemetry = format!("telemetry: {{slow_request: {slow_request}}}\n");
        std::fs::write(folder.path().join("gateway.yaml"), alone(&upstream, &telemetry)).unwrap();
        let gateway = Binary::serve(&folder.path().join("gateway.yaml"), &HashMap::new()).await;
        let client = gateway.client();
        upstream.hold("/open/slow");
        let asking = tokio::spawn(async move { client.get("/open/slow?secret=q").send().await });
        let mut held = upstream.held().await;
        // Not a wait for anything: this is how long the service takes.
        tokio::time::sleep(Duration::from_millis(3)).await;
        held.begin(200, &[]).await;
        held.end(&[]).await;
        let id = asking.await.unwrap().header("x-request-id").unwrap().to_owned();
        gateway.terminate();
        let (_, log) = gateway.ended().await;
        let slow = log.iter().filter(|line| line.contains(&id) && line.contains("portcullis::slow"));
        let slow: Vec<Value> = slow.map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(slow.len(), usize::from(warned), "{log:#?}");
        for line in slow {
            assert_eq!((&line["level"], &line["route"]), (&"WARN".into(), &"open".into()), "{line}");
            assert_eq!((&line["method"], &line["path"]), (&"GET".into(), &"/open/slow".into()), "{line}");
            let (waited, service) = (line["head_us"].as_u64().unwrap(), line["upstream_us"].as_u64().unwrap());
            assert!(waited >= service && service >= 2_000, "{line}");
        }
    }
}

/// A configuration for a process of its own.
fn alone(upstream: &Upstream, more: &str) -> String {
    format!(
        "listeners: {{public: {{bind: \"127.0.0.1:0\"}}, admin: {{bind: \"127.0.0.1:0\"}}}}\n\
         tokens: {{issuer: \"https://gw.test\"}}\npasswords: {{hash_threads: 1}}\n{more}{}",
        standard(upstream)
    )
}

#[tokio::test]
async fn each_request_is_one_line_with_the_id_its_answer_carried() {
    let upstream = Upstream::start().await;
    let folder = TempDir::new().unwrap();
    let yaml = alone(&upstream, "");
    std::fs::write(folder.path().join("gateway.yaml"), yaml).unwrap();
    let gateway = Binary::serve(&folder.path().join("gateway.yaml"), &HashMap::new()).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    let mut told = Vec::new();
    for (path, token, status, reason) in [
        ("/ask/a?q=1", ann.access.as_str(), 200, "ok"),
        ("/ask/a", "wrong", 401, "token_malformed"),
        ("/nowhere", "wrong", 404, "no_route"),
    ] {
        let answer = client.get(path).bearer(token).send().await.expect(status);
        told.push((answer.header("x-request-id").unwrap().to_owned(), path, status, reason));
    }
    gateway.terminate();
    let (code, log) = gateway.ended().await;
    assert_eq!(code, Some(0));
    for (id, path, status, reason) in told {
        let lines: Vec<_> =
            log.iter().filter(|line| line.contains(&id) && line.contains("portcullis::access")).collect();
        assert_eq!(lines.len(), 1, "{id}: {log:#?}");
        let line: Value = serde_json::from_str(lines[0]).unwrap();
        let field = |name: &str| line.get(name).or_else(|| line["fields"].get(name)).cloned().unwrap_or_default();
        assert_eq!(field("status"), status, "{line}");
        assert_eq!(field("reason"), reason, "{line}");
        assert_eq!(field("method"), "GET", "{line}");
        assert_eq!(field("path"), path.split('?').next().unwrap(), "{line}");
        assert_eq!(field("client"), "127.0.0.1", "{line}");
        if reason == "ok" {
            assert_eq!(field("subject"), ann.user["id"], "{line}");
            assert_eq!(field("route"), "ask", "{line}");
        }
    }
}

#[tokio::test]
async fn a_long_path_makes_no_long_line() {
    let upstream = Upstream::start().await;
    let folder = TempDir::new().unwrap();
    let more = "telemetry: {slow_request: 1ms}\n";
    std::fs::write(folder.path().join("gateway.yaml"), alone(&upstream, more)).unwrap();
    let gateway = Binary::serve(&folder.path().join("gateway.yaml"), &HashMap::new()).await;
    let client = gateway.client();
    let answer = client.call(&"M".repeat(5_000), &format!("/open/{}", "a".repeat(15_000))).send().await;
    let id = answer.header("x-request-id").unwrap().to_owned();
    gateway.terminate();
    let (code, log) = gateway.ended().await;
    assert_eq!(code, Some(0));
    let lines: Vec<_> = log.iter().filter(|line| line.contains(&id)).collect();
    assert!(lines.iter().any(|line| line.contains("portcullis::access")), "{log:#?}");
    for line in lines {
        assert!(line.len() < 2_048, "{} bytes: {line}", line.len());
    }
}

/// The `name=value` of a line of text, in order, as one who knows of quotes reads them.
fn fields_of_text(line: &str) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('=') {
        let name = before.rsplit(' ').next().unwrap().to_owned();
        let value = match after.strip_prefix('"') {
            None => after.split(' ').next().unwrap().to_owned(),
            Some(quoted) => {
                let mut escaped = false;
                let end = quoted.find(|c| {
                    let ends = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    ends
                });
                let value = &quoted[..end.unwrap_or_else(|| panic!("an open quote in {line}"))];
                rest = &quoted[value.len() + 1..];
                assert!(rest.is_empty() || rest.starts_with(' '), "{line}");
                fields.push((name, value.replace("\\\"", "\"")));
                continue;
            }
        };
        rest = &after[value.len()..];
        fields.push((name, value));
    }
    fields
}

/// One line of a text log: moment, level, target, words, then `name=value` with text in quotes.
fn assert_a_line_of_text(line: &str) {
    assert!(!line.bytes().any(|byte| byte.is_ascii_control()), "an escape in {line:?}");
    let (moment, rest) = line.split_once(' ').unwrap();
    assert!(time::OffsetDateTime::parse(moment, &time::format_description::well_known::Rfc3339).is_ok(), "{line}");
    let level = rest.split_whitespace().next().unwrap();
    assert!(["ERROR", "WARN", "INFO", "DEBUG"].contains(&level), "{line}");
}

#[tokio::test]
async fn a_log_of_text_is_one_line_a_request_and_no_value_forges_another() {
    const SECRET: &str = "a secret of thirty-two bytes or so";
    let upstream = Upstream::start().await;
    let folder = TempDir::new().unwrap();
    let more = "telemetry: {log: {format: text}}\nissuers: {sso: {issuer: \"https://sso.test\", audiences: [rag], \
                algorithms: [HS256], secret: {env: SSO}}}\n";
    let yaml = alone(&upstream, more).replace("- {name: ask,", "- {name: ask, issuers: [own, sso],");
    std::fs::write(folder.path().join("gateway.yaml"), yaml).unwrap();
    let environment = HashMap::from([("SSO".to_owned(), SECRET.to_owned())]);
    let gateway = Binary::serve(&folder.path().join("gateway.yaml"), &environment).await;
    let client = gateway.client();
    // Whatever another issuer and a client may put into a line.
    let forging = "eve\" status=200 reason=\"ok\" [31m";
    let now = SystemClock::new().now().seconds();
    let claims = json!({"iss": "https://sso.test", "sub": forging, "aud": "rag", "iat": now, "exp": now + 600});
    let token = hmac_signed(SECRET.as_bytes(), &json!({"alg": "HS256", "typ": "JWT"}), &claims);
    let mut told = Vec::new();
    for (path, bearer, status) in [
        ("/ask/a%20status=200?q=planted-query", &*token, 200),
        ("/ask/b", "planted.wrong.token", 401),
        ("/ask/c%0A2026-11-21T00:00:00Z%20%20INFO%20portcullis::access:%20forged%1B%5B31m", "planted.wrong.token", 400),
        ("/nowhere", "planted.wrong.token", 404),
    ] {
        let call = client.get(path).bearer(bearer).header("cookie", "session=planted-cookie");
        let call = call.header("user-agent", "planted\\nagent").header("x-request-id", "planted-id");
        let answer = call.send().await.expect(status);
        told.push((answer.header("x-request-id").unwrap().to_owned(), status));
    }
    gateway.terminate();
    let (code, log) = gateway.ended().await;
    assert_eq!(code, Some(0));
    for line in &log {
        assert_a_line_of_text(line);
    }
    let lines: Vec<_> = log.iter().filter(|line| line.contains(" portcullis::access: ")).collect();
    assert_eq!(lines.len(), told.len(), "{log:#?}");
    for (line, (id, status)) in lines.iter().zip(&told) {
        let fields = fields_of_text(line);
        let of = |name: &str| fields.iter().filter(|(one, _)| one == name).map(|(_, value)| value.clone()).collect();
        let expected = |value: &str| vec![value.to_owned()];
        assert_eq!((of("request_id"), of("status")), (expected(id), expected(&status.to_string())), "{line}");
        assert_eq!((of("client"), of("method")), (expected("127.0.0.1"), expected("GET")), "{line}");
        let (path, reason, subject) = match status {
            200 => ("/ask/a%20status=200", "ok", format!("sso:{forging}")),
            401 => ("/ask/b", "token_malformed", String::new()),
            400 => ("", "path_invalid", String::new()),
            _ => ("/nowhere", "no_route", String::new()),
        };
        assert_eq!((of("path"), of("reason")), (expected(path), expected(reason)), "{line}");
        assert_eq!(of("subject"), expected(&subject), "{line}");
    }
    for secret in ["planted", SECRET, &token] {
        assert!(!log.iter().any(|line| line.contains(secret)), "{secret} in {log:#?}");
    }
}
