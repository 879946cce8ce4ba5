//! Token introspection (RFC 7662) and revocation (RFC 7009) for services that prove who they are.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use portcullis::{
    clock::Clock,
    store::{AuditEntry, AuditEvent, audit::Actor},
};
use serde_json::{Value, json};

use crate::harness::{
    client::{Answer, Call, Client},
    gateway::{AUDIENCE, Engine, ISSUER, Setup, standard},
    gateways::{Deployment, Gateways},
    tokens::claims_of,
    upstream::Upstream,
};

on_every_deployment!(
    a_client_proves_who_it_is_in_either_way_and_never_in_both,
    introspection_tells_what_a_token_is_worth_now,
    what_the_gateway_would_not_take_is_inactive_and_nothing_else,
    a_revoked_refresh_token_ends_its_session_everywhere,
    a_revoked_access_token_is_refused_everywhere_and_its_session_goes_on,
    revoking_what_is_no_token_is_no_fault,
    introspection_tells_rights_as_they_are_now,
);

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// What a base64 secret looks like: form-encoding changes it.
const ODD_SECRET: &str = "+/AbC+0123456789abcdef0123456789+/AbC%==";

const CLIENTS: &str =
    "oauth: {clients: [{id: docs, secret: {env: DOCS_SECRET}}, {id: odd.one, secret: {env: ODD_SECRET}}]}\n";

fn with_secrets(setup: Setup) -> Setup {
    setup.variable("DOCS_SECRET", SECRET).variable("ODD_SECRET", ODD_SECRET)
}

async fn started(deployment: Deployment, upstream: &Upstream) -> Gateways {
    let gateways = Gateways::start_with(deployment, &format!("{}{CLIENTS}", standard(upstream)), with_secrets).await;
    for secret in [SECRET, ODD_SECRET] {
        gateways.client().plant(secret);
    }
    gateways
}

fn form(call: Call, body: &str) -> Call {
    call.header("content-type", "application/x-www-form-urlencoded").body(body.to_owned())
}

fn basic(pair: &str) -> String {
    format!("Basic {}", STANDARD.encode(pair))
}

/// Asks as a client that is known.
async fn ask(client: &Client, path: &str, token: &str) -> Answer {
    let call = client.post(path).header("authorization", &basic(&format!("docs:{SECRET}")));
    form(call, &format!("token={token}&token_type_hint=whatever&more=ignored")).send().await
}

async fn introspected(client: &Client, token: &str) -> Value {
    let answer = ask(client, "/oauth/introspect", token).await.expect(200);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    answer.json()
}

async fn revoked(client: &Client, token: &str) {
    assert_eq!(ask(client, "/oauth/revoke", token).await.expect(200).text(), "");
}

