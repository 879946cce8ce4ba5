//! A user over a limit looks for a way around it: other spellings of the header and of the path, other methods, new
//! logins, refreshed tokens, API keys, and another gateway. All of them are one user's, on one route, in one bucket.

use serde_json::json;

use super::{HOME, LAIR};
use crate::harness::{
    client::{Client, Tokens},
    site::{Nodes, Site},
    upstream::Upstream,
};

/// What a user may a day. Nothing flows back while a journey lasts.
const BURST: usize = 30;

on_one_and_three!(
    however_a_user_asks_it_is_one_bucket_at_all_gateways_together,
    with_leases_a_user_gets_no_more_than_the_burst_either,
    a_route_is_one_bucket_however_its_path_is_written,
);

async fn site(nodes: Nodes, upstream: &Upstream, by: &str, lease: usize) -> Site {
    let yaml = format!(
        r#"
portal: {{api_keys: {{max_per_user: 5}}}}
{}clusters: {{rag: {{endpoints: ["{}"]}}}}
limits:
  user: {{by: {by}, rate: {BURST}/1d, {}}}
routes:
  - {{name: ask, match: {{path: "/ask/{{*rest}}"}}, credentials: [bearer, api_key], limits: [user], cluster: rag}}
"#,
        nodes.shared_state(),
        upstream.url(),
        nodes.scope(lease)
    );
    Site::start(nodes, &yaml).await
}

async fn api_key(client: &Client, owner: &Tokens, name: &str) -> String {
    let made = client.post("/auth/api-keys").bearer(&owner.access).json(&json!({"name": name})).send().await;
    let key = made.expect(201).json()["key"].as_str().unwrap().to_owned();
    client.plant(&key);
    key
}

/// Everything ann can show for herself, as it is written in a head.
async fn credentials_of_ann(client: &Client) -> Vec<String> {
    let first = client.register("ann@example.org").await;
    let (second, third) = (client.login("ann@example.org").await, client.login("ANN@example.org").await);
    let refreshed = client.refreshed(&second.refresh).await;
    let again = client.refreshed(&refreshed.refresh).await;
    let mut shown: Vec<_> = [&first, &second, &third, &refreshed, &again]
        .iter()
        .zip(
            ["Authorization: Bearer ", "authorization: bearer ", "AUTHORIZATION:BEARER ", "aUtHoRiZaTiOn:\tBearer  "]
                .iter()
                .cycle(),
        )
        .map(|(tokens, written)| format!("{written}{}", tokens.access))
        .collect();
    for (name, written) in [("one", "X-API-Key: "), ("two", "x-api-KEY:"), ("three", "Authorization: Bearer ")] {
        shown.push(format!("{written}{}", api_key(client, &first, name).await));
    }
    shown
}

const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];

/// Ways to write a path of the route, and paths that a careless one would take for it.
const PATHS: [&str; 17] = [
    "/ask/a",
    "/ask/a?x=1",
    "/ask/a?",
    "/ask/a/",
    "/ask/%61",
    "/%61sk/a",
    "/ask/a;v=1",
    "/ask/a.",
    "/ask/A",
    "http://a.test/ask/a",
    "//ask/a",
    "/ask//a",
    "/ask/./a",
    "/ask/%2e/a",
    "/ask/b/../a",
    "/ASK/a",
    "/ask%2fa",
];

/// The status of such a request, over a connection of its own to the next gateway.
async fn status(site: &Site, from: &str, (method, path, shown): (&str, &str, &str)) -> u16 {
    let mut raw = site.raw_at(from).await;
    raw.send(&format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\n{shown}\r\nContent-Length: 0\r\n\r\n")).await;
    let status = raw.answer_to(method).await.unwrap().status;
    assert!([200, 400, 404, 429].contains(&status), "{method} {path}: {status}");
    status
}

/// Every way with every credential, from here and there; how many were admitted. Whatever finds a bucket of its own
/// would be let in.
async fn tried(site: &Site, shown: &[String]) -> usize {
    let mut admitted = 0;
    for (number, path) in PATHS.iter().enumerate() {
        for (turn, shown) in shown.iter().enumerate() {
            let method = METHODS[(number + turn) % METHODS.len()];
            let from = [LAIR, "127.0.0.3", "127.0.0.4"][turn % 3];
            admitted += usize::from(status(site, from, (method, path, shown)).await == 200);
        }
    }
    admitted
}

/// Bob has his own: all of it, at whichever gateway.
async fn has_his_share(site: &Site, bob: &Tokens) {
    let client = site.client_at(HOME);
    for _ in 0..BURST {
        client.get("/ask/a").bearer(&bob.access).send().await.expect(200);
    }
    client.get("/ask/a").bearer(&bob.access).send().await.refused(429, "quota_exceeded");
}

async fn however_a_user_asks_it_is_one_bucket_at_all_gateways_together(nodes: Nodes) {
    for by in ["subject", "[subject, route]"] {
        let upstream = Upstream::start().await;
        let site = site(nodes, &upstream, by, 0).await;
        let client = site.client_at(HOME);
        let (shown, bob) = (credentials_of_ann(&client).await, client.register("bob@example.org").await);
        let (admitted, ()) = tokio::join!(tried(&site, &shown), has_his_share(&site, &bob));
        assert_eq!(admitted, BURST, "{by}");
        // What she gets afterwards is no way around it either.
        let late = client.login("ann@example.org").await;
        for _ in 0..nodes.count() {
            client.get("/ask/a").bearer(&late.access).send().await.refused(429, "quota_exceeded");
        }
        assert_eq!(upstream.received().len(), 2 * BURST);
    }
}

async fn with_leases_a_user_gets_no_more_than_the_burst_either(nodes: Nodes) {
    const LEASE: usize = 4;
    let upstream = Upstream::start().await;
    let site = site(nodes, &upstream, "subject", LEASE).await;
    let client = site.client_at(HOME);
    let shown = credentials_of_ann(&client).await;
    let admitted = tried(&site, &shown).await;
    // docs/limits.md: burst + rate × t + n × lease. But nothing has flowed in and no lease was given up, so that leases add
    // nothing; as many may lie unspent.
    let ahead = if nodes == Nodes::One { 0 } else { nodes.count() * LEASE };
    assert!((BURST - ahead..=BURST).contains(&admitted), "{admitted}");
    assert_eq!(upstream.received().len(), admitted);
}

async fn a_route_is_one_bucket_however_its_path_is_written(nodes: Nodes) {
    let upstream = Upstream::start().await;
    let site = site(nodes, &upstream, "route", 0).await;
    let client = site.client_at(HOME);
    let shown = credentials_of_ann(&client).await;
    let bob = client.register("bob@example.org").await;
    let mut all = shown;
    all.push(format!("Authorization: Bearer {}", bob.access));
    assert_eq!(tried(&site, &all).await, BURST);
    assert_eq!(upstream.received().len(), BURST);
    // What needs no route goes on.
    for _ in 0..nodes.count() {
        client.get("/auth/me").bearer(&bob.access).send().await.expect(200);
        client.login("bob@example.org").await;
    }
}
