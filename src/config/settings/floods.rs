//! `listeners.public.flood:` as `config/floods.rs` leaves it: what one address may do before anybody is known.

use std::{num::NonZeroU32, time::Duration};

/// What one address (IPv4 /32, IPv6 /64) may do, each in any window; `None`: as often as it likes. Trusted proxies may do
/// all of it as often as they like; what their clients do counts for the clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flood {
    /// The window.
    pub window: Duration,
    /// New connections.
    pub connections: Option<NonZeroU32>,
    /// Requests that are none, or that no route takes.
    pub bad_requests: Option<NonZeroU32>,
    /// Tokens whose signature does not verify.
    pub failed_tokens: Option<NonZeroU32>,
}
