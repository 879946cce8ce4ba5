//! How the keys of another issuer are got: once for all who wait, never from elsewhere, and kept for a day while it is
//! down.

use std::time::Duration;

use futures_util::future::join_all;
use portcullis::policy::keys::Algorithm;
use serde_json::json;

use crate::harness::{
    gateway::{Engine, Gateway, Setup},
    issuer::{AUDIENCE, DISCOVERY, Issuer, JWKS, jwks, key, ready},
    soon,
    tls::Authority,
    upstream::{Reply, Upstream},
};

fn yaml(upstream: &Upstream, issuer: &Issuer, more: &str) -> String {
    format!(
        r#"
issuers:
  sso: {{issuer: "{}", audiences: [{AUDIENCE}]{more}}}
clusters:
  rag: {{endpoints: ["{}"]}}
routes:
  - {{name: ask, match: {{path: "/ask"}}, issuers: [sso], cluster: rag}}
  - {{name: own, match: {{path: "/own"}}, cluster: rag}}
"#,
        issuer.url(),
        upstream.url()
    )
}

async fn started(issuer: &Issuer, more: &str) -> (Gateway, Upstream) {
    let upstream = Upstream::start().await;
    (Gateway::start(Engine::Sqlite, &yaml(&upstream, issuer, more)).await, upstream)
}

/// The same, and the first keys have come.
async fn running(issuer: &Issuer) -> (Gateway, Upstream) {
    let (gateway, upstream) = started(issuer, "").await;
    ready(&gateway.client(), "/ask", &issuer.token(&json!({}))).await;
    (gateway, upstream)
}

async fn fetched(gateway: &Gateway, result: &str) -> f64 {
    let line = format!("portcullis_issuer_fetches_total{{issuer=\"sso\",result=\"{result}\"}}");
    gateway.metric(&line).await
}

