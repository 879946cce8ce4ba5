//! What is never printed: secrets are planted everywhere they can come from, everything that can go wrong is made to,
//! and then the log at its loudest, the metrics and every refusal are searched for them.

use std::collections::HashMap;

use serde_json::json;
use tempfile::TempDir;

use crate::{
    harness::{
        binary::Binary,
        client::{Client, PASSWORD},
        gateway::{Engine, MASTER_KEY, Setup, standard},
        upstream::Upstream,
    },
    support::postgres::Cluster,
};

const DATABASE_PASSWORD: &str = "planted-database-password-5511";
const WRONG_PASSWORD: &str = "planted-wrong-Password-guess-77";
const NEW_PASSWORD: &str = "planted-Unregistered-password-19";
const WRONG_TOKEN: &str = "planted.wrong.token";
const QUERY_SECRET: &str = "planted-query-secret";
const COOKIE: &str = "planted-cookie-of-the-service";

fn yaml(upstream: &Upstream) -> String {
    format!(
        "listeners: {{public: {{bind: \"127.0.0.1:0\"}}, admin: {{bind: \"127.0.0.1:0\"}}}}\n\
         store: {{url: {{env: STORE_URL}}, master_key: {{env: MASTER_KEY}}, timeout: 500ms}}\n\
         tokens: {{issuer: \"https://gw.test\", audience: gw-test}}\npasswords: {{hash_threads: 1}}\n\
         telemetry: {{access_log: true, log: {{filter: debug}}}}\n{}",
        standard(upstream)
    )
}

