//! Refresh tokens: rules of rotation, grace and reuse (RFC 9700 §4.14).
//!
//! A refresh token is a session's counter at the time it was minted; the session row holds the newest one. From the
//! two numbers and what is known of the session, [`decide`] says what a presented token earns. It changes nothing:
//! the store takes the step under the row's lock.
//!
//! An answer may be lost, and a request may come twice or late (a proxy that tries again, a second tab with the same
//! cookie). The grace is for the second: it is counted from when the newest token was last handed out to somebody who
//! could not have it yet, by its rotation or by a repeat while nobody had used it. docs/sessions.md says what a client
//! must keep to so that it is never taken for a thief; tests/contract/tabs.rs holds both.

use std::time::Duration;

use crate::clock::Timestamp;

/// Life and grace of refresh tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefreshRules {
    /// A session unused for this long ends.
    pub idle: Duration,
    /// A session ends this long after its login, used or not.
    pub absolute: Duration,
    /// How long after its successor was handed out the token before is still answered with that same successor.
    pub grace: Duration,
}

/// How a session's refresh token reaches the client; fixed at login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// In the JSON body, for API clients.
    Body,
    /// As an `HttpOnly` cookie, for browsers; never in a body.
    Cookie,
}

/// What is known of a session when one of its refresh tokens is presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionFacts {
    /// Counter of the newest refresh token; 1 after login.
    pub counter: u64,
    /// Highest generation whose access token any gateway has seen used; 0: none.
    pub seen_generation: u64,
    /// Login time.
    pub created_at: Timestamp,
    /// Last rotation (or login).
    pub rotated_at: Timestamp,
    /// When the newest token was last handed out while nobody was known to have used it: its rotation, or a repeat.
    pub handed_out_at: Timestamp,
    /// Ended by logout or reuse.
    pub ended: bool,
    /// Whether its account may refresh.
    pub active: bool,
}

impl RefreshRules {
    /// When a session ends by itself unless it is refreshed before: idle, or too long after its login.
    #[must_use]
    pub fn ends_at(&self, created_at: Timestamp, rotated_at: Timestamp) -> Timestamp {
        rotated_at.plus(self.idle).min(created_at.plus(self.absolute))
    }
}

/// What a presented refresh token earns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshVerdict {
    /// The newest token: a successor.
    Rotate,
    /// The one before, whose answer may have been lost: the same successor again.
    Repeat,
    /// An old token that somebody kept: the session dies.
    Reuse,
    /// A counter that was never issued: refused, but no reason to kill, since nobody can hold such a token.
    Ahead,
    /// Unused for too long, or too long after its login.
    Expired,
    /// The session has ended already.
    Ended,
    /// The account may not refresh.
    Inactive,
}

