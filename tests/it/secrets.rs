//! What is never printed: secrets are planted everywhere they can come from, everything that can go wrong is made to,
//! and then the log at its loudest, the metrics and every refusal are searched for them.

use std::collections::HashMap;

use portcullis::clock::{Clock, SystemClock};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    harness::{
        binary::Binary,
        client::{Client, PASSWORD},
        gateway::{Engine, MASTER_KEY, Setup, standard},
        tokens::hmac_signed,
        upstream::{Reply, Upstream},
    },
    support::{postgres::Cluster, redis::Redis},
};

const DATABASE_PASSWORD: &str = "planted-database-password-5511";
const REDIS_PASSWORD: &str = "planted-redis-password-8842";
const COLLECTOR_TOKEN: &str = "Bearer planted-collector-token-3307";
const TOKEN_SECRET: &str = "planted-token-secret-of-32-bytes-or-so-01";
const ISSUER_SECRET: &str = "planted-issuer-secret-of-32-bytes-or-so-02";
const IDENTITY_SECRET: &str = "planted-identity-secret-of-32-bytes-or-so-03";
const WRONG_PASSWORD: &str = "planted-wrong-Password-guess-77";
const NEW_PASSWORD: &str = "planted-Unregistered-password-19";
const WRONG_TOKEN: &str = "planted.wrong.token";
const QUERY_SECRET: &str = "planted-query-secret";
const COOKIE: &str = "planted-cookie-of-the-service";
const BASIC: &str = "cGxhbnRlZC11c2VyOnBsYW50ZWQtYmFzaWM=";

/// What the operator's secrets are, by the names the configuration has for them.
const OF_THE_OPERATOR: [(&str, &str); 5] = [
    ("MASTER_KEY", MASTER_KEY),
    ("COLLECTOR_TOKEN", COLLECTOR_TOKEN),
    ("TOKEN_SECRET", TOKEN_SECRET),
    ("ISSUER_SECRET", ISSUER_SECRET),
    ("IDENTITY_SECRET", IDENTITY_SECRET),
];

