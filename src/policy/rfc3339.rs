//! Moments as text: RFC 3339, in UTC.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::clock::Timestamp;

/// `2026-03-01T12:00:00Z`; `None` for what is outside the calendar.
#[must_use]
pub fn rfc3339(at: Timestamp) -> Option<String> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.micros()) * 1_000).ok()?.format(&Rfc3339).ok()
}