/// Judges a presented counter.
///
/// A session that has ended or run out is refused whatever is presented, so that a reuse kills only once. Reuse is
/// looked for before the account's state: theft is not forgiven because the account is switched off meanwhile.
#[must_use]
pub fn decide(facts: &SessionFacts, presented: u64, rules: &RefreshRules, now: Timestamp) -> RefreshVerdict {
    if facts.ended {
        return RefreshVerdict::Ended;
    }
    if now >= rules.ends_at(facts.created_at, facts.rotated_at) {
        return RefreshVerdict::Expired;
    }
    // Counters begin at 1, so 0 was never issued either.
    if presented == 0 || presented > facts.counter {
        return RefreshVerdict::Ahead;
    }
    let verdict = match facts.counter - presented {
        0 => RefreshVerdict::Rotate,
        1 if now.since(facts.handed_out_at) <= rules.grace || facts.seen_generation < facts.counter => {
            RefreshVerdict::Repeat
        }
        _ => return RefreshVerdict::Reuse,
    };
    if facts.active { verdict } else { RefreshVerdict::Inactive }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: RefreshRules = RefreshRules {
        idle: Duration::from_hours(7 * 24),
        absolute: Duration::from_hours(30 * 24),
        grace: Duration::from_secs(10),
    };
    const ROTATED: Timestamp = Timestamp::from_seconds(1_000_000);

    fn facts() -> SessionFacts {
        SessionFacts {
            counter: 5,
            seen_generation: 5,
            created_at: Timestamp::from_seconds(900_000),
            rotated_at: ROTATED,
            handed_out_at: ROTATED,
            ended: false,
            active: true,
        }
    }

    fn after(seconds: u64) -> Timestamp {
        ROTATED.plus(Duration::from_secs(seconds))
    }

    #[test]
    fn the_newest_token_rotates() {
        assert_eq!(decide(&facts(), 5, &RULES, after(60)), RefreshVerdict::Rotate);
    }

    #[test]
    fn the_first_token_after_login_rotates() {
        let login = SessionFacts { counter: 1, seen_generation: 0, ..facts() };
        assert_eq!(decide(&login, 1, &RULES, after(0)), RefreshVerdict::Rotate);
    }

    #[test]
    fn the_token_before_is_repeated_within_the_grace_even_when_its_successor_was_used() {
        assert_eq!(decide(&facts(), 4, &RULES, after(10)), RefreshVerdict::Repeat);
    }

    #[test]
    fn the_token_before_is_reuse_after_the_grace_when_its_successor_was_used() {
        let just_after = ROTATED.plus(RULES.grace).plus(Duration::from_micros(1));
        assert_eq!(decide(&facts(), 4, &RULES, just_after), RefreshVerdict::Reuse);
    }

    #[test]
    fn a_lost_answer_is_repeated_long_after_the_grace() {
        let unseen = SessionFacts { seen_generation: 4, ..facts() };
        assert_eq!(decide(&unseen, 4, &RULES, after(86_400)), RefreshVerdict::Repeat);
    }

    #[test]
    fn a_lost_answer_given_again_has_a_grace_of_its_own() {
        let again = SessionFacts { handed_out_at: after(3_600), ..facts() };
        assert_eq!(decide(&again, 4, &RULES, after(3_610)), RefreshVerdict::Repeat);
        assert_eq!(decide(&again, 4, &RULES, after(3_611)), RefreshVerdict::Reuse);
    }

    #[test]
    fn two_before_is_reuse_even_within_the_grace_and_unseen() {
        let unseen = SessionFacts { seen_generation: 0, ..facts() };
        assert_eq!(decide(&unseen, 3, &RULES, after(0)), RefreshVerdict::Reuse);
    }

    #[test]
    fn a_counter_never_issued_is_ahead() {
        assert_eq!(decide(&facts(), 6, &RULES, after(0)), RefreshVerdict::Ahead);
        assert_eq!(decide(&facts(), u64::MAX, &RULES, after(0)), RefreshVerdict::Ahead);
    }

    #[test]
    fn zero_was_never_issued_although_it_is_one_before_the_first() {
        let login = SessionFacts { counter: 1, seen_generation: 0, ..facts() };
        assert_eq!(decide(&login, 0, &RULES, after(0)), RefreshVerdict::Ahead);
    }

    #[test]
    fn idle_is_counted_from_the_last_rotation() {
        let just_before = after(RULES.idle.as_secs() - 1);
        assert_eq!(decide(&facts(), 5, &RULES, just_before), RefreshVerdict::Rotate);
        assert_eq!(decide(&facts(), 5, &RULES, after(RULES.idle.as_secs())), RefreshVerdict::Expired);
    }

    #[test]
    fn absolute_is_counted_from_the_login_however_busy_the_session() {
        let end = facts().created_at.plus(RULES.absolute);
        let busy = SessionFacts { rotated_at: end.minus(Duration::from_secs(5)), ..facts() };
        assert_eq!(decide(&busy, 5, &RULES, end.minus(Duration::from_micros(1))), RefreshVerdict::Rotate);
        assert_eq!(decide(&busy, 5, &RULES, end), RefreshVerdict::Expired);
    }

    #[test]
    fn a_repeat_does_not_outlive_the_session() {
        let unseen = SessionFacts { seen_generation: 4, ..facts() };
        assert_eq!(decide(&unseen, 4, &RULES, after(RULES.idle.as_secs())), RefreshVerdict::Expired);
    }

    #[test]
    fn an_ended_session_is_not_killed_again() {
        let ended = SessionFacts { ended: true, ..facts() };
        for presented in 0..7 {
            assert_eq!(decide(&ended, presented, &RULES, after(60)), RefreshVerdict::Ended);
        }
    }

    #[test]
    fn an_inactive_account_gets_nothing_but_its_thief_is_still_caught() {
        let inactive = SessionFacts { active: false, ..facts() };
        assert_eq!(decide(&inactive, 5, &RULES, after(60)), RefreshVerdict::Inactive);
        assert_eq!(decide(&inactive, 4, &RULES, after(5)), RefreshVerdict::Inactive);
        assert_eq!(decide(&inactive, 2, &RULES, after(60)), RefreshVerdict::Reuse);
    }

    #[test]
    fn a_clock_that_jumps_back_neither_expires_nor_accuses() {
        assert_eq!(decide(&facts(), 5, &RULES, Timestamp::from_seconds(0)), RefreshVerdict::Rotate);
        assert_eq!(decide(&facts(), 4, &RULES, Timestamp::from_seconds(0)), RefreshVerdict::Repeat);
    }

    proptest! {
        #[test]
        fn only_the_newest_counter_of_a_live_session_ever_rotates(
            counter in 1u64..1_000,
            seen in 0u64..1_000,
            presented in 0u64..1_100,
            elapsed in 0u64..40 * 86_400,
            ended: bool,
            active: bool,
        ) {
            let facts = SessionFacts { counter, seen_generation: seen, ended, active, ..facts() };
            let verdict = decide(&facts, presented, &RULES, after(elapsed));
            if verdict == RefreshVerdict::Rotate {
                prop_assert!(presented == counter && active && !ended && elapsed < RULES.idle.as_secs());
            }
            if verdict == RefreshVerdict::Repeat {
                prop_assert!(presented + 1 == counter && active && !ended);
            }
            if verdict == RefreshVerdict::Reuse {
                prop_assert!(presented < counter && presented > 0 && !ended);
            }
        }
    }
}