#[track_caller]
fn refused(answer: &Answer, status: u16, error: &str) {
    assert_eq!((answer.status, answer.json()["error"].as_str()), (status, Some(error)), "{}", answer.text());
    let challenge = (status == 401).then_some(r#"Basic realm="portcullis""#);
    assert_eq!(answer.header("www-authenticate"), challenge);
}

async fn a_client_proves_who_it_is_in_either_way_and_never_in_both(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = started(deployment, &upstream).await;
    let client = gateways.client();
    let token = client.register("ann@example.org").await.access;
    let encoded = "%2B%2FAbC%2B0123456789abcdef0123456789%2B%2FAbC%25%3D%3D";
    for path in ["/oauth/introspect", "/oauth/revoke"] {
        let by_basic = async |pair: &str, more: &str| {
            let call = client.post(path).header("authorization", &basic(pair));
            form(call, &format!("token=x{more}")).send().await
        };
        let by_form = async |more: &str| form(client.post(path), &format!("token=x{more}")).send().await;
        for pair in [
            format!("docs:{SECRET}"),
            format!("d%6Fcs:{SECRET}"),
            format!("odd.one:{encoded}"),
            format!("odd.one:{ODD_SECRET}"),
        ] {
            by_basic(&pair, "").await.expect(200);
        }
        by_basic(&format!("docs:{SECRET}"), "&client_id=docs").await.expect(200);
        by_form(&format!("&client_id=docs&client_secret={SECRET}")).await.expect(200);
        by_form(&format!("&client_id=odd.one&client_secret={encoded}")).await.expect(200);

        refused(&by_form("").await, 401, "invalid_client");
        refused(&by_form("&client_id=docs").await, 401, "invalid_client");
        refused(&by_form(&format!("&client_id=nobody&client_secret={SECRET}")).await, 401, "invalid_client");
        refused(&by_form(&format!("&client_id=odd.one&client_secret={SECRET}")).await, 401, "invalid_client");
        for pair in ["docs:", "docs", "", ":", "nobody:x", "docs:0123456789abcdef0123456789abcdeF"] {
            refused(&by_basic(pair, "").await, 401, "invalid_client");
        }
        refused(&by_basic(&format!("docs:{SECRET}"), "&client_id=odd.one").await, 401, "invalid_client");
        // A user's token proves no client.
        refused(&form(client.post(path).bearer(&token), "token=x").send().await, 401, "invalid_client");

        let both = by_basic(&format!("docs:{SECRET}"), &format!("&client_id=docs&client_secret={SECRET}")).await;
        refused(&both, 400, "invalid_request");
        let twice = client.post(path).header("authorization", &basic("a:b")).header("authorization", &basic("c:d"));
        form(twice, "token=x").send().await.refused(400, "header_invalid");
        refused(&by_form(&format!("&token=y&client_id=docs&client_secret={SECRET}")).await, 400, "invalid_request");
        let authorized = || client.post(path).header("authorization", &basic(&format!("docs:{SECRET}")));
        refused(&form(authorized(), "").send().await, 400, "invalid_request");
        refused(&form(authorized(), "token=").send().await, 400, "invalid_request");
        refused(&authorized().json(&json!({"token": "x"})).send().await, 400, "invalid_request");
        form(authorized(), &format!("token={}", "x".repeat(17_000))).send().await.refused(413, "body_too_large");
        client.get(path).send().await.refused(405, "method_not_allowed");
    }
    assert_eq!(client.status("/ask/a", &token).await, 200);
}

async fn introspection_tells_what_a_token_is_worth_now(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = started(deployment, &upstream).await;
    let client = gateways.client();
    let body = json!({"email": "ann@example.org", "password": crate::harness::client::PASSWORD, "username": "ann"});
    let ann = client.tokens(&client.post("/auth/register").json(&body).send().await.expect(201));
    let claims = claims_of(&ann.access);
    let told = introspected(&client, &ann.access).await;
    for name in ["client_id", "exp", "iat", "nbf", "sub", "jti", "sid", "roles", "scope"] {
        assert_eq!(told[name], claims[name], "{name}");
    }
    assert_eq!(told["active"], true);
    assert_eq!((&told["iss"], &told["aud"]), (&json!(ISSUER), &json!([AUDIENCE])));
    assert_eq!((&told["username"], &told["token_type"]), (&json!("ann"), &json!("Bearer")));
    assert_eq!(told.as_object().unwrap().len(), 14, "{told}");

    let of_refresh = introspected(&client, &ann.refresh).await;
    assert_eq!((&of_refresh["active"], &of_refresh["sub"]), (&json!(true), &claims["sub"]));
    assert_eq!(of_refresh["sid"], claims["sid"]);
    let week = 7 * 86_400;
    assert_eq!(of_refresh["exp"].as_i64().unwrap(), claims["iat"].as_i64().unwrap() + week);
    assert!(of_refresh.get("token_type").is_none() && of_refresh.get("aud").is_none(), "{of_refresh}");

    let discovery = client.get("/.well-known/openid-configuration").send().await.expect(200).json();
    for (name, path) in [("introspection_endpoint", "introspect"), ("revocation_endpoint", "revoke")] {
        assert_eq!(discovery[name], format!("{ISSUER}/oauth/{path}"));
        let ways = &discovery[format!("{name}_auth_methods_supported")];
        assert_eq!(ways, &json!(["client_secret_basic", "client_secret_post"]));
    }
}

async fn what_the_gateway_would_not_take_is_inactive_and_nothing_else(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = started(deployment, &upstream).await;
    let client = gateways.client();
    let inactive = async |token: &str, why: &str| {
        let told = introspected(&client, token).await;
        assert_eq!(told, json!({"active": false}), "{why}");
    };
    let ann = client.register("ann@example.org").await;
    client.get("/ask/a").bearer(&ann.access).send().await.expect(200);
    let identity = upstream.last().head.header("x-gateway-identity").unwrap().to_owned();
    inactive("garbage", "garbage").await;
    inactive(&identity, "an identity is for its service alone").await;
    let mut forged = ann.access.clone();
    let at = forged.len() - 4;
    let other = if forged[at..].starts_with('A') { "E" } else { "A" };
    forged.replace_range(at..=at, other);
    inactive(&forged, "another signature").await;

    // An old refresh token: a look at it ends nothing.
    let second = client.refreshed(&ann.refresh).await;
    let third = client.refreshed(&second.refresh).await;
    inactive(&ann.refresh, "two before the newest").await;
    assert_eq!(introspected(&client, &second.refresh).await["active"], true, "within the grace");
    assert_eq!(introspected(&client, &third.access).await["active"], true);

    let left = client.login("ann@example.org").await;
    client.post("/auth/logout").bearer(&left.access).send().await.expect(204);
    // Whichever gateway is asked, and at once: the store knows.
    for gateway in &gateways.all {
        let client = gateway.client();
        for token in [&left.access, &left.refresh] {
            assert_eq!(introspected(&client, token).await, json!({"active": false}), "logged out");
        }
    }
    gateways.clock.advance(Duration::from_secs(929));
    assert_eq!(introspected(&client, &third.access).await["active"], true, "within the leeway, as at the gate");
    gateways.clock.advance(Duration::from_secs(1));
    inactive(&third.access, "expired").await;
    gateways.clock.advance(Duration::from_hours(7 * 24));
    inactive(&third.refresh, "idle").await;
}

async fn a_revoked_refresh_token_ends_its_session_everywhere(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = started(deployment, &upstream).await;
    let client = gateways.client();
    let (ann, other) = (client.register("ann@example.org").await, client.login("ann@example.org").await);
    revoked(&client, &ann.refresh).await;
    gateways.know_what_ended().await;
    for gateway in &gateways.all {
        let client = gateway.client();
        client.get("/ask/a").bearer(&ann.access).send().await.refused(401, "invalid_token");
        client.refresh(&ann.refresh).await.refused(400, "invalid_grant");
        assert_eq!(client.status("/ask/a", &other.access).await, 200);
    }
    revoked(&client, &ann.refresh).await;
    let user = ann.user["id"].as_str().unwrap().parse().unwrap();
    let rows = gateways.store().await.audit_of(user, 100).await.unwrap();
    let rows: Vec<_> = rows.into_iter().filter(|row| row.event == AuditEvent::TokenRevoked).collect();
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0].session.unwrap().to_string(), claims_of(&ann.access)["sid"]);
}

