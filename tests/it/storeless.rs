//! `store.url: none`: a gateway that keeps nothing. Tokens of other issuers come in, identities go out, and services
//! find the keys for them although there is no portal.

use std::{collections::HashMap, fs, path::Path, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use portcullis::{
    app::{App, Rim},
    clock::SystemEntropy,
    config::{self, Source},
    policy::keys::{Algorithm, SigningKey},
    telemetry::metrics::ReloadResult,
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    harness::{
        binary::Binary,
        client::Client,
        clock::ManualClock,
        gateway::{Engine, Gateway, ISSUER, Setup},
        identity,
        invariants::Invariants,
        issuer::{AUDIENCE, Issuer, ready},
        soon,
        tokens::{good_claims, good_header, signed, with},
        upstream::{Reply, Upstream},
    },
    support::redis::Redis,
};

/// Keys, and what stands for them in the file.
fn pem(algorithms: &[Algorithm]) -> String {
    let one = |algorithm: &Algorithm| {
        let pkcs8 = SigningKey::generate_pkcs8(*algorithm).unwrap();
        let body = BASE64_STANDARD.encode(pkcs8.expose_secret());
        format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
    };
    algorithms.iter().map(one).collect()
}

/// `more`: further keys of `tokens`. Routes take the issuer's tokens.
fn yaml(upstream: &Upstream, issuer: &Issuer, more: &str) -> String {
    format!(
        r#"
store: {{url: none}}
portal: {{enabled: false}}
tokens: {{issuer: "{ISSUER}", audience: gw-test{more}}}
issuers:
  sso: {{issuer: "{}", audiences: [{AUDIENCE}]}}
limits: {{few: {{by: subject, rate: 3/1h}}}}
clusters:
  rag: {{endpoints: ["{}"]}}
routes:
  - {{name: ask, match: {{path: "/ask/{{*rest}}"}}, issuers: [sso], cluster: rag}}
  - {{name: few, match: {{path: "/few"}}, issuers: [sso], limits: [few], cluster: rag}}
  - {{name: open, match: {{path: "/open/{{*rest}}"}}, auth: none, cluster: rag}}
"#,
        issuer.url(),
        upstream.url()
    )
}

async fn keys(client: &Client) -> Value {
    client.get("/.well-known/jwks.json").send().await.expect(200).json()["keys"].take()
}

#[tokio::test]
async fn a_foreign_token_gets_through_and_its_identity_verifies_by_the_served_keys() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let mut gateway = Gateway::start(Engine::Sqlite, &yaml(&upstream, &issuer, "")).await;
    let client = gateway.client();
    let token = issuer.token(&json!({"email": "ann@example.org", "email_verified": true}));
    ready(&client, "/ask/a", &token).await;
    let identity = upstream.last().head.header("x-gateway-identity").expect("an identity").to_owned();
    let claims = identity::verify(&client, &identity, ISSUER, "rag").await.unwrap();
    assert_eq!((&claims["sub"], &claims["idp"]), (&json!("sso:ann"), &json!(issuer.url())));
    client.get("/open/a").send().await.expect(200);
    let anonymous = upstream.last().head.header("x-gateway-identity").unwrap().to_owned();
    assert_eq!(identity::verify(&client, &anonymous, ISSUER, "rag").await.unwrap()["anonymous"], true);

    // There is nobody to log in as, and no such endpoint.
    for path in ["/auth/login", "/auth/register", "/auth/refresh"] {
        client.post(path).json(&json!({})).send().await.refused(404, "no_route");
    }
    client.get("/.well-known/openid-configuration").send().await.refused(404, "no_route");
    client.get("/ask/a").send().await.refused(401, "credentials_missing");

    let statuses = [200, 200, 200, 429];
    for status in statuses {
        assert_eq!(client.status("/few", &token).await, status);
    }
    let more = yaml(&upstream, &issuer, "") + "  - {name: new, match: {path: /new}, issuers: [sso], cluster: rag}\n";
    assert_eq!(gateway.reload(&more).await, ReloadResult::Applied);
    let before = keys(&client).await;
    assert_eq!(client.status("/new", &token).await, 200);
    assert_eq!(keys(&client).await, before, "a reload exchanges no key");
    assert_eq!(gateway.reload(&more.replace("rate: 3/1h", "rate: 4/1h")).await, ReloadResult::Applied);
    assert_eq!(gateway.reload(&more.replace("url: none", "url: \"sqlite://x.db\"")).await, ReloadResult::NeedsRestart);
    assert_eq!(gateway.files(), Vec::<String>::new(), "nothing is written");
}

