//! Credential stuffing: a list of stolen pairs, each tried once, from a /24 and from a /64. Each gateway finds out by
//! itself, so that several of them together compare as many times the threshold; the store's ladder holds for all.

use std::time::Duration;

use super::{Honest, PROXY, beside, yaml};
use crate::harness::{
    client::{Answer, Client, PASSWORD},
    logins::{audited, compared, credentials, device_of, login, login_from, with_device},
    site::{Nodes, Site},
    upstream::Upstream,
};

/// Pairs by which a list is known, of an address (a /64) as of a network.
const PAIRS: usize = 32;
/// What an estimate of so many may be off by (`policy::stuffing`).
const OFF: usize = PAIRS / 8 + 6;
/// Accounts with which one address may fail before it waits.
const FREE: usize = 7;

on_one_and_three!(
    a_list_from_a_network_is_refused_and_a_returning_owner_is_not,
    a_list_from_a_64_is_refused_whatever_address_of_it_asks,
);

async fn site(nodes: Nodes, upstream: &Upstream) -> Site {
    let more = format!("credential_stuffing: {{pairs: {PAIRS}, network_pairs: {PAIRS}}}\n");
    Site::within(nodes, &yaml(nodes, upstream, &more)).await
}

/// The nth pair of the list.
fn pair(number: usize) -> (String, String) {
    (format!("user-{number}@example.org"), format!("secret of number {number}"))
}

/// So many answers that all gateways find out, and as many again.
fn enough(nodes: Nodes) -> usize {
    2 * nodes.count() * (PAIRS + OFF)
}

/// How many were not refused as stuffing: of each gateway as many as the threshold, about. Once each has found out none
/// is let through again.
fn assert_found_out(nodes: Nodes, answers: &[Answer]) {
    let through = answers.iter().filter(|answer| answer.code() != "logins_refused").count();
    let bound = nodes.count() * (PAIRS - OFF)..=nodes.count() * (PAIRS + OFF);
    assert!(bound.contains(&through), "{through} not in {bound:?}");
    let last = answers.iter().rposition(|answer| answer.code() != "logins_refused").unwrap();
    assert!(last < nodes.count() * (PAIRS + OFF), "{last}");
    for answer in &answers[last + 1..] {
        answer.refused(429, "logins_refused");
        assert_eq!(answer.header("retry-after"), Some("900"));
    }
}

/// At every gateway: the owner of a device gets in from where the list came from; without it, or with another's, nobody.
async fn assert_only_devices_pass(nodes: Nodes, there: &Client, [anns, bobs]: [&str; 2]) {
    for _ in 0..nodes.count() {
        with_device(there, "ann@example.org", anns).await.expect(200);
        with_device(there, "ann@example.org", bobs).await.refused(429, "logins_refused");
        login(there, "ann@example.org", PASSWORD).await.refused(429, "logins_refused");
    }
}

async fn a_list_from_a_network_is_refused_and_a_returning_owner_is_not(nodes: Nodes) {
    let upstream = Upstream::start().await;
    let site = site(nodes, &upstream).await;
    let bob = Honest::register(&site, nodes, "bob").await;
    bob.client.register("ann@example.org").await;
    let there = site.client_at("127.0.7.200");
    let anns = device_of(&with_device(&there, "ann@example.org", "none=1").await.expect(200));
    let bobs = device_of(&with_device(&bob.client, "bob@example.org", "none=1").await.expect(200));

    let attack = async {
        let mut answers = Vec::new();
        for number in 0..enough(nodes) {
            // Six pairs from each address.
            let robber = site.client_at(&format!("127.0.7.{}", number / 6 + 1));
            let (email, password) = pair(number);
            answers.push(login(&robber, &email, &password).await);
        }
        answers
    };
    let answers = beside(attack, async || bob.is_served().await).await;
    assert_found_out(nodes, &answers);
    let store = site.store().await;
    assert!(compared(&store).await <= nodes.count() * (PAIRS + OFF));
    assert_eq!(audited(&store, "credential_stuffing_detected").await, nodes.count(), "each gateway by itself");

    let before = site.metric("portcullis_hash_seconds_count").await;
    login(&there, "ann@example.org", PASSWORD).await.refused(429, "logins_refused");
    assert!((site.metric("portcullis_hash_seconds_count").await - before).abs() < 0.1, "refused before a hash");
    assert_only_devices_pass(nodes, &there, [&anns, &bobs]).await;
    bob.get_in(&["ann@example.org"]).await;
    site.clock.advance(Duration::from_mins(15));
    for _ in 0..nodes.count() {
        login(&there, "ann@example.org", PASSWORD).await.expect(200);
    }
}

async fn a_list_from_a_64_is_refused_whatever_address_of_it_asks(nodes: Nodes) {
    let upstream = Upstream::start().await;
    let site = site(nodes, &upstream).await;
    let bob = Honest::register(&site, nodes, "bob").await;
    bob.client.register("ann@example.org").await;
    let proxy = site.client_at(PROXY);
    let by_browser = async |address: &str, cookie: &str| {
        let call = proxy.post("/auth/login").header("x-forwarded-for", address).header("cookie", cookie);
        call.header("sec-fetch-site", "same-origin").json(&credentials("ann@example.org", PASSWORD)).send().await
    };
    let device = device_of(&by_browser("2001:db8:7:7::1", "none=1").await.expect(200));

    let attack = async {
        let mut answers = Vec::new();
        for number in 0..enough(nodes) {
            let (email, password) = pair(number);
            let address = format!("2001:db8:7:7:{number:x}:{number:x}:{number:x}:9");
            answers.push(login_from(&proxy, &address, &email, &password).await);
        }
        answers
    };
    let answers = beside(attack, async || bob.is_served().await).await;
    assert_found_out(nodes, &answers);
    for (number, answer) in answers.iter().enumerate() {
        match answer.code().as_str() {
            "login_failed" => assert!(number < FREE),
            code => assert!(["address_locked", "logins_refused"].contains(&code), "{code}"),
        }
    }
    assert_eq!(compared(&site.store().await).await, FREE, "one client's ladder, at all gateways together");

    for number in 0..nodes.count() {
        let address = format!("2001:db8:7:7:ffff::{number:x}");
        by_browser(&address, &device).await.expect(200);
        by_browser(&address, "none=1").await.refused(429, "logins_refused");
    }
    // Another customer's, in another network; nobody knows them there.
    for _ in 0..nodes.count() {
        by_browser("2001:db8:8::1", "none=1").await.expect(200);
    }
}
