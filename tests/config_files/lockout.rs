//! What failed logins cost: the defaults are the design's, and numbers that contradict each other are named.

use std::time::Duration;

use crate::support::{BASE, errors_with, parse_text, variables};

#[test]
fn without_a_word_the_ladders_are_those_of_the_manual() {
    let settings = parse_text(BASE, &variables(&[])).unwrap().lockout;
    assert!(settings.enabled);
    let minutes = |waits: &[Duration]| waits.iter().map(|wait| wait.as_secs() / 60).collect::<Vec<_>>();
    let rules = &settings.rules;
    assert_eq!((rules.pair.free.get(), minutes(&rules.pair.waits)), (5, vec![1, 2, 4, 8, 15]));
    assert_eq!((rules.account.slow_after.get(), rules.account.hard_stop.get()), (20, 100));
    assert!(rules.account.slow_most <= Duration::from_secs(30));
    let rungs: Vec<_> =
        rules.address.ladder.iter().map(|rung| (rung.accounts.get(), rung.wait.as_secs() / 60)).collect();
    assert_eq!(rungs, [(7, 1), (10, 10), (15, 15), (20, 60), (25, 1_440)]);
    assert_eq!(rules.device.failures.get(), 10);
    assert_eq!(settings.device_life, Duration::from_hours(180 * 24));
    assert!(settings.device_cookie.starts_with("__Secure-"));
}

#[test]
fn what_contradicts_itself_is_named_at_its_key() {
    let text = format!(
        "{BASE}lockout:\n  account_and_address: {{free: 0, waits: [1m, 2d]}}\n  account: {{slow_after: 50, hard_stop: 40}}\n  \
         address: {{ladder: [{{accounts: 7, wait: 1m}}, {{accounts: 7, wait: 2m}}, {{accounts: 9, wait: 1m}}, \
         {{accounts: 12}}]}}\n  device: {{cookie_name: __Secure-portcullis-refresh}}\n"
    );
    let told = errors_with(&text, &variables(&[]));
    for expected in [
        "lockout.account_and_address.free: expected a whole number from 1 to 1000",
        "lockout.account_and_address.waits[1]: expected a duration",
        "lockout.account.slow_after: beyond the hard stop",
        "lockout.address.ladder[1]: a ladder goes up",
        "lockout.address.ladder[2]: a ladder goes up",
        "lockout.address.ladder[3].wait: missing",
        "lockout.device.cookie_name: the name of another cookie",
    ] {
        assert!(told.contains(expected), "{expected}\n{told}");
    }
    let text = format!("{BASE}lockout: {{address: {{window: 10m}}}}\n");
    let told = errors_with(&text, &variables(&[]));
    assert!(told.contains("lockout.account_and_address.waits: longer than lockout.address.window"), "{told}");
}

#[test]
fn more_failures_than_nist_allows_cannot_be_asked_for() {
    let told = errors_with(&format!("{BASE}lockout: {{account: {{hard_stop: 101}}}}\n"), &variables(&[]));
    assert!(told.contains("lockout.account.hard_stop: expected a whole number from 1 to 100"), "{told}");
}
