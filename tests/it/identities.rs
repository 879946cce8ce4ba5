//! The forms in which a service is told who calls. Each is verified as that form's readers verify it.

use std::time::Duration;

use portcullis::clock::Clock;
use serde_json::{Value, json};

use crate::harness::{
    client::Answer,
    gateway::{Engine, Gateway, ISSUER, Setup},
    identity,
    tokens::{claims_of, good_claims, good_header, signed, with},
    upstream::Upstream,
};

const SECRET: &str = "a secret that the service alone shares with us";

/// A gateway whose one cluster has this `identity:`.
fn setup(upstream: &Upstream, rule: &str) -> Setup {
    let yaml = format!(
        r#"
clusters:
  rag: {{endpoints: ["{url}"], identity: {rule}}}
  plain: {{endpoints: ["{url}"]}}
routes:
  - {{name: ask, match: {{path: "/ask/{{*rest}}"}}, cluster: rag}}
  - {{name: open, match: {{path: "/open/{{*rest}}"}}, auth: none, cluster: rag}}
  - {{name: plain, match: {{path: "/plain/{{*rest}}"}}, auth: none, cluster: plain}}
"#,
        url = upstream.url()
    );
    Setup::new(Engine::Sqlite, &yaml)
}

/// A token of the gateway's with these claims changed, whose session nobody has ended.
async fn token(gateway: &Gateway, changes: &Value) -> String {
    let key = gateway.signing_key().await;
    let ann = json!({"email": "ann@example.org", "email_verified": true, "org": "acme", "roles": ["analyst", "user"]});
    signed(&key, &good_header(&key), &with(with(good_claims(), &ann), changes))
}

/// What a service with a shared secret makes of an identity.
fn verify_by_secret(token: &str, secret: &str) -> Result<Value, String> {
    verify_kind_by_secret(token, "gw-id+jwt", secret)
}

/// The same for another kind of token.
fn verify_kind_by_secret(token: &str, typ: &str, secret: &str) -> Result<Value, String> {
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    rules.set_audience(&["rag"]);
    rules.set_issuer(&[ISSUER]);
    // The library reads the system's clock; ours stands still.
    rules.validate_exp = false;
    let key = jsonwebtoken::DecodingKey::from_secret(secret.as_bytes());
    let decoded = jsonwebtoken::decode::<Value>(token, &key, &rules).map_err(|error| error.to_string())?;
    assert_eq!(decoded.header.typ.as_deref(), Some(typ));
    Ok(decoded.claims)
}

#[tokio::test]
async fn a_service_with_a_secret_verifies_by_it_and_by_nothing_else() {
    let upstream = Upstream::start().await;
    let rule = "{algorithm: HS256, secret: {env: IDENTITY_SECRET}}";
    let gateway = setup(&upstream, rule).variable("IDENTITY_SECRET", SECRET).start().await;
    let client = gateway.client();
    client.plant(SECRET);
    let token = token(&gateway, &json!({})).await;
    client.get("/ask/a").bearer(&token).send().await.expect(200);
    let received = upstream.last().head.header("x-gateway-identity").expect("an identity").to_owned();
    let claims = verify_by_secret(&received, SECRET).unwrap();
    assert_eq!(claims["sub"], good_claims()["sub"]);
    assert_eq!(claims["email"], "ann@example.org");
    assert!(verify_by_secret(&received, "another secret that the service does not share").is_err());
    assert!(identity::verify(&client, &received, ISSUER, "rag").await.is_err(), "no published key verifies it");
    client.get("/ask/a").bearer(&received).send().await.refused(401, "invalid_token");

    client.get("/open/a").send().await.expect(200);
    let received = upstream.last().head.header("x-gateway-identity").expect("an identity").to_owned();
    assert_eq!(verify_by_secret(&received, SECRET).unwrap()["anonymous"], true);

    // The secret is one service's alone.
    client.get("/plain/a").send().await.expect(200);
    let received = upstream.last().head.header("x-gateway-identity").expect("an identity").to_owned();
    assert!(verify_by_secret(&received, SECRET).is_err());
    identity::verify(&client, &received, ISSUER, "plain").await.unwrap();
}

