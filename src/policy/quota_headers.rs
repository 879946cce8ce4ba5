//! Quotas in `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10), after the limits.
//!
//! What is not requests says so (`qu`), in words of our own: `tokens`, `cost-millionths`.

use std::{fmt::Write, time::Duration};

use super::{limit_headers::seconds_up, quota::Unit};

/// The greatest integer of a structured field (RFC 9651 §3.3.1).
const GREATEST: u64 = 999_999_999_999_999;

/// One quota as it stands for one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaState<'a> {
    /// Its name, as [`super::limit_headers::quoted`].
    pub name: &'a str,
    /// What it counts.
    pub unit: Unit,
    /// `q`: units in a period.
    pub limit: u64,
    /// `w`: how long this period is.
    pub lasts: Duration,
    /// `r`: units left, as far as this gateway knows: what others hold is not among them.
    pub remaining: u64,
    /// `t`: until the next period.
    pub renews_in: Duration,
}

/// Items of `RateLimit`: `"name";r=…;t=…`.
#[must_use]
pub fn rate_limit(states: &[QuotaState<'_>]) -> String {
    list(states, |out, state| {
        let _ = write!(out, ";r={};t={}", state.remaining.min(GREATEST), seconds_up(state.renews_in));
    })
}

/// Items of `RateLimit-Policy`: `"name";q=…;w=…`.
#[must_use]
pub fn rate_limit_policy(states: &[QuotaState<'_>]) -> String {
    list(states, |out, state| {
        let unit = match state.unit {
            Unit::Requests => "",
            Unit::Tokens => r#";qu="tokens""#,
            Unit::Cost => r#";qu="cost-millionths""#,
        };
        let _ = write!(out, ";q={}{unit};w={}", state.limit.min(GREATEST), seconds_up(state.lasts));
    })
}

fn list(states: &[QuotaState<'_>], parameters: impl Fn(&mut String, &QuotaState<'_>)) -> String {
    let mut out = String::with_capacity(states.len() * 80);
    for state in states {
        if !out.is_empty() {
            out.push_str(", ");
        }
        out.push_str(state.name);
        parameters(&mut out, state);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_says_what_it_counts_unless_it_is_requests() {
        let day = QuotaState {
            name: "\"daily\"",
            unit: Unit::Requests,
            limit: 1_000,
            lasts: Duration::from_hours(24),
            remaining: 7,
            renews_in: Duration::from_millis(1_200),
        };
        let money = QuotaState { name: "\"money\"", unit: Unit::Cost, limit: u64::MAX, remaining: u64::MAX, ..day };
        let tokens = QuotaState { name: "\"tokens\"", unit: Unit::Tokens, ..day };
        assert_eq!(rate_limit(&[day, tokens]), r#""daily";r=7;t=2, "tokens";r=7;t=2"#);
        let policy = r#""daily";q=1000;w=86400, "tokens";q=1000;qu="tokens";w=86400"#;
        assert_eq!(rate_limit_policy(&[day, tokens]), policy);
        assert_eq!(rate_limit(&[money]), r#""money";r=999999999999999;t=2"#);
        let policy = r#""money";q=999999999999999;qu="cost-millionths";w=86400"#;
        assert_eq!(rate_limit_policy(&[money]), policy);
        assert_eq!(rate_limit(&[]), "");
    }
}
