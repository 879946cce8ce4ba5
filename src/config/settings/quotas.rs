//! `quotas:` as `config/quotas.rs` leaves them: what is counted, by whom, for how long, and how much there is of it.

use std::sync::Arc;

use super::LimitKey;
use crate::policy::quota::{Period, Unit};

/// One named quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// Its name in the file and in the `RateLimit` headers.
    pub name: Arc<str>,
    /// Whose requests it counts together.
    pub key: LimitKey,
    /// How long it lasts.
    pub period: Period,
    /// What it counts.
    pub unit: Unit,
    /// How much there is in a period; of money millionths.
    pub limit: u64,
    /// An answer that runs over it is ended.
    pub hard: bool,
    /// Count, but refuse nothing.
    pub shadow: bool,
}

impl Quota {
    /// What it counts and for how long, as the store keeps it: `requests/day`.
    #[must_use]
    pub fn kind(&self) -> String {
        format!("{}/{}", self.unit.as_str(), self.period.as_str())
    }
}