async fn a_revoked_access_token_is_refused_everywhere_and_its_session_goes_on(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = started(deployment, &upstream).await;
    let client = gateways.client();
    let ann = client.register("ann@example.org").await;
    for gateway in &gateways.all {
        assert_eq!(gateway.client().status("/ask/a", &ann.access).await, 200);
    }
    revoked(&gateways.all[0].client(), &ann.access).await;
    gateways.all[0].client().get("/ask/a").bearer(&ann.access).send().await.refused(401, "invalid_token");
    gateways.know_what_ended().await;
    for gateway in &gateways.all {
        let client = gateway.client();
        client.get("/ask/a").bearer(&ann.access).send().await.refused(401, "invalid_token");
        assert_eq!(introspected(&client, &ann.access).await, json!({"active": false}));
    }
    revoked(&client, &ann.access).await;
    let next = client.refreshed(&ann.refresh).await;
    assert_eq!(client.status("/ask/a", &next.access).await, 200);
    let user = ann.user["id"].as_str().unwrap().parse().unwrap();
    let rows = gateways.store().await.audit_of(user, 100).await.unwrap();
    assert!(rows.iter().filter(|row| row.event == AuditEvent::TokenRevoked).count() >= 1, "{rows:?}");
}

async fn revoking_what_is_no_token_is_no_fault(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = started(deployment, &upstream).await;
    let client = gateways.client();
    let ann = client.register("ann@example.org").await;
    client.get("/ask/a").bearer(&ann.access).send().await.expect(200);
    let identity = upstream.last().head.header("x-gateway-identity").unwrap().to_owned();
    for token in ["garbage", "a.b.c", &format!("{}x", ann.access), &format!("{}x", ann.refresh)] {
        revoked(&client, token).await;
    }
    refused(&ask(&client, "/oauth/revoke", &identity).await, 400, "unsupported_token_type");
    assert_eq!(client.status("/ask/a", &ann.access).await, 200);
    gateways.clock.advance(Duration::from_hours(1));
    revoked(&client, &ann.access).await;
    client.refreshed(&ann.refresh).await;
}

