//! What limits count by: each key and pair on its own bucket, asked narrow before wide; what a request lacks it is not
//! held to; and a limit that only looks on.

use serde_json::json;

use crate::{
    api_keys,
    harness::{
        client::{Answer, Call, Client},
        gateway::{Engine, Gateway},
        tokens::{good_claims, good_header, signed, with},
        upstream::Upstream,
    },
};

/// `limits` on the routes `/ask/…` and `/tell/…`, which look at tokens when there are any. 127.0.0.9 is a trusted proxy.
async fn gateway(limits: &[(&str, &str)]) -> (Gateway, Upstream) {
    let upstream = Upstream::start().await;
    let all: Vec<_> = limits.iter().map(|(name, limit)| format!("  {name}: {{{limit}}}\n")).collect();
    let all = all.concat();
    let names: Vec<_> = limits.iter().map(|(name, _)| *name).collect();
    let names = names.join(", ");
    let yaml = format!(
        r#"
listeners: {{public: {{bind: "127.0.0.1:0"}}, admin: {{bind: "127.0.0.1:0"}}, trusted_proxies: [127.0.0.9]}}
clusters:
  rag: {{endpoints: ["{}"]}}
limits:
{all}
routes:
  - {{name: ask, match: {{path: "/ask/{{*rest}}"}}, auth: optional, limits: [{names}], cluster: rag}}
  - {{name: tell, match: {{path: "/tell/{{*rest}}"}}, auth: optional, limits: [{names}], cluster: rag}}
"#,
        upstream.url()
    );
    (Gateway::start(Engine::Sqlite, &yaml).await, upstream)
}

/// A token of the gateway's own that says this besides, or instead.
pub(crate) async fn token(gateway: &Gateway, claims: serde_json::Value) -> String {
    let key = gateway.signing_key().await;
    signed(&key, &good_header(&key), &with(good_claims(), &claims))
}

/// Asks until it is refused; how often it was not.
async fn admitted(call: impl Fn() -> Call) -> usize {
    for admitted in 0..20 {
        if call().send().await.status == 429 {
            return admitted;
        }
    }
    20
}

const SESSIONS: [&str; 2] = ["0190a1b2-0000-7000-8000-00000000000a", "0190a1b2-0000-7000-8000-00000000000b"];

#[tokio::test]
async fn each_key_has_a_bucket_of_its_own_and_who_lacks_it_is_not_held_to_it() {
    // What is counted by, a change that is another bucket, changes that are not, and whether a token may lack it.
    let cases = [
        ("subject", json!({"sub": "bob"}), json!({"sid": SESSIONS[1], "client_id": "cli", "org": "acme"}), None),
        ("session", json!({"sid": SESSIONS[1]}), json!({"sub": "bob", "client_id": "cli", "org": "acme"}), None),
        (
            "client",
            json!({"client_id": "cli"}),
            json!({"sub": "bob", "sid": SESSIONS[1], "org": "acme"}),
            Some(json!({"client_id": null})),
        ),
        (
            "org",
            json!({"org": "other"}),
            json!({"sub": "bob", "sid": SESSIONS[1], "client_id": "cli"}),
            Some(json!({"org": null})),
        ),
    ];
    for (by, another, same, lacking) in cases {
        let (gateway, _upstream) = gateway(&[("only", &format!("by: {by}, rate: 3/1d"))]).await;
        let client = gateway.client();
        let base = if by == "org" { json!({"org": "acme"}) } else { json!({}) };
        let first = token(&gateway, base.clone()).await;
        assert_eq!(admitted(|| client.get("/ask/a").bearer(&first)).await, 3, "{by}");
        let same = token(&gateway, with(with(base.clone(), &same), &json!({}))).await;
        for path in ["/ask/a", "/tell/a"] {
            client.get(path).bearer(&same).send().await.refused(429, "quota_exceeded");
        }
        let another = token(&gateway, with(base, &another)).await;
        assert_eq!(admitted(|| client.get("/tell/a").bearer(&another)).await, 3, "{by}: another one has its own");
        assert_eq!(admitted(|| client.get("/ask/a")).await, 20, "{by}: nobody is not somebody");
        if let Some(lacking) = lacking {
            let lacking = token(&gateway, lacking).await;
            let answer = client.get("/ask/a").bearer(&lacking).send().await.expect(200);
            assert_eq!((answer.header("ratelimit"), answer.header("ratelimit-policy")), (None, None), "{by}");
        }
    }
}

