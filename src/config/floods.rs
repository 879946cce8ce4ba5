//! `listeners.public.flood:` what one address may do before anybody is known.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    item::Item,
    settings::Flood,
    units::{AtMost, Span},
};

/// What one address (IPv4 /32, IPv6 /64) may do in a window before it is refused early, cheaper than it could be judged.
/// Counted by each gateway for itself. Proxies in `listeners.trusted_proxies` are never refused; what their clients do
/// is counted for the clients.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Flood")]
pub(super) struct RawFlood {
    /// The time that the numbers below are for.
    window: Item<Span<1_000, 3_600_000>>,
    /// New connections; more are closed before TLS. Bounds what handshakes cost. Too low hurts clients that do not keep
    /// connections, and many behind one address.
    connections: Item<AtMost<1_000_000_000>>,
    /// What is no HTTP, no good request or for no route (400, 404, 405, 431, failed handshakes). Beyond it every request of
    /// the address is refused from its head (429), and new connections are closed.
    bad_requests: Item<AtMost<1_000_000_000>>,
    /// Tokens whose signature does not verify; they come back evenly over the window. Beyond it tokens of the address that
    /// were not verified lately are refused unread (429); those that were go on.
    failed_tokens: Item<AtMost<1_000_000_000>>,
}

impl Default for RawFlood {
    fn default() -> Self {
        Self {
            window: Item::of(Span::secs(10)),
            connections: Item::of(AtMost::of(5_000)),
            bad_requests: Item::of(AtMost::of(1_000)),
            failed_tokens: Item::of(AtMost::of(300)),
        }
    }
}

pub(super) fn check(raw: &RawFlood) -> Option<Flood> {
    Some(Flood {
        window: raw.window.value.as_ref()?.0,
        connections: raw.connections.value.as_ref()?.0,
        bad_requests: raw.bad_requests.value.as_ref()?.0,
        failed_tokens: raw.failed_tokens.value.as_ref()?.0,
    })
}