async fn introspection_tells_rights_as_they_are_now(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = started(deployment, &upstream).await;
    let client = gateways.client();
    let ann = client.register("ann@example.org").await;
    let user = ann.user["id"].as_str().unwrap().parse().unwrap();
    let store = gateways.store().await;
    let told = AuditEntry::unasked(AuditEvent::AuthorizationChanged, gateways.clock.now(), Actor::Cli);
    store.change_authorization(user, &["curator".into()], Some("acme"), &told).await.unwrap();
    let told = introspected(&client, &ann.access).await;
    assert_eq!((&told["roles"], &told["org"]), (&json!(["curator"]), &json!("acme")), "{told}");
}

#[tokio::test]
async fn without_a_client_nothing_is_served_and_nothing_is_said_of_it() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(Engine::Sqlite, &standard(&upstream)).start().await;
    let client = gateway.client();
    for path in ["/oauth/introspect", "/oauth/revoke"] {
        form(client.post(path), "token=x").send().await.refused(404, "no_route");
    }
    let discovery = client.get("/.well-known/openid-configuration").send().await.expect(200).json();
    assert!(discovery.get("introspection_endpoint").is_none() && discovery.get("revocation_endpoint").is_none());
    let described = client.get("/auth/openapi.json").send().await.expect(200).json();
    assert!(described["paths"].get("/oauth/revoke").is_none());
}

#[tokio::test]
async fn guessing_a_client_s_secret_is_limited_by_address_and_asking_is_not() {
    let upstream = Upstream::start().await;
    let limits = "limits: {tries: {by: address, rate: 10/1m}}\nportal: {limits: [tries]}\n";
    let yaml = format!("{limits}{}{CLIENTS}", standard(&upstream));
    let gateway = with_secrets(Setup::new(Engine::Sqlite, &yaml)).start().await;
    let client = gateway.client();
    for _ in 0..30 {
        introspected(&client, "x").await;
    }
    for number in 0..10 {
        let call = client.post("/oauth/introspect").header("authorization", &basic(&format!("docs:{number}")));
        refused(&form(call, "token=x").send().await, 401, "invalid_client");
    }
    let over = ask(&client, "/oauth/introspect", "x").await;
    over.refused(429, "quota_exceeded");
    ask(&gateway.client_at("127.0.0.2"), "/oauth/introspect", "x").await.expect(200);
}
