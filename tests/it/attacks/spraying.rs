//! Password spraying: one common password against many accounts, so that no account sees many failures. From one
//! address the ladder answers, from neighbours the detector; what is spread over many networks is 7 accounts for each
//! address, and slows down no owner.

use std::time::Duration;

use futures_util::future::join_all;
use portcullis::clock::Clock as _;

use super::{Honest, LAIR, PROXY, beside, register, yaml};
use crate::harness::{
    client::{Answer, Client, PASSWORD},
    logins::{audited, compared, device_of, login, login_from, told, with_device},
    site::{Nodes, Site},
    upstream::Upstream,
};

/// What many people take for a password; one of them is [`CARELESS`].
const COMMON: &str = "Summer-of-2026-in-Oslo";
const CARELESS: &str = "careless@example.org";

/// Accounts with which one address may fail before it waits (docs/lockout.md).
const FREE: usize = 7;

on_one_and_three!(
    one_address_gets_seven_accounts_and_never_learns_that_a_password_was_right,
    one_address_gets_twenty_five_accounts_a_day,
    a_network_is_found_out_at_each_gateway_and_no_owner_is_slowed_down,
    addresses_far_apart_get_seven_accounts_each_and_no_owner_is_slowed_down,
);

fn target(number: usize) -> String {
    format!("u{number}@example.org")
}

async fn spray(robber: &Client, targets: impl IntoIterator<Item = String>) -> Vec<Answer> {
    let mut answers = Vec::new();
    for target in targets {
        answers.push(login(robber, &target, COMMON).await);
    }
    answers
}

async fn one_address_gets_seven_accounts_and_never_learns_that_a_password_was_right(nodes: Nodes) {
    let upstream = Upstream::start().await;
    let site = Site::within(nodes, &yaml(nodes, &upstream, "")).await;
    let bob = Honest::register(&site, nodes, "bob").await;
    let owners: Vec<_> = (0..3).map(target).collect();
    for owner in &owners {
        register(&bob.client, owner, PASSWORD).await;
    }
    register(&bob.client, CARELESS, COMMON).await;
    let known = device_of(&with_device(&bob.client, &owners[0], "none=1").await.expect(200));

    let robber = site.client_at(LAIR);
    let targets = (0..20).map(target).chain([CARELESS.to_owned()]).chain((20..40).map(target));
    let answers = beside(spray(&robber, targets), async || bob.is_served().await).await;
    for answer in &answers[..FREE] {
        answer.refused(401, "login_failed");
        assert_eq!(told(answer), told(&answers[0]), "an account, or none");
    }
    for answer in &answers[FREE..] {
        answer.refused(429, "address_locked");
        assert_eq!(answer.header("retry-after"), Some("60"));
        assert_eq!(told(answer), told(&answers[FREE]), "a right password, or none");
    }
    let store = site.store().await;
    assert_eq!(compared(&store).await, FREE, "all gateways together");
    assert_eq!(audited(&store, "address_locked").await, 1);

    let owners: Vec<_> = owners.iter().map(String::as_str).collect();
    bob.get_in(&owners).await;
    // Behind the robber's address whoever has been here before gets in; others wait for a minute.
    for _ in 0..nodes.count() {
        with_device(&robber, owners[0], &known).await.expect(200);
        login(&robber, owners[1], PASSWORD).await.refused(429, "address_locked");
    }
    site.clock.advance(Duration::from_mins(1));
    login(&robber, owners[1], PASSWORD).await.expect(200);
}

async fn one_address_gets_twenty_five_accounts_a_day(nodes: Nodes) {
    const DAY: Duration = Duration::from_hours(24);
    let upstream = Upstream::start().await;
    let site = Site::within(nodes, &yaml(nodes, &upstream, "")).await;
    let bob = Honest::register(&site, nodes, "bob").await;
    let robber = site.client_at(LAIR);
    let (began, mut tried) = (site.clock.now(), 0);
    let mut waited_for = Vec::new();
    loop {
        let answer = login(&robber, &target(tried), COMMON).await;
        if answer.status == 401 {
            tried += 1;
            continue;
        }
        answer.refused(429, "address_locked");
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        waited_for.push(wait);
        site.clock.advance(Duration::from_secs(wait));
        if site.clock.now().since(began) > DAY {
            break;
        }
        bob.is_served().await;
    }
    assert_eq!((tried, compared(&site.store().await).await), (25, 25));
    let ladder = [[60; 3].as_slice(), &[600; 5], &[900; 5], &[3_600; 5], &[86_400]].concat();
    assert_eq!(waited_for, ladder);
}