#[tokio::test]
async fn plain_headers_have_the_names_the_service_wants_and_no_client_may_use_them() {
    let upstream = Upstream::start().await;
    let rule = "{headers: {user: X-Who, email: X-Who-Mail, roles: Remote-Groups, org: X-Tenant}}";
    let gateway = setup(&upstream, rule).start().await;
    let client = gateway.client();
    let token = token(&gateway, &json!({})).await;
    let spoofed = |path| {
        let names = ["x-who", "x-who-mail", "remote-groups", "x-tenant", "x-user-id"];
        names.iter().fold(client.get(path), |request, name| request.header(name, "eve"))
    };
    spoofed("/ask/a").bearer(&token).send().await.expect(200);
    let received = upstream.last().head;
    assert_eq!(received.header("x-who"), good_claims()["sub"].as_str());
    assert_eq!(received.header("x-who-mail"), Some("ann@example.org"));
    assert_eq!(received.header("remote-groups"), Some("analyst,user"));
    assert_eq!(received.header("x-tenant"), Some("acme"));
    assert_eq!(received.header("x-user-id"), None, "under its new name only");
    // Anonymous, and a cluster that knows other names: one client's word is never another cluster's fact.
    for path in ["/open/a", "/plain/a"] {
        spoofed(path).send().await.expect(200);
        let received = upstream.last().head;
        for name in ["x-who", "x-who-mail", "remote-groups", "x-tenant", "x-user-id"] {
            assert_eq!(received.header(name), None, "{path}: {name}");
        }
    }
}

#[tokio::test]
async fn an_identity_bound_to_its_request_is_good_for_no_other() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, "{bind: request}").start().await;
    let client = gateway.client();
    let token = token(&gateway, &json!({})).await;
    let mut seen = Vec::new();
    for request in [client.get("/ask/a?q=why"), client.get("/ask/a?q=why"), client.post("/ask/b")] {
        request.bearer(&token).send().await.expect(200);
        let received = upstream.last();
        let identity = received.head.header("x-gateway-identity").expect("an identity").to_owned();
        let claims = identity::verify(&client, &identity, ISSUER, "rag").await.unwrap();
        assert_eq!(claims["sub"], good_claims()["sub"]);
        assert_eq!(claims["rid"].as_str(), received.head.header("x-request-id"));
        assert_eq!(claims["htm"], received.method());
        let path = received.target().split('?').next().unwrap();
        assert_eq!(claims["htu"], format!("http://{}{path}", received.head.header("host").unwrap()));
        seen.push(identity);
    }
    seen.dedup();
    assert_eq!(seen.len(), 3, "each request has its own");
    client.get("/plain/a").send().await.expect(200);
    let unbound = upstream.last().head.header("x-gateway-identity").unwrap().to_owned();
    assert_eq!(identity::verify(&client, &unbound, ISSUER, "plain").await.unwrap().get("rid"), None);
}

/// What a service gets for the reference in an identity.
async fn referred(gateway: &Gateway, identity: &Value) -> Answer {
    let source = &identity["_claim_sources"]["gateway"];
    let path = source["endpoint"].as_str().unwrap().strip_prefix(ISSUER).expect("at the issuer, unless said otherwise");
    gateway.client().get(path).bearer(source["access_token"].as_str().unwrap()).send().await
}

