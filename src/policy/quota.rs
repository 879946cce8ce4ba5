//! Quotas: what is counted, calendar periods (UTC), how much of what is left one gateway may take ahead.
//!
//! Whole numbers throughout: money is millionths of whatever currency the operator thinks in.

use time::{Month, OffsetDateTime};

use crate::clock::Timestamp;

/// Millionths in one unit of money.
pub const MICROS: u64 = 1_000_000;

/// A gateway takes ahead at most this part of what is left. So what lies at others is a small part of the rest, and
/// shrinks with it: of the last units each is taken by itself.
const SHARE: u64 = 16;

/// What a quota counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Requests admitted.
    Requests,
    /// Tokens of a model, as the answer says or as they are counted.
    Tokens,
    /// Money, in millionths.
    Cost,
}

impl Unit {
    /// The word in the file and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::Cost => "cost",
        }
    }
}

/// What one request uses, or is believed to use. The request itself is counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amounts {
    /// Tokens, in and out.
    pub tokens: u64,
    /// Their price, in millionths.
    pub micros: u64,
}

impl Amounts {
    /// As much as a quota by this unit counts; a request is one request.
    #[must_use]
    pub const fn of(self, unit: Unit) -> u64 {
        match unit {
            Unit::Requests => 1,
            Unit::Tokens => self.tokens,
            Unit::Cost => self.micros,
        }
    }
}

/// How long a quota lasts: it begins anew with each hour, day or month of the calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Period {
    /// From minute 0.
    Hour,
    /// From midnight.
    Day,
    /// From midnight of the first.
    Month,
}

/// One period: from a moment up to another, which is the next one's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its first moment.
    pub start: Timestamp,
    /// When the next one begins.
    pub end: Timestamp,
}

impl Period {
    /// The word in the file and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// The one that a moment is in.
    #[must_use]
    pub fn around(self, now: Timestamp) -> Window {
        let even = |length: i64| {
            let start = now.seconds().div_euclid(length) * length;
            Window { start: Timestamp::from_seconds(start), end: Timestamp::from_seconds(start + length) }
        };
        match self {
            Self::Hour => even(3_600),
            Self::Day => even(86_400),
            // What is outside the calendar has no months; no clock of ours goes there.
            Self::Month => month(now).unwrap_or_else(|| even(30 * 86_400)),
        }
    }
}

fn month(now: Timestamp) -> Option<Window> {
    let first = OffsetDateTime::from_unix_timestamp(now.seconds()).ok()?.date().replace_day(1).ok()?;
    let next = match first.month() {
        Month::December => first.replace_year(first.year() + 1).ok()?.replace_month(Month::January).ok()?,
        month => first.replace_month(month.next()).ok()?,
    };
    let at = |date: time::Date| Timestamp::from_seconds(date.midnight().assume_utc().unix_timestamp());
    Some(Window { start: at(first), end: at(next) })
}

/// What is given of the `left` units of a quota to a gateway that needs `least` at once and has use for `wanted`: a
/// share of the rest, or what is wanted if that is more, and never more than there is. Nothing, if `least` is not there,
/// or nothing is needed.
#[must_use]
pub fn granted(left: u64, least: u64, wanted: u64) -> u64 {
    if least == 0 || left < least {
        return 0;
    }
    left.min(wanted.max(least).max(share(left)))
}

/// What a gateway takes ahead when so much is left.
#[must_use]
pub const fn share(left: u64) -> u64 {
    left / SHARE
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::rfc3339::rfc3339;

    fn around(period: Period, at: i64) -> (String, String) {
        let Window { start, end } = period.around(Timestamp::from_seconds(at));
        (rfc3339(start).unwrap(), rfc3339(end).unwrap())
    }

    fn told(start: &str, end: &str) -> (String, String) {
        (start.to_owned(), end.to_owned())
    }

    #[test]
    fn periods_are_the_calendars() {
        // 2026-03-01T12:34:56Z
        let at = 1_772_368_496;
        assert_eq!(around(Period::Hour, at), told("2026-03-01T12:00:00Z", "2026-03-01T13:00:00Z"));
        assert_eq!(around(Period::Day, at), told("2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"));
        assert_eq!(around(Period::Month, at), told("2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z"));
    }

    #[test]
    fn months_are_as_long_as_they_are() {
        // 2028-02-29T23:59:59Z, 2026-12-31T00:00:00Z
        assert_eq!(around(Period::Month, 1_835_481_599), told("2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"));
        assert_eq!(around(Period::Month, 1_798_675_200), told("2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"));
    }

    #[test]
    fn the_last_units_are_given_one_by_one() {
        assert_eq!(granted(1_000, 1, 1), 62);
        assert_eq!([31, 16, 15, 2, 1, 0].map(|left| granted(left, 1, 1)), [1, 1, 1, 1, 1, 0]);
    }

    #[test]
    fn who_needs_more_than_there_is_gets_nothing_and_who_can_wait_gets_the_rest() {
        assert_eq!(granted(9, 10, 10), 0);
        assert_eq!(granted(9, 5, 100), 9);
        assert_eq!(granted(1_000, 5, 100), 100);
    }

    proptest! {
        #[test]
        fn a_moment_is_in_its_period_and_periods_follow_each_other(at in 0_i64..253_402_300_000) {
            for period in [Period::Hour, Period::Day, Period::Month] {
                let now = Timestamp::from_seconds(at);
                let Window { start, end } = period.around(now);
                prop_assert!(start <= now && now < end);
                prop_assert_eq!(period.around(end).start, end);
                prop_assert_eq!(period.around(start), Window { start, end });
            }
        }

        #[test]
        fn never_more_than_there_is_nor_less_than_is_needed(left: u64, least: u64, wanted: u64) {
            let given = granted(left, least, wanted);
            prop_assert!(given <= left);
            prop_assert!(given == 0 || given >= least);
            prop_assert!((given > 0) == (left >= least && least > 0));
        }
    }
}
