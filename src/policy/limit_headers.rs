//! `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10): how much is left, and of what.
//!
//! Both are structured-field lists (RFC 9651 §3.1) with one item per policy, its name a quoted string. Seconds are
//! rounded up: a client that comes back when told finds the door open.

use std::{fmt::Write, time::Duration};

/// One policy as it stands for one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitState<'a> {
    /// The policy's name.
    pub name: &'a str,
    /// `q`: requests in the window.
    pub quota: u32,
    /// `w`: the window.
    pub window: Duration,
    /// `r`: requests left now.
    pub remaining: u32,
    /// `t`: until there is more; zero when all of the quota is there.
    pub reset: Duration,
}

/// `RateLimit`: `"name";r=…;t=…`, comma-separated. Empty without policies.
#[must_use]
pub fn rate_limit(states: &[LimitState<'_>]) -> String {
    list(states, |out, state| write!(out, ";r={};t={}", state.remaining, seconds_up(state.reset)))
}

/// `RateLimit-Policy`: `"name";q=…;w=…`, comma-separated. Empty without policies.
#[must_use]
pub fn rate_limit_policy(states: &[LimitState<'_>]) -> String {
    list(states, |out, state| write!(out, ";q={};w={}", state.quota, seconds_up(state.window)))
}

/// Whole seconds, rounded up; `Retry-After` (RFC 9110 §10.2.3) and the `t` beside it must agree.
#[must_use]
pub const fn seconds_up(duration: Duration) -> u64 {
    duration.as_secs().saturating_add((duration.subsec_nanos() > 0) as u64)
}

fn list(states: &[LimitState<'_>], parameters: impl Fn(&mut String, &LimitState<'_>) -> std::fmt::Result) -> String {
    let mut out = String::with_capacity(states.iter().map(|state| state.name.len() + 40).sum());
    for (i, state) in states.iter().enumerate() {
        out.push_str(if i == 0 { "\"" } else { ", \"" });
        for c in state.name.chars() {
            // RFC 9651 §3.3.3: printable ASCII, `"` and `\` escaped. Anything else has no form there.
            match c {
                '"' | '\\' => out.extend(['\\', c]),
                ' '..='~' => out.push(c),
                _ => out.push('?'),
            }
        }
        out.push('"');
        // Writing to a string does not fail.
        let _ = parameters(&mut out, state);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PER_USER: LimitState<'static> = LimitState {
        name: "per-user",
        quota: 100,
        window: Duration::from_mins(1),
        remaining: 7,
        reset: Duration::from_millis(1_200),
    };

    #[test]
    fn several_policies_make_one_list() {
        let states = [PER_USER, LimitState { name: "address", quota: 5, remaining: 0, ..PER_USER }];
        assert_eq!(rate_limit(&states), r#""per-user";r=7;t=2, "address";r=0;t=2"#);
        assert_eq!(rate_limit_policy(&states), r#""per-user";q=100;w=60, "address";q=5;w=60"#);
    }

    #[test]
    fn no_policy_is_no_header() {
        assert_eq!(rate_limit(&[]), "");
    }

    #[test]
    fn seconds_are_rounded_up_so_that_nobody_comes_too_early() {
        for (nanos, seconds) in [(0, 0), (1, 1), (999_999_999, 1), (1_000_000_000, 1), (1_000_000_001, 2)] {
            assert_eq!(seconds_up(Duration::from_nanos(nanos)), seconds);
        }
        assert_eq!(seconds_up(Duration::MAX), u64::MAX);
    }

    #[test]
    fn a_name_cannot_break_out_of_its_quotes() {
        let state = LimitState { name: "a\";r=999, \\b\r\né", ..PER_USER };
        assert_eq!(rate_limit(&[state]), "\"a\\\";r=999, \\\\b???\";r=7;t=2");
    }

    proptest! {
        #[test]
        fn any_name_makes_a_header_value(name in "\\PC{0,20}") {
            let value = rate_limit(&[LimitState { name: &name, ..PER_USER }]);
            prop_assert!(http::HeaderValue::from_str(&value).is_ok());
        }
    }
}