#[tokio::test]
async fn claims_that_no_header_holds_are_read_by_reference_and_whole() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, "{}").start().await;
    let client = gateway.client();
    let roles: Vec<String> = (0..420).map(|i| format!("role-{i:03}")).collect();
    let token = token(&gateway, &json!({"roles": roles})).await;
    client.get("/ask/a").bearer(&token).send().await.expect(200);
    let received = upstream.last().head;
    let identity = received.header("x-gateway-identity").unwrap();
    assert!(identity.len() < 4096, "{} bytes", identity.len());
    let claims = identity::verify(&client, identity, ISSUER, "rag").await.unwrap();
    assert_eq!(claims["_claim_names"], json!({"roles": "gateway"}));
    assert_eq!(
        (claims.get("roles"), &claims["email"], &claims["org"]),
        (None, &json!("ann@example.org"), &json!("acme"))
    );
    let plain = ["x-user-id", "x-user-email", "x-user-roles", "x-org-id"].map(|name| received.header(name));
    assert_eq!(plain, [good_claims()["sub"].as_str(), Some("ann@example.org"), None, Some("acme")]);

    let answer = referred(&gateway, &claims).await.expect(200);
    assert_eq!(answer.header("content-type"), Some("application/jwt"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let whole = identity::verify_claims(&client, &answer.text(), ISSUER, "rag").await.unwrap();
    let expected = json!({
        "iss": ISSUER, "aud": "rag", "sub": claims["sub"], "iat": claims["iat"], "exp": claims["exp"], "roles": roles,
    });
    assert_eq!(whole, expected);

    // A service's reference is no access token, nor is any other token of ours a reference.
    let reference = claims["_claim_sources"]["gateway"]["access_token"].as_str().unwrap();
    client.get("/ask/a").bearer(reference).send().await.refused(401, "invalid_token");
    client.get("/ask/a").bearer(&answer.text()).send().await.refused(401, "invalid_token");
    for other in [&token, identity, "garbage"] {
        client.get("/.well-known/portcullis/claims").bearer(other).send().await.refused(401, "invalid_token");
    }
    client.get("/.well-known/portcullis/claims").send().await.refused(401, "credentials_missing");
    gateway.clock.advance(Duration::from_mins(1));
    referred(&gateway, &claims).await.refused(401, "invalid_token");
}

#[tokio::test]
async fn bound_identities_share_a_reference_for_a_while_signed_by_the_service_s_own_secret() {
    let upstream = Upstream::start().await;
    let rule = "{algorithm: HS256, secret: {env: IDENTITY_SECRET}, bind: request, claims_url: http://10.0.0.7:8080}";
    let gateway = setup(&upstream, rule).variable("IDENTITY_SECRET", SECRET).start().await;
    let client = gateway.client();
    let (roles, scope) = (vec!["reader"; 330], "docs:read ".repeat(120));
    let token = token(&gateway, &json!({"roles": roles, "scope": scope.trim_end()})).await;
    let mut references = Vec::new();
    for _ in 0..2 {
        client.get("/ask/a").bearer(&token).send().await.expect(200);
        let claims = verify_by_secret(upstream.last().head.header("x-gateway-identity").unwrap(), SECRET).unwrap();
        assert_eq!(claims["_claim_names"], json!({"roles": "gateway", "scope": "gateway"}));
        let source = &claims["_claim_sources"]["gateway"];
        assert_eq!(source["endpoint"], "http://10.0.0.7:8080/.well-known/portcullis/claims");
        references.push(source["access_token"].as_str().unwrap().to_owned());
    }
    // A caller with many requests holds the place of one.
    assert_eq!(references[0], references[1]);
    gateway.clock.advance(Duration::from_secs(31));
    client.get("/ask/a").bearer(&token).send().await.expect(200);
    let claims = verify_by_secret(upstream.last().head.header("x-gateway-identity").unwrap(), SECRET).unwrap();
    references.push(claims["_claim_sources"]["gateway"]["access_token"].as_str().unwrap().to_owned());
    assert_ne!(references[1], references[2]);
    // The first ends no sooner than the last identity that refers to it.
    gateway.clock.advance(Duration::from_secs(50));
    for reference in &references[1..] {
        let answer = client.get("/.well-known/portcullis/claims").bearer(reference).send().await.expect(200);
        let whole = verify_kind_by_secret(&answer.text(), "gw-claims+jwt", SECRET).unwrap();
        assert_eq!((whole["roles"].as_array().unwrap().len(), whole["scope"].as_str()), (330, Some(scope.trim_end())));
    }
}

#[tokio::test]
async fn a_service_reads_claims_by_the_name_it_has_for_the_gateway_although_the_portal_has_one_of_its_own() {
    let upstream = Upstream::start().await;
    let yaml = format!(
        r#"
portal: {{host: login.example.org}}
clusters:
  rag: {{endpoints: ["{}"], identity: {{claims_url: "http://10.0.0.7:8080"}}}}
routes:
  - {{name: all, match: {{path: "/{{*rest}}"}}, auth: none, cluster: rag}}
  - {{name: ask, match: {{path: "/ask/{{*rest}}"}}, cluster: rag}}
"#,
        upstream.url()
    );
    let gateway = Gateway::start(Engine::Sqlite, &yaml).await;
    let client = gateway.client();
    let token = token(&gateway, &json!({"roles": vec!["reader"; 500]})).await;
    client.get("/ask/a").bearer(&token).send().await.expect(200);
    let identity = upstream.last().head.header("x-gateway-identity").unwrap().to_owned();
    let claims = claims_of(&identity);
    let reference = claims["_claim_sources"]["gateway"]["access_token"].as_str().unwrap();
    let answer = client.get("/.well-known/portcullis/claims").bearer(reference).send().await.expect(200);
    assert_eq!(claims_of(&answer.text())["roles"].as_array().unwrap().len(), 500);
    assert_eq!(upstream.received().len(), 1, "no service is asked for claims");
}

#[tokio::test]
async fn a_clock_that_is_set_back_leaves_no_identity_from_the_future() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(Engine::Sqlite, &upstream).await;
    let client = gateway.client();
    let access = client.register("ann@example.org").await.access;
    let issued = async |path: &str| {
        client.get(path).bearer(&access).send().await.expect(200);
        let token = upstream.last().head.header("x-gateway-identity").unwrap().to_owned();
        identity::verify(&client, &token, ISSUER, "rag").await.unwrap()["iat"].as_i64().unwrap()
    };
    gateway.clock.advance(Duration::from_mins(5));
    for path in ["/ask/a", "/open/a"] {
        assert_eq!(issued(path).await, gateway.clock.now().seconds(), "{path}");
    }
    gateway.clock.set_back(Duration::from_mins(4));
    for path in ["/ask/a", "/open/a"] {
        assert_eq!(issued(path).await, gateway.clock.now().seconds(), "{path}, after the clock was set back");
    }
}