#[tokio::test]
async fn two_api_keys_of_one_user_have_a_bucket_each_and_who_shows_a_token_is_not_held_to_it() {
    let upstream = Upstream::start().await;
    let yaml = format!(
        r#"
limits:
  keys: {{by: api_key, rate: 3/1d}}
clusters:
  rag: {{endpoints: ["{}"]}}
routes:
  - {{name: ask, match: {{path: "/ask/{{*rest}}"}}, credentials: [bearer, api_key], limits: [keys], cluster: rag}}
"#,
        upstream.url()
    );
    let gateway = Gateway::start(Engine::Sqlite, &yaml).await;
    let (client, other) = (gateway.client(), gateway.client_at("127.0.0.2"));
    let ann = client.register("ann@example.org").await;
    let (first, second) = (api_keys::key(&client, &ann).await, api_keys::key(&client, &ann).await);
    assert_eq!(admitted(|| client.get("/ask/a").header("x-api-key", &first)).await, 3);
    // Whatever header it comes in, and from wherever.
    other.get("/ask/a").bearer(&first).send().await.refused(429, "quota_exceeded");
    assert_eq!(admitted(|| client.get("/ask/a").header("x-api-key", &second)).await, 3, "of the same user");
    assert_eq!(admitted(|| client.get("/ask/a").bearer(&ann.access)).await, 20, "who made both");
}

#[tokio::test]
async fn a_route_is_one_bucket_for_all_and_another_route_another() {
    let (gateway, _upstream) = gateway(&[("only", "by: route, rate: 5/1d")]).await;
    let (client, other) = (gateway.client(), gateway.client_at("127.0.0.2"));
    let ann = token(&gateway, json!({})).await;
    for _ in 0..10 {
        // What fails is nobody's to pay for but the address's, which is not counted here.
        client.get("/ask/a").bearer("wrong").send().await.refused(401, "invalid_token");
    }
    assert_eq!(admitted(|| client.get("/ask/a")).await, 5);
    other.get("/ask/a").bearer(&ann).send().await.refused(429, "quota_exceeded");
    assert_eq!(admitted(|| other.get("/tell/a").bearer(&ann)).await, 5);
    let line = "portcullis_requests_total{route=\"ask\",reason=\"route_limited\",method=\"GET\",status=\"4xx\"}";
    assert!(gateway.metric(line).await > 1.5);
}

#[tokio::test]
async fn a_pair_has_a_bucket_for_each_two() {
    let (gateway, _upstream) = gateway(&[("pair", "by: [route, subject], rate: 2/1d")]).await;
    let client = gateway.client();
    let (ann, bob) = (token(&gateway, json!({})).await, token(&gateway, json!({"sub": "bob"})).await);
    for who in [&ann, &bob] {
        for path in ["/ask/a", "/tell/a"] {
            assert_eq!(admitted(|| client.get(path).bearer(who)).await, 2, "{path}");
        }
    }
    assert_eq!(admitted(|| client.get("/ask/a")).await, 20, "who lacks a half lacks the pair");
}

/// Asks as a tenant.
fn tenant<'a>(client: &'a Client, tenant: &'a str) -> impl Fn() -> Call + 'a {
    move || client.get("/ask/a").header("x-tenant", tenant)
}

#[tokio::test]
async fn a_header_counts_when_a_trusted_proxy_says_it_once_and_the_address_otherwise() {
    let (gateway, _upstream) = gateway(&[("tenants", "by: header:x-tenant, rate: 3/1d")]).await;
    let proxy = gateway.client_at("127.0.0.9");
    assert_eq!(admitted(tenant(&proxy, "acme")).await, 3);
    assert_eq!(admitted(tenant(&proxy, "other")).await, 3, "another tenant has its own");
    // Behind the proxy too: what it does not say, or what may be the client's, is the client's address's.
    let from = |address: &'static str| move |call: Call| call.header("x-forwarded-for", address);
    assert_eq!(admitted(|| from("10.1.1.1")(proxy.get("/ask/a"))).await, 3);
    from("10.1.1.1")(tenant(&proxy, "third")()).send().await.expect(200);
    let twice = || from("10.1.1.1")(tenant(&proxy, "fourth")()).header("x-tenant", "fifth");
    twice().send().await.refused(429, "quota_exceeded");
    // From anybody else it says nothing: a new name is not a new bucket, and no tenant loses anything by it.
    let stranger = gateway.client();
    for (nth, name) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        assert_eq!(tenant(&stranger, name)().send().await.status, if nth < 3 { 200 } else { 429 });
    }
    proxy.get("/ask/a").header("x-tenant", "third").send().await.expect(200);
}

#[tokio::test]
async fn tries_that_fail_are_the_addresss_to_pay_for_where_it_stands_in_for_a_header() {
    let (gateway, _upstream) = gateway(&[("tenants", "by: [header:x-tenant, route], rate: 3/1d")]).await;
    let (stranger, proxy) = (gateway.client(), gateway.client_at("127.0.0.9"));
    for _ in 0..3 {
        stranger.get("/ask/a").bearer("wrong").send().await.refused(401, "invalid_token");
    }
    stranger.get("/ask/a").bearer("wrong").send().await.refused(429, "quota_exceeded");
    for _ in 0..5 {
        // Whoever is a tenant is somebody's customer: strangers must not use up what it has.
        tenant(&proxy, "acme")().bearer("wrong").send().await.refused(401, "invalid_token");
    }
    assert_eq!(admitted(tenant(&proxy, "acme")).await, 3);
}

