//! `forward_auth:` which other proxies may ask whether they may forward a request.

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    checks::{Checks, values},
    item::Item,
    settings::{ForwardAuth, Listeners},
    words::Network,
};

/// Decisions for other proxies: nginx (`auth_request`), Traefik, Caddy and Envoy ask /auth/forward/… whether they may
/// forward a request, and as whom.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ForwardAuth")]
pub(super) struct RawForwardAuth {
    /// Addresses or networks of the proxies that may ask; each must be among `listeners.trusted_proxies` too. Whoever is
    /// named here is told identities, and is believed which request it asks about. No client may reach these paths
    /// through it.
    trusted: Item<Vec<Item<Network>>>,
}

/// `listeners`: `None` when they are not right themselves; then nothing is said of how the two lists go together.
pub(super) fn check(
    item: Item<RawForwardAuth>,
    listeners: Option<&Listeners>,
    checks: &mut Checks,
) -> Option<ForwardAuth> {
    let items = item.value?.trusted.value?;
    checks.no_repeats(&items);
    let believed = |network: &IpNet| {
        listeners.is_none_or(|listeners| listeners.trusted_proxies.iter().any(|proxies| proxies.contains(network)))
    };
    for one in &items {
        if let Some(Network(network)) = &one.value
            && !believed(network)
        {
            checks.error(
                &one.at,
                "is not among listeners.trusted_proxies: its X-Forwarded-For would not be believed, and all its clients \
                 share one address in limits and logs",
            );
        }
    }
    Some(ForwardAuth { trusted: values(items)?.into_iter().map(|network| network.0).collect() })
}
