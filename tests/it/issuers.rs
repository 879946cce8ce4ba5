//! Tokens of other issuers: which route takes whose, what they may claim, and what the service behind learns.

use portcullis::policy::keys::Algorithm;
use serde_json::{Value, json};

use crate::harness::{
    gateway::{Engine, Gateway, ISSUER, Setup},
    identity,
    issuer::{AUDIENCE, Issuer, key, ready},
    tokens::{good_claims, good_header, hmac_signed, signed, unsigned, with},
    upstream::Upstream,
};

/// A gateway with a route for our own tokens, one for the issuer's, one for both, and one for those with roles.
async fn gateway(upstream: &Upstream, issuer: &Issuer) -> Gateway {
    let yaml = yaml(upstream, issuer, "");
    let gateway = Gateway::start(Engine::Sqlite, &yaml).await;
    ready(&gateway.client(), "/theirs/a", &issuer.token(&json!({}))).await;
    gateway
}

fn yaml(upstream: &Upstream, issuer: &Issuer, more: &str) -> String {
    format!(
        r#"
issuers:
  sso:
    issuer: {}
    audiences: [{AUDIENCE}, other-api]
    claims: {{roles: [realm_access.roles], org: org.id}}
    role_names: [{{from: rag-admins, to: admin}}]
    max_lifetime: 1h
{more}
clusters:
  rag: {{endpoints: ["{}"]}}
routes:
  - {{name: own, match: {{path: "/own/{{*rest}}"}}, cluster: rag}}
  - {{name: theirs, match: {{path: "/theirs/{{*rest}}"}}, issuers: [sso], cluster: rag}}
  - {{name: both, match: {{path: "/both/{{*rest}}"}}, issuers: [own, sso], cluster: rag}}
  - {{name: admins, match: {{path: "/admins"}}, issuers: [sso], roles: [admin], cluster: rag}}
  - {{name: readers, match: {{path: "/readers"}}, issuers: [sso], scopes: ["docs:read"], cluster: rag}}
  - {{name: narrow, match: {{path: "/narrow"}}, issuers: [sso], audience: narrow-api, cluster: rag}}
"#,
        issuer.url(),
        upstream.url()
    )
}

#[tokio::test]
async fn a_route_takes_the_tokens_of_those_it_names_whatever_is_cached() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let gateway = gateway(&upstream, &issuer).await;
    let client = gateway.client();
    let (own, theirs) = (client.register("ann@example.org").await.access, issuer.token(&json!({})));
    // Twice: the second time each token is a verified one.
    for _ in 0..2 {
        for (path, of_own, of_theirs) in [("/own/a", 200, 401), ("/theirs/a", 401, 200), ("/both/a", 200, 200)] {
            assert_eq!(client.status(path, &own).await, of_own, "our own at {path}");
            assert_eq!(client.status(path, &theirs).await, of_theirs, "theirs at {path}");
        }
    }
    // The portal is for those who have an account here.
    client.get("/auth/me").bearer(&theirs).send().await.refused(401, "invalid_token");
    client.post("/auth/logout").bearer(&theirs).send().await.refused(401, "invalid_token");
}

#[tokio::test]
async fn the_service_learns_who_calls_and_who_says_so() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let gateway = gateway(&upstream, &issuer).await;
    let client = gateway.client();
    let token = issuer.token(&json!({
        "realm_access": {"roles": ["reader", "admin", "a,admin"]}, "scope": "docs:read", "org": {"id": "acme"},
        "email": "ann@example.org", "email_verified": true, "sid": "theirs", "av": 9,
    }));
    client.get("/theirs/a").bearer(&token).send().await.expect(200);
    let received = upstream.last();
    let identity = received.head.header("x-gateway-identity").expect("an identity");
    let claims = identity::verify(&client, identity, ISSUER, "rag").await.unwrap();
    let expected = json!({
        "iss": ISSUER, "aud": "rag", "iat": claims["iat"], "exp": claims["exp"], "sub": "sso:ann", "idp": issuer.url(),
        "email": "ann@example.org", "email_verified": true, "org": "acme", "roles": ["reader"], "scope": "docs:read",
        "amr": [], "av": 0,
    });
    assert_eq!(claims, expected);
    let plain = ["x-user-id", "x-user-email", "x-user-roles", "x-org-id"].map(|name| received.head.header(name));
    assert_eq!(plain, [Some("sso:ann"), Some("ann@example.org"), Some("reader"), Some("acme")]);
    assert_eq!(received.head.header("authorization"), None, "their token stays here");
}

