//! `tokens.rotation`: what it means, and what it cannot be.

use std::time::Duration;

use portcullis::policy::key_life::PUBLISHED_CACHEABLE;

use crate::support::{Variables, errors_with, parse_text};

const REST: &str = "clusters: {rag: {endpoints: ['http://a']}}\n\
                    routes: [{name: c, match: {path: /c}, auth: none, cluster: rag}]\n";

fn text(tokens: &str, store: &str) -> String {
    format!("tokens: {{issuer: 'https://a.example'{tokens}}}\n{store}{REST}")
}

fn told(rotation: &str, store: &str) -> String {
    errors_with(&text(&format!(", rotation: {rotation}"), store), &Variables::new())
}

#[test]
fn keys_are_published_for_longer_than_anyone_may_keep_a_key_set_and_verify_for_longer_than_their_tokens_live() {
    let rules = |tokens: &str| parse_text(&text(tokens, ""), &Variables::new()).unwrap().tokens.rotation;
    let days = |count: u64| Duration::from_hours(24 * count);
    let default = rules("");
    assert_eq!((default.every, default.publish_ahead), (Some(days(90)), days(1)));
    assert_eq!(default.verify_for, Duration::from_secs(15 * 60 + 30 + 5 * 60));
    let shortest = rules(", rotation: {every: never, publish_ahead: 6m}, access_ttl: 2h, leeway: 0s");
    assert_eq!((shortest.every, shortest.verify_for), (None, Duration::from_mins(125)));
    assert!(shortest.publish_ahead > PUBLISHED_CACHEABLE);
}

#[test]
fn a_rotation_that_would_be_seen_too_late_is_refused() {
    assert_eq!(
        told("{publish_ahead: 5m}", ""),
        "f.yaml:1:50: tokens.rotation.publish_ahead: expected a duration from 6m to 30d (ms, s, m, h, d), found \"5m\""
    );
    assert_eq!(
        told("{every: often}", ""),
        "f.yaml:1:50: tokens.rotation.every: expected a duration from 1h to 730d (ms, s, m, h, d), or never, found \"often\""
    );
    assert_eq!(
        told("{every: 12h}", ""),
        "f.yaml:1:50: tokens.rotation.every: shorter than publish_ahead: a key would have to be published before the last \
         one signs"
    );
}

#[test]
fn keys_that_the_operator_gives_do_not_rotate() {
    let told = told("{every: 30d}", "store: {url: none}\nportal: {enabled: false}\n");
    assert!(told.starts_with("f.yaml:1:39: tokens.rotation: contradicts store.url: none; "), "{told}");
    assert!(told.contains("tokens.signing_key") && told.contains("restart"), "{told}");
}