/// A gateway with two clusters, at `/one/…` and `/two/…`, whose identities are told so.
async fn two(upstream: &Upstream, one: &str, two: &str) -> Gateway {
    let url = upstream.url();
    let yaml = format!(
        "clusters:\n  one: {{endpoints: [\"{url}\"], identity: {one}}}\n  two: {{endpoints: [\"{url}\"], identity: {two}}}\n\
         routes:\n  - {{name: one, match: {{path: \"/one/{{*rest}}\"}}, cluster: one}}\n  \
         - {{name: two, match: {{path: \"/two/{{*rest}}\"}}, cluster: two}}\n"
    );
    Setup::new(Engine::Sqlite, &yaml).start().await
}

#[tokio::test]
async fn a_shared_reference_is_one_caller_s_of_one_token_at_one_service() {
    let upstream = Upstream::start().await;
    let gateway = two(&upstream, "{bind: request}", "{bind: request}").await;
    let client = gateway.client();
    let eve = "0190a1b2-0000-7000-8000-0000000000ee";
    let callers = [
        (good_claims()["sub"].clone(), vec!["reader"; 500]),
        // The same, with other rights since.
        (good_claims()["sub"].clone(), vec!["writer"; 500]),
        (json!(eve), vec!["reader"; 500]),
    ];
    let mut seen = std::collections::HashSet::new();
    for (sub, roles) in callers {
        let token = token(&gateway, &json!({"sub": sub, "roles": roles})).await;
        for service in ["one", "two"] {
            client.get(&format!("/{service}/a")).bearer(&token).send().await.expect(200);
            let identity = claims_of(upstream.last().head.header("x-gateway-identity").unwrap());
            assert_eq!((&identity["sub"], &identity["aud"]), (&sub, &json!(service)));
            let read = claims_of(&referred(&gateway, &identity).await.expect(200).text());
            assert_eq!((&read["sub"], &read["aud"], &read["roles"]), (&sub, &json!(service), &json!(roles)));
            let reference = identity["_claim_sources"]["gateway"]["access_token"].as_str().unwrap().to_owned();
            assert!(seen.insert(reference), "{service}: somebody else's");
        }
    }
}

#[tokio::test]
async fn two_services_of_one_audience_are_told_each_where_it_reaches_the_claims() {
    let upstream = Upstream::start().await;
    let rules =
        ["http://10.0.0.7:8080", "http://10.1.0.7:8080"].map(|url| format!("{{audience: rag, claims_url: \"{url}\"}}"));
    let gateway = two(&upstream, &rules[0], &rules[1]).await;
    let token = token(&gateway, &json!({"roles": vec!["reader"; 500]})).await;
    for (path, url) in [("/one/a", "http://10.0.0.7:8080"), ("/two/a", "http://10.1.0.7:8080")] {
        gateway.client().get(path).bearer(&token).send().await.expect(200);
        let identity = claims_of(upstream.last().head.header("x-gateway-identity").unwrap());
        let endpoint = identity["_claim_sources"]["gateway"]["endpoint"].as_str().unwrap();
        assert_eq!(endpoint, format!("{url}/.well-known/portcullis/claims"), "{path}");
    }
}