/// Everything a client can do right and wrong, with secrets in every place; gives the tokens it was handed.
async fn use_everything(client: &Client, upstream: &Upstream) -> Vec<String> {
    let mut tokens = Vec::new();
    let first = client.register("ann@example.org").await;
    let second = client.tokens(&client.refresh(&first.refresh).await.expect(200));
    let third = client.tokens(&client.refresh(&second.refresh).await.expect(200));
    for session in [&first, &second, &third] {
        tokens.extend([session.access.clone(), session.refresh.clone()]);
    }
    let body = json!({"email": "ann@example.org", "password": PASSWORD, "delivery": "cookie"});
    let by_cookie = client.post("/auth/login").json(&body).send().await.expect(200);
    let cookie = by_cookie.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    tokens.push(cookie.split_once('=').unwrap().1.to_owned());
    let refreshing = client.post("/auth/refresh").header("cookie", &cookie).header("origin", "https://evil.example");
    refreshing.send().await.refused(403, "cross_site");

    let ask = client.get(&format!("/ask/a?token={QUERY_SECRET}")).bearer(&third.access);
    ask.header("cookie", &format!("{cookie}; session={COOKIE}")).send().await.expect(200);
    tokens.push(upstream.last().head.header("x-gateway-identity").unwrap().to_owned());
    client.get("/ask/a").bearer(WRONG_TOKEN).send().await.refused(401, "invalid_token");
    client.get("/ask/a").header("authorization", &format!("Basic {WRONG_TOKEN}")).send().await.expect(401);
    client.get("/ask/a").bearer(&third.refresh).send().await.refused(401, "invalid_token");
    client.refresh(WRONG_TOKEN).await.refused(400, "invalid_grant");
    client.refresh(&first.refresh).await.refused(400, "invalid_grant");
    client.get("/ask/a").bearer(&third.access).send().await.refused(401, "invalid_token");

    let login = |password| client.post("/auth/login").json(&json!({"email": "ann@example.org", "password": password}));
    login(WRONG_PASSWORD).send().await.refused(401, "login_failed");
    let register = |body| client.post("/auth/register").json(&body);
    register(json!({"email": "x", "password": NEW_PASSWORD})).send().await.refused(422, "validation");
    register(json!({"email": "b@example.org", NEW_PASSWORD: "x"})).send().await.expect(422);
    register(json!({"email": "b@example.org", "password": [NEW_PASSWORD]})).send().await.refused(422, "validation");
    let broken = format!("{{\"password\": \"{NEW_PASSWORD}\"");
    client.post("/auth/login").header("content-type", "application/json").body(broken).send().await.expect(400);
    tokens
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_ever_printed() {
    let mut cluster = Cluster::private();
    let upstream = Upstream::start().await;
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("gateway.yaml"), yaml(&upstream)).unwrap();
    let url = cluster.create_database().url.replacen("portcullis@", &format!("portcullis:{DATABASE_PASSWORD}@"), 1);
    let environment = HashMap::from([("STORE_URL".to_owned(), url), ("MASTER_KEY".to_owned(), MASTER_KEY.to_owned())]);
    let gateway = Binary::serve(&folder.path().join("gateway.yaml"), &environment).await;
    let client = gateway.client();
    let planted = [WRONG_PASSWORD, WRONG_TOKEN, DATABASE_PASSWORD, MASTER_KEY, QUERY_SECRET, COOKIE];
    for secret in planted {
        client.plant(secret);
    }

    let mut secrets = use_everything(&client, &upstream).await;
    cluster.stop();
    let lost = client.post("/auth/login").json(&json!({"email": "ann@example.org", "password": PASSWORD}));
    lost.send().await.refused(503, "store_unavailable");
    client.refresh(&secrets[1]).await.refused(503, "store_unavailable");
    let metrics = reqwest::Client::builder().no_proxy().build().unwrap();
    let metrics = metrics.get(format!("http://{}/metrics", gateway.admin)).send().await.unwrap().text().await.unwrap();
    gateway.terminate();
    let (_, log) = gateway.ended().await;

    secrets.extend(planted.map(str::to_owned));
    secrets.extend([PASSWORD, NEW_PASSWORD].map(str::to_owned));
    assert!(log.iter().any(|line| line.contains("\"path\":\"/ask/a\"")), "the access log is on: {log:#?}");
    assert!(log.iter().any(|line| line.contains("\"DEBUG\"")), "the log is at its loudest: {log:#?}");
    assert!(log.iter().any(|line| line.contains("store_unavailable")), "the outage was logged: {log:#?}");
    for secret in &secrets {
        for line in log.iter().map(String::as_str).chain(metrics.lines()) {
            assert!(!line.contains(secret.as_str()), "{secret} in {line}");
        }
    }
    // No signature of any token either, whatever it was cut to.
    let signatures = secrets.iter().filter_map(|token| token.rsplit_once('.')).map(|(_, signature)| signature);
    for signature in signatures.filter(|signature| signature.len() > 20) {
        assert!(!log.iter().any(|line| line.contains(&signature[..20])), "the signature {signature} was logged");
    }
}

#[tokio::test]
async fn settings_and_their_errors_do_not_show_what_they_hold() {
    let upstream = Upstream::start().await;
    let setup = |yaml: &str| {
        let url = format!("postgres://app:{DATABASE_PASSWORD}@db.internal/app");
        Setup::new(Engine::Sqlite, yaml).on(&url)
    };
    let settings = setup(&yaml(&upstream)).settings().unwrap();
    let shown = format!("{settings:?} {settings:#?}");
    assert!(!shown.contains(DATABASE_PASSWORD) && !shown.contains(MASTER_KEY), "{shown}");

    // Mistakes around secrets, and in the secrets themselves.
    for broken in [
        "url: {env: STORE_URL}, pool: x",
        "url: {env: STORE_URL}",
        "url: {env: MASTER_KEY}, master_key: {env: STORE_URL}",
    ] {
        let yaml = format!("store: {{{broken}}}\n{}", standard(&upstream));
        let errors = setup(&yaml).settings().unwrap_err();
        let shown = format!("{errors} {errors:?}");
        assert!(!shown.contains(DATABASE_PASSWORD) && !shown.contains(MASTER_KEY), "{shown}");
    }
}
