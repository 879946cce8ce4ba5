//! Rotation of addresses: whatever a stranger writes about where it is gains nothing, through a trusted proxy only the
//! entry that the proxy has appended counts, and the addresses of one /64 are one client.

use super::{Honest, LAIR, PROXY, beside};
use crate::harness::{
    client::Client,
    gateway::standard,
    logins::{WRONG, compared, credentials},
    site::{Nodes, Site},
    upstream::Upstream,
};

/// What one address may: so many requests a day of the public route, at all gateways together; and fail with so many
/// accounts.
const SHARE: usize = 12;
const ACCOUNTS: usize = 7;

/// Another trusted proxy, behind [`PROXY`].
const INNER: &str = "127.0.0.8";

on_one_and_three!(
    what_a_stranger_says_of_its_address_gains_nothing,
    through_proxies_only_the_last_entry_that_is_none_counts,
    the_addresses_of_a_64_are_one_client,
);

async fn site(nodes: Nodes, upstream: &Upstream) -> Site {
    let scope = nodes.scope(0);
    let routes = standard(upstream).replace("auth: none,", "auth: none, limits: [door],");
    let yaml = format!(
        "listeners: {{public: {{bind: \"127.0.0.1:0\"}}, admin: {{bind: \"127.0.0.1:0\"}}, \
         trusted_proxies: [{PROXY}, {INNER}]}}\n\
         limits:\n  door: {{by: address, rate: {SHARE}/1d, {scope}}}\n  \
         everybody: {{by: address, rate: 100000/s, burst: 100000, {scope}}}\nportal: {{limits: [everybody]}}\n\
         lockout: {{address: {{ladder: [{{accounts: {ACCOUNTS}, wait: 1d}}]}}}}\n{}{routes}",
        nodes.shared_state()
    );
    Site::start(nodes, &yaml).await
}

/// The nth header that says where somebody is.
fn claim(number: usize) -> String {
    let address = format!("198.51.{number}.{number}");
    match number % 10 {
        0 => format!("X-Forwarded-For: {address}"),
        1 => format!("x-forwarded-for: {address}, {PROXY}"),
        2 => format!("X-FORWARDED-FOR: {PROXY}\r\nX-Forwarded-For: {address}"),
        3 => format!("Forwarded: for={address};by={PROXY}"),
        4 => format!("forwarded: for=\"[2001:db8:{number:x}::1]\""),
        5 => format!("X-Real-IP: {address}"),
        6 => format!("CF-Connecting-IP: {address}"),
        7 => format!("True-Client-IP: {address}"),
        8 => format!("X-Client-IP: {address}\r\nX-Cluster-Client-IP: {address}"),
        _ => format!("X-Forwarded-For: 2001:db8:{number:x}::1"),
    }
}

/// How many of the answers were let in; the others were over the limit.
fn admitted(statuses: &[u16]) -> usize {
    assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    statuses.iter().filter(|status| **status == 200).count()
}

/// So many strangers' requests of the public route as `asked` makes them, while an honest address has its whole share.
async fn rotated(site: &Site, home: &str, many: usize, asked: impl AsyncFn(usize) -> u16) -> usize {
    let attack = async {
        let mut statuses = Vec::new();
        for number in 0..many {
            statuses.push(asked(number).await);
        }
        statuses
    };
    let honest = async {
        let client = site.client_at(home);
        for _ in 0..SHARE {
            client.get("/open/a").send().await.expect(200);
        }
        client.get("/open/a").send().await.refused(429, "quota_exceeded");
    };
    admitted(&tokio::join!(attack, honest).0)
}