#[tokio::test]
async fn no_token_by_the_gateway_s_own_key_is_taken() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let given = pem(&[Algorithm::Es256]);
    let yaml = yaml(&upstream, &issuer, ", signing_key: {env: SIGNING_KEY}");
    let gateway = Setup::new(Engine::Sqlite, &yaml).variable("SIGNING_KEY", &given).start().await;
    let client = gateway.client();
    ready(&client, "/ask/a", &issuer.token(&json!({}))).await;
    let body: String = given.lines().filter(|line| !line.starts_with('-')).collect();
    let key = SigningKey::from_pkcs8(Algorithm::Es256, &BASE64_STANDARD.decode(body).unwrap()).unwrap();
    assert_eq!(keys(&client).await[0]["kid"], **key.kid(), "it is the gateway's");
    for claims in [good_claims(), with(good_claims(), &json!({"iss": issuer.url(), "aud": AUDIENCE}))] {
        let token = signed(&key, &good_header(&key), &claims);
        client.get("/ask/a").bearer(&token).send().await.refused(401, "invalid_token");
    }
}

#[tokio::test]
async fn a_given_key_keeps_its_name_over_restarts_and_a_made_one_does_not() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let given = pem(&[Algorithm::EdDsa, Algorithm::Es256]);
    let yaml_of = |more: &str| yaml(&upstream, &issuer, more);
    let setup = Setup::new(Engine::Sqlite, &yaml_of(", signing_key: {file: key.pem}"));
    let mut gateway = setup.file("key.pem", &given).start().await;
    gateway.client().plant(given.lines().nth(1).unwrap());
    let first = keys(&gateway.client()).await;
    gateway.restart().await;
    assert_eq!(keys(&gateway.client()).await, first);
    assert_eq!(first[0]["alg"], "ES256");

    gateway.restart_with(&yaml_of("")).await;
    let made = keys(&gateway.client()).await;
    gateway.restart().await;
    let remade = keys(&gateway.client()).await;
    assert!(made[0]["kid"] != first[0]["kid"] && made[0]["kid"] != remade[0]["kid"], "{made} {remade}");
    // Another algorithm's key is signed with when the configuration says so.
    gateway.restart_with(&yaml_of(", algorithm: EdDSA, signing_key: {file: key.pem}")).await;
    gateway.client().get("/open/a").send().await.expect(200);
    let identity = upstream.last().head.header("x-gateway-identity").unwrap().to_owned();
    assert_eq!(jsonwebtoken::decode_header(&identity).unwrap().alg, jsonwebtoken::Algorithm::EdDSA);
    identity::verify(&gateway.client(), &identity, ISSUER, "rag").await.unwrap();
}

#[tokio::test]
async fn readiness_and_metrics_know_of_no_store_and_limits_may_be_shared() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let redis = Redis::private();
    let shared = "shared_state: {redis: {url: {env: REDIS_URL}, deadline: 20s}}\n".to_owned()
        + &yaml(&upstream, &issuer, "").replace("rate: 3/1h", "rate: 3/1h, scope: shared, lease: 0");
    let start = || Setup::new(Engine::Sqlite, &shared).variable("REDIS_URL", &redis.url()).start();
    let (one, two) = (Box::pin(start()).await, Box::pin(start()).await);
    let token = issuer.token(&json!({}));
    for gateway in [&one, &two] {
        ready(&gateway.client(), "/ask/a", &token).await;
    }
    let few = async |gateway: &Gateway| gateway.client().status("/few", &token).await;
    assert_eq!([few(&one).await, few(&two).await, few(&one).await, few(&two).await], [200, 200, 200, 429]);

    let (status, text) = one.admin("/readyz").await;
    let report: Value = serde_json::from_str(&text).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let names: Vec<_> =
        checks.iter().map(|check| (check["name"].as_str().unwrap(), check["state"].as_str().unwrap())).collect();
    let expected =
        ["lifecycle", "configuration", "signing_keys", "shared_state", "upstreams", "issuers"].map(|name| (name, "ok"));
    assert_eq!((status, names), (200, expected.to_vec()));
    for line in
        ["hash_queue_length", "store_pool_connections{state=\"idle\"}", "store_pool_connections{state=\"busy\"}"]
    {
        assert!(one.metric(&format!("portcullis_{line}")).await.abs() < 0.1, "{line}");
    }
}

