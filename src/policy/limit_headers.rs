//! `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10): how much is left, and of what.
//!
//! Both are structured-field lists (RFC 9651 §3.1) with one item per policy, its name a quoted string. Seconds are
//! rounded up: a client that comes back when told finds the door open. A cap on what is under way has no window and no
//! time to wait: it says its unit (`qu`) instead, of streams in a word of our own.

use std::time::Duration;

/// One policy as it stands for one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitState<'a> {
    /// The policy's name, as [`quoted`].
    pub name: &'a str,
    /// `q`: requests in the window, or what may be under way at once.
    pub quota: u32,
    /// `w`, or `qu`.
    pub counts: Counts,
    /// `r`: how many are left now.
    pub remaining: u32,
    /// `t`: until there is more; zero when all of the quota is there.
    pub reset: Duration,
}

/// What a policy counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    /// Requests in a window of this length.
    In(Duration),
    /// Requests at once, which come back when others end.
    RequestsAtOnce,
    /// Streams at once, the same.
    StreamsAtOnce,
}

/// A name as a structured-field string (RFC 9651 §3.3.3): printable ASCII in quotes, `"` and `\` escaped. What has no
/// form there becomes `?`.
#[must_use]
pub fn quoted(name: &str) -> String {
    let mut out = String::from("\"");
    for c in name.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ => out.push('?'),
        }
    }
    out.push('"');
    out
}

/// `RateLimit`: `"name";r=…;t=…`, comma-separated. Empty without policies.
#[must_use]
pub fn rate_limit<'a>(states: impl Iterator<Item = LimitState<'a>> + Clone) -> String {
    list(states, |out, state| {
        number(out, ";r=", u64::from(state.remaining));
        if matches!(state.counts, Counts::In(_)) {
            number(out, ";t=", seconds_up(state.reset));
        }
    })
}

/// `RateLimit-Policy`: `"name";q=…;w=…`, comma-separated. Empty without policies.
#[must_use]
pub fn rate_limit_policy<'a>(states: impl Iterator<Item = LimitState<'a>> + Clone) -> String {
    list(states, |out, state| {
        number(out, ";q=", u64::from(state.quota));
        match state.counts {
            Counts::In(window) => number(out, ";w=", seconds_up(window)),
            Counts::RequestsAtOnce => out.push_str(r#";qu="concurrent-requests""#),
            Counts::StreamsAtOnce => out.push_str(r#";qu="concurrent-streams""#),
        }
    })
}

/// Whole seconds, rounded up; `Retry-After` (RFC 9110 §10.2.3) and the `t` beside it must agree.
#[must_use]
pub const fn seconds_up(duration: Duration) -> u64 {
    duration.as_secs().saturating_add((duration.subsec_nanos() > 0) as u64)
}

fn list<'a>(
    states: impl Iterator<Item = LimitState<'a>> + Clone,
    parameters: impl Fn(&mut String, &LimitState<'a>),
) -> String {
    // Two numbers of at most twenty digits, their keys, and a separator.
    let mut out = String::with_capacity(states.clone().map(|state| state.name.len() + 48).sum());
    for state in states {
        if !out.is_empty() {
            out.push_str(", ");
        }
        out.push_str(state.name);
        parameters(&mut out, &state);
    }
    out
}

fn number(out: &mut String, key: &str, number: u64) {
    out.push_str(key);
    push_decimal(out, number);
}

/// Without the machinery of `fmt`: both headers are written for every request.
fn push_decimal(out: &mut String, number: u64) {
    let (mut digits, mut first, mut left) = ([b'0'; 20], 19, number);
    while left > 9 {
        digits[first] = b'0' + u8::try_from(left % 10).unwrap_or(0);
        (first, left) = (first - 1, left / 10);
    }
    digits[first] = b'0' + u8::try_from(left).unwrap_or(0);
    out.extend(digits[first..].iter().map(|digit| char::from(*digit)));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PER_USER: LimitState<'static> = LimitState {
        name: "\"per-user\"",
        quota: 100,
        counts: Counts::In(Duration::from_mins(1)),
        remaining: 7,
        reset: Duration::from_millis(1_200),
    };

    #[test]
    fn several_policies_make_one_list() {
        let states = [PER_USER, LimitState { name: "\"address\"", quota: 5, remaining: 0, ..PER_USER }];
        assert_eq!(rate_limit(states.into_iter()), r#""per-user";r=7;t=2, "address";r=0;t=2"#);
        assert_eq!(rate_limit_policy(states.into_iter()), r#""per-user";q=100;w=60, "address";q=5;w=60"#);
    }

    #[test]
    fn what_is_under_way_has_no_window_and_nothing_to_wait_for() {
        let at_once = LimitState { name: "\"at-once\"", quota: 9, counts: Counts::RequestsAtOnce, ..PER_USER };
        let streams = LimitState { name: "\"streams\"", quota: 4, counts: Counts::StreamsAtOnce, ..PER_USER };
        let states = [at_once, streams, PER_USER];
        assert_eq!(rate_limit(states.into_iter()), r#""at-once";r=7, "streams";r=7, "per-user";r=7;t=2"#);
        let caps = r#""at-once";q=9;qu="concurrent-requests", "streams";q=4;qu="concurrent-streams""#;
        assert_eq!(rate_limit_policy(states.into_iter()), format!(r#"{caps}, "per-user";q=100;w=60"#));
    }

    #[test]
    fn no_policy_is_no_header() {
        assert_eq!(rate_limit([].into_iter()), "");
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
        assert_eq!(quoted("a\";r=999, \\b\r\né"), "\"a\\\";r=999, \\\\b???\"");
    }

    proptest! {
        #[test]
        fn any_name_makes_a_header_value(name in "\\PC{0,20}") {
            let value = rate_limit([LimitState { name: &quoted(&name), ..PER_USER }].into_iter());
            prop_assert!(http::HeaderValue::from_str(&value).is_ok());
        }

        #[test]
        fn numbers_are_written_as_rust_writes_them(number: u64) {
            let mut out = String::new();
            push_decimal(&mut out, number);
            prop_assert_eq!(out, number.to_string());
        }
    }
}