#[tokio::test]
async fn roles_and_scopes_of_the_mapping_open_routes_and_others_do_not() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let gateway = gateway(&upstream, &issuer).await;
    let client = gateway.client();
    let status = async |path: &str, claims: Value| client.status(path, &issuer.token(&claims)).await;
    assert_eq!(status("/admins", json!({"realm_access": {"roles": ["rag-admins"]}})).await, 200);
    for nobody in [
        json!({"realm_access": {"roles": ["admin"]}}),
        json!({"roles": ["admin", "rag-admins"]}),
        json!({"realm_access": {"roles": "Admin"}}),
        json!({"realm_access.roles": ["rag-admins"]}),
        json!({}),
    ] {
        assert_eq!(status("/admins", nobody.clone()).await, 403, "{nobody}");
    }
    assert_eq!(status("/readers", json!({"scp": ["docs:read"]})).await, 200);
    assert_eq!(status("/readers", json!({"scope": "docs:readers"})).await, 403);
}

#[tokio::test]
async fn an_issuer_s_keys_verify_its_own_tokens_and_nobody_else_s() {
    let (upstream, issuer, other) = (Upstream::start().await, Issuer::start().await, Issuer::start().await);
    let more = format!("  other: {{issuer: \"{}\", audiences: [{AUDIENCE}]}}", other.url());
    let yaml = yaml(&upstream, &issuer, &more).replace("[own, sso]", "[own, sso, other]");
    let gateway = Gateway::start(Engine::Sqlite, &yaml).await;
    let client = gateway.client();
    ready(&client, "/both/a", &issuer.token(&json!({}))).await;
    ready(&client, "/both/a", &other.token(&json!({}))).await;
    let before = upstream.received().len();

    let ours = gateway.signing_key().await;
    let by_theirs = |claims: Value| signed(&issuer.key, &good_header(&issuer.key), &claims);
    let both = with(good_claims(), &json!({"aud": ["gw-test", AUDIENCE]}));
    for (what, token) in [
        ("their key, our name", by_theirs(both.clone())),
        ("their key, our name, our key's name", {
            let header = with(good_header(&issuer.key), &json!({"kid": &**ours.kid()}));
            signed(&issuer.key, &header, &both)
        }),
        ("their key, another issuer's name", issuer.token(&json!({"iss": other.url()}))),
        ("our key, their name", signed(&ours, &good_header(&ours), &with(both.clone(), &json!({"iss": issuer.url()})))),
        ("their name with a slash", issuer.token(&json!({"iss": format!("{}/", issuer.url())}))),
        ("a name nobody has", issuer.token(&json!({"iss": "https://evil.example"}))),
        ("no name", issuer.token(&json!({"iss": null}))),
        ("a list of names", issuer.token(&json!({"iss": [issuer.url()]}))),
        ("another issuer, which the route does not take", other.token(&json!({}))),
    ] {
        let paths: &[&str] = if what.contains("does not take") { &["/theirs/a"] } else { &["/both/a", "/theirs/a"] };
        for path in paths {
            client.get(path).bearer(&token).send().await.refused(401, "invalid_token");
        }
    }
    assert_eq!(upstream.received().len(), before, "none came through");
}