#[tokio::test]
async fn a_made_key_is_warned_of_and_the_folder_stays_as_it_was() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let listeners = "listeners: {public: {bind: \"127.0.0.1:0\"}, admin: {bind: \"127.0.0.1:0\"}}\n";
    for (more, warned) in [("", true), (", signing_key: {env: SIGNING_KEY}", false)] {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("gateway.yaml");
        fs::write(&file, listeners.to_owned() + &yaml(&upstream, &issuer, more)).unwrap();
        let environment = HashMap::from([("SIGNING_KEY".to_owned(), pem(&[Algorithm::Es256]))]);
        let gateway = Binary::serve(&file, &environment).await;
        gateway.client().get("/open/a").send().await.expect(200);
        gateway.terminate();
        let (code, log) = gateway.ended().await;
        let said = log.iter().any(|line| line.contains("\"WARN\"") && line.contains("tokens.signing_key"));
        assert_eq!((code, said), (Some(0), warned), "{log:#?}");
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["gateway.yaml"]);
    }
}

#[tokio::test]
async fn the_key_set_is_served_with_the_portal_off_and_nothing_else_is_taken_from_services() {
    let upstream = Upstream::start().await;
    upstream.reply("/.well-known/openid-configuration", Reply::new(200, "theirs"));
    let yaml = |portal: &str| {
        format!(
            "portal: {{enabled: false{portal}}}\nclusters: {{rag: {{endpoints: [\"{}\"]}}}}\nroutes:\n  \
             - {{name: all, match: {{path: \"/{{*rest}}\"}}, auth: none, cluster: rag}}\n",
            upstream.url()
        )
    };
    let mut gateway = Gateway::start(Engine::Sqlite, &yaml("")).await;
    let client = gateway.client();
    client.get("/a").send().await.expect(200);
    let identity = upstream.last().head.header("x-gateway-identity").unwrap().to_owned();
    let before = upstream.received().len();
    identity::verify(&client, &identity, ISSUER, "rag").await.unwrap();
    assert_eq!(upstream.received().len(), before, "no service was asked");
    client.post("/.well-known/jwks.json").send().await.refused(405, "method_not_allowed");
    for path in ["/.well-known/openid-configuration", "/auth/login", "/.well-known/jwks.json.bak"] {
        client.get(path).send().await.expect(200);
        assert_eq!(upstream.last().target(), path);
    }

    // On its own host only, where it has one.
    assert_eq!(gateway.reload(&yaml(", host: auth.test")).await, ReloadResult::Applied);
    client.get("/.well-known/jwks.json").send().await.expect(200);
    assert_eq!(upstream.last().target(), "/.well-known/jwks.json");
    let asked = upstream.received().len();
    let mut raw = gateway.raw().await;
    raw.send("GET /.well-known/jwks.json HTTP/1.1\r\nHost: auth.test\r\n\r\n").await;
    assert_eq!(raw.answer().await.unwrap().status, 200);
    assert_eq!(upstream.received().len(), asked);
}

/// `config/examples/foreign-issuer-only.yaml`, with its issuer and its service played by the harness.
#[tokio::test]
async fn the_example_without_a_store_starts_and_lets_the_issuer_s_users_through() {
    let (upstream, issuer, folder) = (Upstream::start().await, Issuer::start().await, TempDir::new().unwrap());
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/foreign-issuer-only.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let variables = HashMap::from(
        [("ISSUER_URL", issuer.url()), ("RAG_URL", upstream.url())].map(|(name, value)| (name.to_owned(), value)),
    );
    let source = Source { name: "foreign-issuer-only.yaml", text: &text, base_dir: folder.path() };
    let mut settings = config::parse(&source, &variables).unwrap_or_else(|errors| panic!("{errors}"));
    settings.listeners.public.bind = "127.0.0.1:0".parse().unwrap();
    settings.listeners.admin = "127.0.0.1:0".parse().unwrap();
    let public_issuer = Arc::clone(&settings.tokens.issuer);
    let rim = Rim { clock: Arc::new(ManualClock::default()), entropy: Arc::new(SystemEntropy) };
    let running = soon("the example", App::start(settings, Arc::default(), rim)).await.unwrap();
    let client = Client::new(&format!("http://{}", running.public_addr()), &Arc::<Invariants>::default());

    let token = issuer.token(&json!({"realm_access": {"roles": ["reader"]}}));
    ready(&client, "/documents", &token).await;
    let identity = upstream.last().head.header("x-gateway-identity").unwrap().to_owned();
    let claims = identity::verify(&client, &identity, &public_issuer, "rag").await.unwrap();
    assert_eq!((&claims["sub"], &claims["roles"]), (&json!("keycloak:ann"), &json!(["reader"])));
    client.get("/documents").send().await.refused(401, "credentials_missing");
    let late = issuer.token(&json!({"exp": issuer.claims()["exp"].as_i64().unwrap() - 3_600}));
    client.get("/documents").bearer(&late).send().await.refused(401, "invalid_token");
    soon("the gateway to stop", running.stop()).await;
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is written");
}
