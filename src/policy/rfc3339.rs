//! Moments as text: RFC 3339, in UTC.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::clock::Timestamp;

/// `2026-03-01T12:00:00Z`; `None` for what is outside the calendar.
#[must_use]
pub fn rfc3339(at: Timestamp) -> Option<String> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.micros()) * 1_000).ok()?.format(&Rfc3339).ok()
}

/// The other way; `None` for what is no such moment.
#[must_use]
pub fn parsed(text: &str) -> Option<Timestamp> {
    let nanos = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp_nanos();
    i64::try_from(nanos.div_euclid(1_000)).ok().map(Timestamp::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_other_zones_too() {
        let at = Timestamp::from_micros(1_772_366_400_000_001);
        assert_eq!(rfc3339(at).as_deref(), Some("2026-03-01T12:00:00.000001Z"));
        assert_eq!(parsed("2026-03-01T12:00:00.000001Z"), Some(at));
        assert_eq!(parsed("2026-03-01T13:00:00.000001+01:00"), Some(at));
        for text in ["", "tomorrow", "2026-03-01", "2026-03-01T12:00:00", "2026-02-30T12:00:00Z"] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }
}