#[tokio::test]
async fn wrong_tokens_of_an_issuer_are_401_with_the_body_all_have() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let gateway = gateway(&upstream, &issuer).await;
    let client = gateway.client();
    let before = upstream.received().len();
    let (key_, claims) = (&issuer.key, issuer.claims());
    let header = with(good_header(key_), &json!({"typ": "JWT"}));
    let now = claims["iat"].as_i64().unwrap();
    let by_header = |changes: Value| signed(key_, &with(header.clone(), &changes), &claims);
    let stranger = key(Algorithm::Es256);
    let public = key_.verifying().jwk().to_string();
    for (what, token) in [
        ("another audience", issuer.token(&json!({"aud": "portal"}))),
        ("our own audience", issuer.token(&json!({"aud": "gw-test"}))),
        ("no audience", issuer.token(&json!({"aud": null}))),
        ("expired", issuer.token(&json!({"exp": now - 31}))),
        ("no exp", issuer.token(&json!({"exp": null}))),
        ("not yet", issuer.token(&json!({"nbf": now + 31}))),
        ("too long a life", issuer.token(&json!({"exp": now + 3_601}))),
        ("no subject", issuer.token(&json!({"sub": null}))),
        ("a logout token", by_header(json!({"typ": "logout+jwt"}))),
        ("an identity token of ours", by_header(json!({"typ": "gw-id+jwt"}))),
        ("alg none", unsigned(&with(header.clone(), &json!({"alg": "none"})), &claims, b"")),
        ("HS256 under the public key", {
            hmac_signed(public.as_bytes(), &with(header.clone(), &json!({"alg": "HS256"})), &claims)
        }),
        ("an algorithm it may not use", issuer.token_by(&key(Algorithm::EdDsa), &json!({}))),
        ("a stranger's key under its name", signed(&stranger, &header, &claims)),
        ("jku", by_header(json!({"jku": issuer.url()}))),
        ("x5u", by_header(json!({"x5u": issuer.url()}))),
        ("jwk", signed(&stranger, &with(header.clone(), &json!({"jwk": stranger.verifying().jwk()})), &claims)),
        ("crit", by_header(json!({"crit": ["exp"]}))),
        ("oversized", issuer.token(&json!({"pad": "x".repeat(9 << 10)}))),
    ] {
        let answer = client.get("/theirs/a").bearer(&token).send().await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "invalid_token"), "{what}: {}", answer.text());
    }
    assert_eq!(upstream.received().len(), before, "none came through");
    assert_eq!(issuer.fetches(), 1, "none of them was a reason to fetch");
}

#[tokio::test]
async fn a_route_s_own_audience_counts_for_every_issuer() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let gateway = gateway(&upstream, &issuer).await;
    let client = gateway.client();
    for (aud, theirs, narrow) in [(AUDIENCE, 200, 401), ("other-api", 200, 401), ("narrow-api", 401, 200)] {
        let token = issuer.token(&json!({ "aud": aud }));
        assert_eq!(client.status("/theirs/a", &token).await, theirs, "{aud}");
        assert_eq!(client.status("/narrow", &token).await, narrow, "{aud}");
    }
}

#[tokio::test]
async fn every_algorithm_of_an_issuer_verifies() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let algorithms =
        [Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa].map(key);
    issuer.publish(&algorithms.iter().collect::<Vec<_>>());
    let more = "    algorithms: [RS256, PS256, ES256, ES384, EdDSA]";
    let gateway = Gateway::start(Engine::Sqlite, &yaml(&upstream, &issuer, more)).await;
    for key in &algorithms {
        ready(&gateway.client(), "/theirs/a", &issuer.token_by(key, &json!({}))).await;
    }
}

#[tokio::test]
async fn an_issuer_with_a_secret_needs_no_keys_to_be_fetched() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let secret = "a secret of thirty-two bytes or so";
    let yaml = yaml(&upstream, &issuer, "    secret: {env: SSO_SECRET}");
    let gateway = Setup::new(Engine::Sqlite, &yaml).variable("SSO_SECRET", secret).start().await;
    let client = gateway.client();
    client.plant(secret);
    let token = |secret: &str| hmac_signed(secret.as_bytes(), &json!({"alg": "HS256", "typ": "JWT"}), &issuer.claims());
    assert_eq!(client.status("/theirs/a", &token(secret)).await, 200);
    client
        .get("/theirs/a")
        .bearer(&token("another secret of thirty-two bytes"))
        .send()
        .await
        .refused(401, "invalid_token");
    let public = issuer.token(&json!({}));
    client.get("/theirs/a").bearer(&public).send().await.refused(401, "invalid_token");
    assert_eq!(issuer.service.received().len(), 0);
}

#[tokio::test]
async fn two_issuers_users_of_one_name_have_a_limit_each() {
    let (upstream, issuer, other) = (Upstream::start().await, Issuer::start().await, Issuer::start().await);
    let more = format!("  other: {{issuer: \"{}\", audiences: [{AUDIENCE}]}}", other.url());
    let yaml = yaml(&upstream, &issuer, &more)
        + "  - {name: few, match: {path: /few}, issuers: [sso, other], limits: [few], cluster: rag}\n"
        + "limits: {few: {by: subject, rate: 1/1h, burst: 2}}\n";
    let gateway = Gateway::start(Engine::Sqlite, &yaml).await;
    let client = gateway.client();
    let (one, two) = (issuer.token(&json!({})), other.token(&json!({})));
    ready(&client, "/few", &one).await;
    ready(&client, "/few", &two).await;
    for token in [&one, &two] {
        assert_eq!([client.status("/few", token).await, client.status("/few", token).await], [200, 429]);
    }
}
