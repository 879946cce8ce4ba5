//! `routes[].timeouts:` how long each part of a request may take.

use std::num::NonZeroU64;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{
    checks::Checks,
    item::Item,
    settings::{RouteTimeouts, UploadRate},
    units::{ByteRate, Span},
};

/// Time-outs of one request.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "RouteTimeouts")]
pub(in crate::config) struct RawRouteTimeouts {
    /// From the request sent to the head of the answer: 504 after it.
    first_byte: Item<Span<10, 3_600_000>>,
    /// Silence in a body, either way: the stream is cut after it. Streams that think for long need it long.
    idle: Item<Span<10, 3_600_000>>,
    /// Silence in a tunnel (upgrades), both ways together: it is closed after it. Longer than the pings of either side.
    tunnel_idle: Item<Span<10, 86_400_000>>,
    /// The whole exchange. Unset: unlimited, for streams.
    total: Option<Item<Span<10, 86_400_000>>>,
    /// Slowest request body: bytes a second such as 256B/s, or none. A sender that stays below it for `body_grace` is cut
    /// (408), so that bodies that drip in hold nothing for long. Only the time we wait for the sender counts, not the
    /// service's. Set none where a client may send little and seldom in one request.
    body_rate: Item<ByteRate>,
    /// How long a sender may stay below `body_rate`.
    body_grace: Item<Span<10, 3_600_000>>,
}

impl Default for RawRouteTimeouts {
    fn default() -> Self {
        Self {
            first_byte: Item::of(Span::secs(60)),
            idle: Item::of(Span::secs(60)),
            tunnel_idle: Item::of(Span::secs(3_600)),
            total: None,
            body_rate: Item::of(ByteRate(NonZeroU64::new(256))),
            body_grace: Item::of(Span::secs(30)),
        }
    }
}

pub(super) fn check_timeouts(raw: &RawRouteTimeouts, checks: &mut Checks) -> Option<RouteTimeouts> {
    let (first_byte, idle) = (raw.first_byte.value, raw.idle.value);
    let total = match &raw.total {
        None => None,
        Some(total) => Some(total.value?.0),
    };
    if let (Some(total_item), Some(total), Some(first_byte)) = (&raw.total, total, first_byte)
        && raw.first_byte.is_written()
        && total < first_byte.0
    {
        checks.error(&total_item.at, "shorter than first_byte, which could never be reached");
    }
    let grace = raw.body_grace.value?.0;
    let tunnel_idle = raw.tunnel_idle.value?.0;
    let upload = raw.body_rate.value?.0.map(|bytes_per_second| UploadRate { bytes_per_second, grace });
    Some(RouteTimeouts { first_byte: first_byte?.0, idle: idle?.0, tunnel_idle, total, upload })
}