/// A secret in every place that takes one, and everything told that can be.
fn yaml(upstream: &Upstream, collector: &Upstream, format: &str) -> String {
    format!(
        r#"
listeners: {{public: {{bind: "127.0.0.1:0"}}, admin: {{bind: "127.0.0.1:0"}}}}
store: {{url: {{env: STORE_URL}}, master_key: {{env: MASTER_KEY}}, timeout: 500ms}}
shared_state: {{redis: {{url: {{env: REDIS_URL}}, deadline: 500ms}}}}
tokens: {{issuer: "https://gw.test", audience: gw-test, algorithm: HS256, secret: {{env: TOKEN_SECRET}}}}
issuers:
  sso: {{issuer: "https://sso.test", audiences: [gw-test], algorithms: [HS256], secret: {{env: ISSUER_SECRET}}}}
passwords: {{hash_threads: 1}}
limits: {{wide: {{by: address, rate: 100000/1d, scope: shared, lease: 0}}}}
telemetry:
  access_log: true
  slow_request: 1ms
  log: {{format: {format}, filter: debug}}
  otlp:
    endpoint: "{}/v1/traces"
    headers: [{{name: authorization, value: {{env: COLLECTOR_TOKEN}}}}]
    sample: 1
clusters:
  rag: {{endpoints: ["{}"], identity: {{algorithm: HS256, secret: {{env: IDENTITY_SECRET}}}}}}
routes:
  - {{name: ask, match: {{path: "/ask/{{*rest}}"}}, issuers: [own, sso], limits: [wide], cluster: rag}}
"#,
        collector.url(),
        upstream.url()
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
    let pairs: Vec<_> =
        by_cookie.all("set-cookie").iter().map(|line| line.split(';').next().unwrap().to_owned()).collect();
    tokens.extend(pairs.iter().map(|pair| pair.split_once('=').unwrap().1.to_owned()));
    assert_eq!(pairs.len(), 2, "a refresh cookie and a device cookie: {pairs:?}");
    let cookie = pairs.join("; ");
    let refreshing = client.post("/auth/refresh").header("cookie", &cookie).header("origin", "https://evil.example");
    refreshing.send().await.refused(403, "cross_site");

    let ask = client.get(&format!("/ask/a?token={QUERY_SECRET}")).bearer(&third.access);
    ask.header("cookie", &format!("{cookie}; session={COOKIE}")).send().await.expect(200);
    tokens.push(upstream.last().head.header("x-gateway-identity").unwrap().to_owned());
    client.get("/ask/a").bearer(WRONG_TOKEN).send().await.refused(401, "invalid_token");
    client.get("/ask/a").header("authorization", &format!("Basic {BASIC}")).send().await.expect(401);
    let theirs = their_token(ISSUER_SECRET);
    client.get(&format!("/ask/a?access_token={}", third.access)).bearer(&theirs).send().await.expect(200);
    tokens.push(upstream.last().head.header("x-gateway-identity").unwrap().to_owned());
    let forged = their_token("another secret of thirty-two bytes");
    client.get("/ask/a").bearer(&forged).send().await.refused(401, "invalid_token");
    tokens.extend([theirs, forged]);
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

/// A token of the other issuer's, signed by this secret.
fn their_token(secret: &str) -> String {
    let now = SystemClock::new().now().seconds();
    let claims = json!({"iss": "https://sso.test", "sub": "eve", "aud": "gw-test", "iat": now, "exp": now + 600});
    hmac_signed(secret.as_bytes(), &json!({"alg": "HS256", "typ": "JWT"}), &claims)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_ever_printed_in_json() {
    no_secret_is_ever_printed("json").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_ever_printed_in_text() {
    no_secret_is_ever_printed("text").await;
}

async fn no_secret_is_ever_printed(format: &str) {
    let (mut cluster, mut redis) = (Cluster::private(), Redis::with_password(REDIS_PASSWORD));
    let (upstream, collector) = (Upstream::start().await, Upstream::start().await);
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("gateway.yaml"), yaml(&upstream, &collector, format)).unwrap();
    let url = cluster.create_database().url.replacen("portcullis@", &format!("portcullis:{DATABASE_PASSWORD}@"), 1);
    let of_the_operator = OF_THE_OPERATOR.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut environment = HashMap::from(of_the_operator);
    environment.extend([("STORE_URL".to_owned(), url), ("REDIS_URL".to_owned(), redis.url())]);
    let gateway = Binary::serve(&folder.path().join("gateway.yaml"), &environment).await;
    let client = gateway.client();
    let sent = [WRONG_PASSWORD, WRONG_TOKEN, QUERY_SECRET, COOKIE, BASIC];
    let of_the_operator = OF_THE_OPERATOR.map(|(_, value)| value);
    let planted: Vec<&str> = [&sent[..], &of_the_operator, &[DATABASE_PASSWORD, REDIS_PASSWORD]].concat();
    for secret in &planted {
        client.plant(secret);
    }

    let mut secrets = use_everything(&client, &upstream).await;
    // Now everything behind it goes, one after the other.
    collector.reply("/v1/traces", Reply::new(503, "no"));
    redis.stop();
    client.get("/ask/a").bearer(&their_token(ISSUER_SECRET)).send().await.expect(200);
    cluster.stop();
    let lost = client.post("/auth/login").json(&json!({"email": "ann@example.org", "password": PASSWORD}));
    lost.send().await.refused(503, "store_unavailable");
    client.refresh(&secrets[1]).await.refused(503, "store_unavailable");
    gateway.logged("that the collector refuses", |line| line.contains("takes no spans")).await;
    let metrics = reqwest::Client::builder().no_proxy().build().unwrap();
    let metrics = metrics.get(format!("http://{}/metrics", gateway.admin)).send().await.unwrap().text().await.unwrap();
    gateway.terminate();
    let (_, log) = gateway.ended().await;
    let spans: Vec<_> =
        collector.received().iter().map(|one| String::from_utf8_lossy(&one.body.bytes).into_owned()).collect();

    secrets.extend(planted.into_iter().map(str::to_owned));
    secrets.extend([PASSWORD, NEW_PASSWORD].map(str::to_owned));
    let logged = |words: &[&str]| log.iter().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(logged(&["portcullis::access", "/ask/a"]), "the access log is on: {log:#?}");
    assert!(logged(&["portcullis::slow"]) && logged(&["DEBUG"]), "the log is at its loudest: {log:#?}");
    assert!(logged(&["store_unavailable"]) && logged(&["Redis is lost"]), "the outages were logged: {log:#?}");
    assert!(spans.iter().any(|span| span.contains("EVALSHA") && span.contains("INSERT INTO sessions")), "{spans:#?}");
    assert_eq!(log.iter().any(|line| line.starts_with('{')), format == "json", "{log:#?}");
    for secret in &secrets {
        for line in log.iter().map(String::as_str).chain(metrics.lines()).chain(spans.iter().map(String::as_str)) {
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
        let redis = format!("redis://:{REDIS_PASSWORD}@redis.internal:6379");
        let setup = Setup::new(Engine::Sqlite, yaml).on(&url).variable("REDIS_URL", &redis);
        OF_THE_OPERATOR.iter().fold(setup, |setup, (name, value)| setup.variable(name, value))
    };
    let settings = setup(&yaml(&upstream, &upstream, "json")).settings().unwrap();
    let shown = format!("{settings:?} {settings:#?}");
    let of_the_operator = OF_THE_OPERATOR.iter().map(|(_, value)| *value);
    for secret in of_the_operator.chain([DATABASE_PASSWORD, REDIS_PASSWORD]) {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }

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