async fn a_network_is_found_out_at_each_gateway_and_no_owner_is_slowed_down(nodes: Nodes) {
    const PAIRS: usize = 40;
    /// What an estimate of [`PAIRS`] may be off by (`policy::stuffing`).
    const OFF: usize = PAIRS / 8 + 6;
    let upstream = Upstream::start().await;
    let more = format!("credential_stuffing: {{pairs: {PAIRS}, network_pairs: {PAIRS}}}\n");
    let site = Site::within(nodes, &yaml(nodes, &upstream, &more)).await;
    let bob = Honest::register(&site, nodes, "bob").await;
    for owner in ["u0@example.org", "u1@example.org"] {
        register(&bob.client, owner, PASSWORD).await;
    }
    register(&bob.client, CARELESS, COMMON).await;

    // Six accounts from each address: none of them is on the ladder. Twice what all gateways need.
    let addresses = 2 * PAIRS * nodes.count() / 6 + 1;
    let attack = async {
        let mut answers = Vec::new();
        for number in 0..addresses {
            let robber = site.client_at(&format!("127.0.7.{}", number + 1));
            answers.extend(spray(&robber, (6 * number..6 * number + 6).map(target)).await);
        }
        answers
    };
    let answers = beside(attack, async || bob.is_served().await).await;
    let tried = answers.iter().filter(|answer| answer.status == 401).count();
    let bound = nodes.count() * (PAIRS - OFF)..=nodes.count() * (PAIRS + OFF);
    assert!(bound.contains(&tried), "{tried} not in {bound:?}");
    assert_eq!(compared(&site.store().await).await, tried, "what was refused was not compared");
    for answer in answers.iter().filter(|answer| answer.status != 401) {
        answer.refused(429, "logins_refused");
        assert_eq!(answer.header("retry-after"), Some("900"));
    }
    assert_eq!(audited(&site.store().await, "credential_stuffing_detected").await, nodes.count());

    let refused = &answers[answers.len() - 1];
    let neighbour = site.client_at("127.0.7.250");
    for _ in 0..nodes.count() {
        let right = login(&neighbour, CARELESS, COMMON).await;
        assert_eq!(told(&right), told(refused), "a right password, or none");
    }
    bob.get_in(&["u0@example.org", "u1@example.org"]).await;
}

async fn addresses_far_apart_get_seven_accounts_each_and_no_owner_is_slowed_down(nodes: Nodes) {
    const ADDRESSES: usize = 9;
    let upstream = Upstream::start().await;
    let site = Site::within(nodes, &yaml(nodes, &upstream, "")).await;
    let bob = Honest::register(&site, nodes, "bob").await;
    let owners = ["u0@example.org", "u1@example.org"];
    for owner in owners {
        register(&bob.client, owner, PASSWORD).await;
    }
    let proxy = &site.client_at(PROXY);
    // All at once, the same accounts from each.
    let from = |number: usize| async move {
        let mut tried = 0;
        for account in 0..12 {
            let answer = login_from(proxy, &format!("198.51.{number}.7"), &target(account), COMMON).await;
            match answer.status {
                401 => tried += 1,
                _ => answer.refused(429, "address_locked"),
            }
        }
        tried
    };
    let tried = beside(join_all((0..ADDRESSES).map(from)), async || bob.is_served().await).await;
    assert_eq!(tried, [FREE; ADDRESSES]);
    assert_eq!(compared(&site.store().await).await, FREE * ADDRESSES);
    // From somewhere they have never been, with the password alone.
    let elsewhere = Honest { client: site.client_at("127.0.9.77"), ..bob };
    elsewhere.get_in(&owners).await;
}
