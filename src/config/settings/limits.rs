//! `limits:` as `config/limits.rs` leaves them: what is counted, how much of it, and by whom.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

/// What a limit counts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LimitKey {
    /// The client address (/32, /64).
    Address,
    /// The authenticated subject.
    Subject,
}

/// Who counts a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitScope {
    /// Each gateway for itself.
    Local,
    /// All gateways together, in Redis.
    Shared {
        /// Requests of a busy key that one gateway may take ahead; 0: none.
        lease: u32,
    },
}

/// One named limit (GCRA).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Its name in the file and in the `RateLimit` headers.
    pub name: Arc<str>,
    /// What it counts by.
    pub key: LimitKey,
    /// Requests in `period`.
    pub requests: NonZeroU32,
    /// The period those requests spread over.
    pub period: Duration,
    /// Requests that may come at once.
    pub burst: NonZeroU32,
    /// Who counts it. `Shared` only with [`Settings::shared_state`](super::Settings::shared_state).
    pub scope: LimitScope,
}