/// Asks until the gateway has fetched so often.
async fn in_place(gateway: &Gateway, times: u32) {
    let asked = async { while fetched(gateway, "fetched").await < f64::from(times) {} };
    soon("the issuer's keys to be fetched", asked).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_with_an_unknown_key_are_one_fetch() {
    let issuer = Issuer::start().await;
    let (gateway, upstream) = running(&issuer).await;
    let (client, before) = (gateway.client(), upstream.received().len());
    let stranger = key(Algorithm::Es256);
    let tokens: Vec<_> = (0..1_000).map(|nth| issuer.token_by(&stranger, &json!({ "sub": nth.to_string() }))).collect();
    let statuses = join_all(tokens.iter().map(|token| client.status("/ask", token))).await;
    assert!(statuses.iter().all(|status| *status == 401), "{statuses:?}");
    assert_eq!((issuer.fetches(), upstream.received().len()), (2, before));
}

#[tokio::test]
async fn nobody_waits_for_keys_that_are_there() {
    let issuer = Issuer::start().await;
    let (gateway, _upstream) = running(&issuer).await;
    let client = gateway.client();
    let next = key(Algorithm::Es256);
    issuer.service.hold(JWKS);
    let waiting = tokio::spawn({
        let (client, token) = (client.clone(), issuer.token_by(&next, &json!({})));
        async move { client.status("/ask", &token).await }
    });
    let mut held = issuer.held().await;
    assert_eq!(client.status("/ask", &issuer.token(&json!({"sub": "other"}))).await, 200);
    assert!(!waiting.is_finished());
    held.answer(&Reply::new(200, &jwks(&[&next]).to_string())).await;
    assert_eq!(waiting.await.unwrap(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_with_a_new_key_wait_for_it_and_none_is_turned_away() {
    let issuer = Issuer::start().await;
    let (gateway, _upstream) = running(&issuer).await;
    let client = gateway.client();
    let next = key(Algorithm::Es256);
    let tokens: Vec<_> = (0..100).map(|nth| issuer.token_by(&next, &json!({ "sub": nth.to_string() }))).collect();
    issuer.publish(&[&issuer.key, &next]);
    let statuses = join_all(tokens.iter().map(|token| client.status("/ask", token))).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test]
async fn unknown_keys_are_a_reason_to_fetch_once_in_thirty_seconds() {
    let issuer = Issuer::start().await;
    let (gateway, _upstream) = running(&issuer).await;
    let client = gateway.client();
    let asked = issuer.fetches();
    let unknown = async || client.status("/ask", &issuer.token_by(&key(Algorithm::Es256), &json!({}))).await;
    assert_eq!([unknown().await, unknown().await, unknown().await], [401, 401, 401]);
    assert_eq!(issuer.fetches(), asked + 1);
    gateway.clock.advance(Duration::from_secs(29));
    unknown().await;
    assert_eq!(issuer.fetches(), asked + 1);
    gateway.clock.advance(Duration::from_secs(1));
    unknown().await;
    assert_eq!(issuer.fetches(), asked + 2);
}

#[tokio::test]
async fn a_key_that_is_no_longer_published_is_refused_although_its_tokens_are_cached() {
    let issuer = Issuer::start().await;
    let (gateway, _upstream) = running(&issuer).await;
    let client = gateway.client();
    let (old, next) = (issuer.token(&json!({})), key(Algorithm::Es256));
    assert_eq!(client.status("/ask", &old).await, 200);
    issuer.publish(&[&next]);
    assert_eq!(client.status("/ask", &issuer.token_by(&next, &json!({}))).await, 200);
    client.get("/ask").bearer(&old).send().await.refused(401, "invalid_token");
    // Nor does another key under its name make them good again.
    let mut renamed = jwks(&[&next]);
    renamed["keys"][0]["kid"] = json!(&**issuer.key.kid());
    issuer.answer(Reply::new(200, &renamed.to_string()));
    gateway.clock.advance(Duration::from_secs(30));
    assert_eq!(client.status("/ask", &issuer.token_by(&key(Algorithm::Es256), &json!({}))).await, 401);
    client.get("/ask").bearer(&old).send().await.refused(401, "invalid_token");
}

#[tokio::test]
async fn keys_are_fetched_anew_before_their_time_is_over() {
    let issuer = Issuer::start().await;
    let document = jwks(&[&issuer.key]).to_string();
    // Longer than an issuer's word counts for: an hour.
    issuer.answer(Reply::new(200, &document).with("cache-control", "public, max-age=86400"));
    let (gateway, _upstream) = running(&issuer).await;
    gateway.clock.advance(Duration::from_mins(55));
    in_place(&gateway, 2).await;
    // Shorter than it counts for: a minute.
    issuer.answer(Reply::new(200, &document).with("cache-control", "max-age=1"));
    gateway.clock.advance(Duration::from_mins(55));
    in_place(&gateway, 3).await;
    gateway.clock.advance(Duration::from_secs(55));
    in_place(&gateway, 4).await;
    assert_eq!(issuer.fetches(), 4, "none before its time");
}

#[tokio::test]
async fn keys_of_an_issuer_that_is_down_are_used_for_a_day() {
    let issuer = Issuer::start().await;
    let (gateway, upstream) = running(&issuer).await;
    let client = gateway.client();
    issuer.answer(Reply::new(500, "down"));
    let later = |hours: i64| {
        let begin = issuer.claims()["iat"].as_i64().unwrap() + hours * 3_600;
        issuer.token(&json!({"iat": begin, "exp": begin + 900}))
    };
    gateway.clock.advance(Duration::from_hours(23));
    assert_eq!(client.status("/ask", &later(23)).await, 200);
    gateway.clock.advance(Duration::from_hours(1) + Duration::from_secs(1));
    let reached = upstream.received().len();
    let answer = client.get("/ask").bearer(&later(24)).send().await;
    answer.refused(503, "issuer_unavailable");
    assert_eq!(answer.header("retry-after"), Some("30"));
    assert_eq!(upstream.received().len(), reached);
    // Our own tokens are not its business.
    let own = client.register("ann@example.org").await.access;
    assert_eq!(client.status("/own", &own).await, 200);
}

#[tokio::test]
async fn without_keys_the_answer_is_503_and_the_issuer_s_return_is_noticed() {
    let issuer = Issuer::start().await;
    issuer.answer(Reply::new(404, ""));
    let (gateway, upstream) = started(&issuer, "").await;
    let (client, token) = (gateway.client(), issuer.token(&json!({})));
    let answer = client.get("/ask").bearer(&token).send().await;
    answer.refused(503, "issuer_unavailable");
    upstream.assert_untouched();
    let (status, ready) = gateway.admin("/readyz").await;
    assert!(status == 200 && ready.contains("sso: no keys"), "{ready}");
    issuer.publish(&[&issuer.key]);
    gateway.clock.advance(Duration::from_secs(31));
    assert_eq!(client.status("/ask", &token).await, 200);
    let (_, ready) = gateway.admin("/readyz").await;
    assert!(!ready.contains("no keys"), "{ready}");
}

#[tokio::test]
async fn a_slow_issuer_holds_a_request_for_seconds_and_no_longer() {
    let issuer = Issuer::start().await;
    issuer.service.hold(JWKS);
    let (gateway, _upstream) = started(&issuer, "").await;
    let client = gateway.client();
    let held = issuer.held().await;
    client.get("/ask").bearer(&issuer.token(&json!({}))).send().await.refused(503, "issuer_unavailable");
    assert_eq!(held.given_up().await, 0);
    assert!((fetched(&gateway, "timeout").await - 1.0).abs() < 0.1);
}

#[tokio::test]
async fn what_is_no_key_set_changes_nothing_and_odd_keys_spoil_none() {
    let issuer = Issuer::start().await;
    let (gateway, _upstream) = running(&issuer).await;
    let client = gateway.client();
    let good = jwks(&[&issuer.key]);
    let huge = json!({"keys": good["keys"], "pad": "x".repeat(513 * 1024)}).to_string();
    let many = json!({"keys": vec![good["keys"][0].clone(); 101]}).to_string();
    for (what, reply) in [
        ("huge", Reply::new(200, &huge)),
        ("a hundred and one keys", Reply::new(200, &many)),
        ("a page", Reply::new(200, "<html>")),
        ("nothing", Reply::new(200, "")),
        ("a fault", Reply::new(503, &good.to_string())),
        ("no answer of its own", Reply::new(204, "")),
    ] {
        issuer.answer(reply);
        gateway.clock.advance(Duration::from_secs(31));
        let fetches = issuer.fetches();
        assert_eq!(client.status("/ask", &issuer.token_by(&key(Algorithm::Es256), &json!({}))).await, 401, "{what}");
        assert!(issuer.fetches() > fetches, "{what}");
        assert_eq!(client.status("/ask", &issuer.token(&json!({ "what": what }))).await, 200, "{what}");
    }
    let next = key(Algorithm::Es256);
    let odd =
        json!({"keys": [null, {"kty": "oct"}, {"kty": "RSA", "n": "AQAB", "e": "AQAB"}, jwks(&[&next])["keys"][0]]});
    issuer.answer(Reply::new(200, &odd.to_string()));
    gateway.clock.advance(Duration::from_secs(31));
    assert_eq!(client.status("/ask", &issuer.token_by(&next, &json!({}))).await, 200);
}

#[tokio::test]
async fn redirects_are_followed_on_the_issuer_s_own_host_only() {
    let (issuer, elsewhere) = (Issuer::start().await, Upstream::start_at("127.0.0.2").await);
    elsewhere.reply("/keys", Reply::new(200, &jwks(&[&issuer.key]).to_string()));
    issuer.service.reply("/keys", Reply::new(200, &jwks(&[&issuer.key]).to_string()));
    let away = format!("{}/keys", elsewhere.url());
    for location in [away.as_str(), "//127.0.0.2/keys", "keys", "", "http://localhost/keys", JWKS] {
        issuer.answer(Reply::new(302, "").with("location", location));
        let (gateway, _upstream) = started(&issuer, "").await;
        let answer = gateway.client().get("/ask").bearer(&issuer.token(&json!({}))).send().await;
        answer.refused(503, "issuer_unavailable");
        assert!(fetched(&gateway, "elsewhere").await > 0.0, "{location}");
    }
    elsewhere.assert_untouched();
    issuer.answer(Reply::new(307, "").with("location", "/keys"));
    running(&issuer).await;
}

#[tokio::test]
async fn a_discovery_document_leads_to_its_own_host_or_a_listed_one() {
    let (issuer, elsewhere) = (Issuer::start().await, Upstream::start_at("127.0.0.2").await);
    elsewhere.reply("/keys", Reply::new(200, &jwks(&[&issuer.key]).to_string()));
    let document = |iss: &str, jwks_uri: &str| {
        let document = json!({"issuer": iss, "jwks_uri": jwks_uri});
        issuer.service.reply(DISCOVERY, Reply::new(200, &document.to_string()));
    };
    let refused = async |what: &str| {
        let (gateway, _upstream) = started(&issuer, "").await;
        let answer = gateway.client().get("/ask").bearer(&issuer.token(&json!({}))).send().await;
        answer.refused(503, "issuer_unavailable");
        assert_eq!(issuer.fetches(), 0, "{what}");
    };
    let (own, away) = (format!("{}{JWKS}", issuer.url()), format!("{}/keys", elsewhere.url()));
    document("https://evil.example", &own);
    refused("another issuer's document").await;
    document(&format!("{}/", issuer.url()), &own);
    refused("another spelling").await;
    document(&issuer.url(), &away);
    refused("another host").await;
    document(&issuer.url(), "/jwks");
    refused("no URL").await;
    elsewhere.assert_untouched();
    document(&issuer.url(), &away);
    let (gateway, _upstream) = started(&issuer, ", hosts: [\"127.0.0.2\"]").await;
    ready(&gateway.client(), "/ask", &issuer.token(&json!({}))).await;
}

#[tokio::test]
async fn private_addresses_are_refused_unless_the_issuer_may_be_there() {
    let authority = Authority::new();
    let issuer = Issuer::of(Upstream::start_tls(&authority.certify("localhost")).await);
    let port = issuer.service.address().port();
    let upstream = Upstream::start().await;
    let more = format!(", jwks_uri: \"https://localhost:{port}{JWKS}\", ca_file: ca.pem");
    let setup =
        |more: &str| Setup::new(Engine::Sqlite, &yaml(&upstream, &issuer, more)).file("ca.pem", authority.pem());
    let gateway = setup(&more).start().await;
    gateway.client().get("/ask").bearer(&issuer.token(&json!({}))).send().await.refused(503, "issuer_unavailable");
    assert!(fetched(&gateway, "elsewhere").await > 0.0);
    issuer.service.assert_untouched();
    let gateway = setup(&format!("{more}, allow_private: true")).start().await;
    ready(&gateway.client(), "/ask", &issuer.token(&json!({}))).await;
    // A certificate of somebody else's is no issuer's.
    let stranger = Setup::new(Engine::Sqlite, &yaml(&upstream, &issuer, &format!("{more}, allow_private: true")));
    let gateway = stranger.file("ca.pem", Authority::new().pem()).start().await;
    gateway.client().get("/ask").bearer(&issuer.token(&json!({}))).send().await.refused(503, "issuer_unavailable");
}