async fn what_a_stranger_says_of_its_address_gains_nothing(nodes: Nodes) {
    let upstream = Upstream::start().await;
    let site = site(nodes, &upstream).await;
    let asked = async |number| {
        let mut raw = site.raw_at(LAIR).await;
        raw.send(&format!("GET /open/a HTTP/1.1\r\nHost: a.test\r\n{}\r\n\r\n", claim(number))).await;
        raw.answer().await.unwrap().status
    };
    assert_eq!(rotated(&site, "127.0.9.9", 60, asked).await, SHARE);
    assert_eq!(upstream.received().len(), 2 * SHARE, "the stranger's and the honest client's");

    // Nor for guesses: the ladder knows the peer.
    let bob = Honest::register(&site, nodes, "bob").await;
    let guesses = async {
        let mut answers = Vec::new();
        for number in 0..30 {
            let body = credentials(&format!("u{number}@example.org"), WRONG).to_string();
            let mut raw = site.raw_at(LAIR).await;
            let (claim, length) = (claim(number), body.len());
            let head = "POST /auth/login HTTP/1.1\r\nHost: a.test\r\nContent-Type: application/json";
            raw.send(&format!("{head}\r\n{claim}\r\nContent-Length: {length}\r\n\r\n{body}")).await;
            let answer = raw.answer().await.unwrap();
            answers.push((answer.status, answer.code()));
        }
        answers
    };
    let answers = beside(guesses, async || bob.is_served().await).await;
    for (number, (status, code)) in answers.iter().enumerate() {
        let due = if number < ACCOUNTS { (401, "login_failed") } else { (429, "address_locked") };
        assert_eq!((*status, code.as_str()), due, "{number}");
    }
    assert_eq!(compared(&site.store().await).await, ACCOUNTS);
}

async fn status(proxy: &Client, entries: &[&str]) -> u16 {
    let call = entries.iter().fold(proxy.get("/open/a"), |call, entry| call.header("x-forwarded-for", entry));
    call.send().await.status
}

async fn through_proxies_only_the_last_entry_that_is_none_counts(nodes: Nodes) {
    let upstream = Upstream::start().await;
    let site = site(nodes, &upstream).await;
    let proxy = site.client_at(PROXY);
    let invented = |number: usize| format!("198.51.{number}.1");
    // The proxy has appended whom it saw.
    let appended = async |number| status(&proxy, &[&format!("{}, 203.0.113.7", invented(number))]).await;
    assert_eq!(rotated(&site, "127.0.9.9", 40, appended).await, SHARE);
    // In a line of its own, and by way of another proxy: still the same client.
    let lines = async |number| status(&proxy, &[&invented(number), "203.0.113.7"]).await;
    assert_eq!(rotated(&site, "127.0.9.10", 20, lines).await, 0);
    let chained = async |number| status(&proxy, &[&format!("{}, 203.0.113.7, {INNER}", invented(number))]).await;
    assert_eq!(rotated(&site, "127.0.9.11", 20, chained).await, 0);
    // Whoever writes a proxy's own address in front is the one behind it all the same.
    let borrowed = async |number| status(&proxy, &[&format!("{INNER}, {}, 203.0.113.8", invented(number))]).await;
    assert_eq!(rotated(&site, "127.0.9.12", 40, borrowed).await, SHARE);
    // Other headers say nothing even of a proxy: these count as the proxy's own.
    let other = async |number: usize| {
        let (name, value) =
            [("forwarded", format!("for={}", invented(number))), ("x-real-ip", invented(number))][number % 2].clone();
        proxy.get("/open/a").header(name, &value).send().await.status
    };
    assert_eq!(rotated(&site, "127.0.9.13", 40, other).await, SHARE);
}

async fn the_addresses_of_a_64_are_one_client(nodes: Nodes) {
    let upstream = Upstream::start().await;
    let site = site(nodes, &upstream).await;
    let proxy = site.client_at(PROXY);
    let of_64 = async |number: usize| {
        let address = format!("2001:db8:1:2:{number:x}:{:x}::{number:x}", 0xffff - number);
        status(&proxy, &[&address]).await
    };
    assert_eq!(rotated(&site, "127.0.9.9", 60, of_64).await, SHARE);
    let neighbour = async |number: usize| status(&proxy, &[&format!("2001:db8:1:3::{number:x}")]).await;
    assert_eq!(rotated(&site, "127.0.9.10", 40, neighbour).await, SHARE, "the neighbour has its own");
    let mapped = async |number: usize| {
        let written = ["203.0.113.7", "::ffff:203.0.113.7", "[::ffff:cb00:7107]:99", "203.0.113.7:1234"];
        status(&proxy, &[written[number % written.len()]]).await
    };
    assert_eq!(rotated(&site, "127.0.9.11", 40, mapped).await, SHARE, "one address in four spellings");
}