/// Names of the policies that an answer tells of, in their order.
fn policies(answer: &Answer) -> Vec<String> {
    let name = |item: &str| item.split(';').next().unwrap().trim_matches('"').to_owned();
    let [limit, policy] = ["ratelimit", "ratelimit-policy"]
        .map(|header| answer.header(header).unwrap().split(", ").map(name).collect::<Vec<_>>());
    assert_eq!(limit, policy);
    limit
}

const ALL: [(&str, &str); 8] = [
    ("route", "by: route, rate: 90/1d"),
    ("tenant", "by: header:x-tenant, rate: 80/1d"),
    ("address", "by: address, rate: 70/1d"),
    ("org", "by: org, rate: 60/1d"),
    ("client", "by: client, rate: 50/1d"),
    ("subject", "by: subject, rate: 40/1d"),
    ("subject-route", "by: [route, subject], rate: 30/1d"),
    ("session", "by: session, rate: 20/1d"),
];

#[tokio::test]
async fn narrow_limits_come_before_wide_ones_whatever_the_order_of_the_file() {
    let (gateway, _upstream) = gateway(&ALL).await;
    let client = gateway.client();
    let ann = token(&gateway, json!({"org": "acme"})).await;
    let answer = client.get("/ask/a").bearer(&ann).send().await.expect(200);
    let order = ["session", "subject-route", "subject", "client", "org", "address", "tenant", "route"];
    assert_eq!(policies(&answer), order);
    let answer = client.get("/ask/a").send().await.expect(200);
    assert_eq!(policies(&answer), ["address", "tenant", "route"], "what nobody has is not told of");
}

#[tokio::test]
async fn who_is_refused_by_a_narrow_limit_takes_nothing_from_the_wide_ones() {
    let (gateway, _upstream) = gateway(&ALL).await;
    let client = gateway.client();
    let tokens = [
        token(&gateway, json!({"org": "acme"})).await,
        token(&gateway, json!({"org": "acme", "sub": "bob", "sid": SESSIONS[1]})).await,
    ];
    for _ in 0..2 {
        assert_eq!(admitted(|| client.get("/ask/a").bearer(&tokens[0])).await % 20, 0);
    }
    for _ in 0..50 {
        client.get("/ask/a").bearer(&tokens[0]).send().await.refused(429, "quota_exceeded");
    }
    let answer = client.get("/ask/a").bearer(&tokens[1]).send().await.expect(200);
    let left = answer.header("ratelimit").unwrap();
    for wide in ["\"client\";r=29;", "\"org\";r=39;", "\"address\";r=49;", "\"tenant\";r=59;", "\"route\";r=69;"] {
        assert!(left.contains(wide), "twenty of the one and one of the other: {left}");
    }
}

#[tokio::test]
async fn a_shadow_limit_counts_and_tells_the_operator_but_refuses_nobody() {
    let limits = [
        ("shadow", "by: address, rate: 2/1d, shadow: true"),
        ("looking-on", "by: address, concurrent: 1, shadow: true"),
        ("real", "by: address, rate: 10/1d"),
    ];
    let (mut gateway, upstream) = gateway(&limits).await;
    let client = gateway.client();
    for left in (4..10).rev() {
        let answer = client.get("/ask/a").send().await.expect(200);
        assert_eq!(policies(&answer), ["real"]);
        assert!(answer.header("ratelimit").unwrap().starts_with(&format!("\"real\";r={left};")));
    }
    let of = |limit, result| format!("portcullis_limit_decisions_total{{limit=\"{limit}\",result=\"{result}\"}}");
    for (limit, result, many) in
        [("shadow", "admitted", 2.0), ("shadow", "shadow_refused", 4.0), ("shadow", "refused", 0.0)]
    {
        let counted = gateway.metric(&of(limit, result)).await;
        assert!((counted - many).abs() < 0.1, "{limit} {result}: {counted}");
    }
    assert_eq!(upstream.received().len(), 6);
    // When it is made to refuse it remembers.
    let yaml = gateway_yaml(&upstream);
    gateway.reload(&yaml).await;
    client.get("/ask/a").send().await.refused(429, "quota_exceeded");
}

/// The same with the shadow limit in force.
fn gateway_yaml(upstream: &Upstream) -> String {
    format!(
        r#"
listeners: {{public: {{bind: "127.0.0.1:0"}}, admin: {{bind: "127.0.0.1:0"}}, trusted_proxies: [127.0.0.9]}}
clusters:
  rag: {{endpoints: ["{}"]}}
limits:
  shadow: {{by: address, rate: 2/1d}}
routes:
  - {{name: ask, match: {{path: "/ask/{{*rest}}"}}, auth: optional, limits: [shadow], cluster: rag}}
"#,
        upstream.url()
    )
}
