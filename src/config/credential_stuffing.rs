//! `credential_stuffing:` when many different failed logins from one part of the network are taken for an attack.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    item::Item,
    units::{Int, Span},
};
use crate::policy::stuffing::StuffingRules;

/// Who tries many people's passwords is refused for a while. Counted by each gateway for itself, in memory: of pairs of
/// account and password nothing is kept that leads back to them.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "CredentialStuffing")]
pub(super) struct RawCredentialStuffing {
    /// Look for it.
    enabled: Item<bool>,
    /// Different pairs of account and password that fail within the window from one address (IPv6: /64), with at least a
    /// quarter as many accounts. One person, or an office behind one address, stays far below.
    pairs: Item<Int<20, 2_000>>,
    /// The same from a network: /24, of IPv6 /48.
    network_pairs: Item<Int<20, 2_000>>,
    /// Counting starts anew so long after the first failure.
    window: Item<Span<60_000, 86_400_000>>,
    /// How long logins from there are then refused (429) that bring no device cookie.
    refuse_for: Item<Span<1_000, 86_400_000>>,
}

impl Default for RawCredentialStuffing {
    fn default() -> Self {
        Self {
            enabled: Item::of(true),
            pairs: Item::of(Int(100)),
            network_pairs: Item::of(Int(500)),
            window: Item::of(Span::secs(900)),
            refuse_for: Item::of(Span::secs(900)),
        }
    }
}

/// The outer `None`: something is wrong.
#[expect(clippy::option_option, reason = "switched off is a setting; a broken section is none")]
pub(super) fn check(item: Item<RawCredentialStuffing>) -> Option<Option<StuffingRules>> {
    let raw = item.value?;
    let rules = StuffingRules {
        pairs: raw.pairs.value?.get::<u32>()?.try_into().ok()?,
        network_pairs: raw.network_pairs.value?.get::<u32>()?.try_into().ok()?,
        window: raw.window.value?.0,
        refuse_for: raw.refuse_for.value?.0,
    };
    Some(raw.enabled.value?.then_some(rules))
}
