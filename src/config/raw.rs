//! The file as a whole: its sections. What the JSON schema describes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    clusters::RawCluster,
    credential_stuffing::RawCredentialStuffing,
    forward_auth::RawForwardAuth,
    issuers::RawIssuer,
    item::{Item, Named},
    limits::RawLimit,
    listeners::RawListeners,
    lockout::RawLockout,
    oauth::RawOAuth,
    overload::RawOverload,
    passwords::RawPasswords,
    portal::RawPortal,
    quotas::RawQuota,
    routes::RawRoute,
    runtime::RawRuntime,
    security_events::RawSecurityEvents,
    shared_state::RawSharedState,
    store::RawStore,
    telemetry::RawTelemetry,
    tokens::RawTokens,
};

/// Configuration of the Portcullis gateway. Durations are written 250ms, 30s, 5m, 12h, 7d; sizes 64KiB, 10MiB. Every
/// value may hold "${NAME}" or "${NAME:-default}" from the environment ("$${" is a literal "${"); quote it inside [ ]
/// and { }.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Portcullis configuration")]
#[schemars(rename = "Settings")]
pub(super) struct RawSettings {
    /// Where clients and operators connect.
    #[serde(default)]
    pub(super) listeners: Item<RawListeners>,
    /// The process itself.
    #[serde(default)]
    pub(super) runtime: Item<RawRuntime>,
    /// When requests are sent away because there is too much to do.
    #[serde(default)]
    pub(super) overload: Item<RawOverload>,
    /// Where users, sessions, keys and audit live.
    #[serde(default)]
    pub(super) store: Item<RawStore>,
    /// What several gateways share besides the store.
    #[serde(default)]
    pub(super) shared_state: Item<RawSharedState>,
    /// Access and refresh tokens.
    pub(super) tokens: Item<RawTokens>,
    /// Other issuers by name, whose tokens routes may accept. A route accepts none unless it names them.
    #[serde(default)]
    pub(super) issuers: Item<Named<RawIssuer>>,
    /// Rules for passwords and the cost of hashing them.
    #[serde(default)]
    pub(super) passwords: Item<RawPasswords>,
    /// What failed logins cost, and how often anybody may register.
    #[serde(default)]
    pub(super) lockout: Item<RawLockout>,
    /// When many different failed logins are taken for an attack.
    #[serde(default)]
    pub(super) credential_stuffing: Item<RawCredentialStuffing>,
    /// Rate limits by name, for routes and the portal to refer to.
    #[serde(default)]
    pub(super) limits: Item<Named<RawLimit>>,
    /// Quotas by name, of requests, tokens or money in an hour, a day or a month, for routes to refer to.
    #[serde(default)]
    pub(super) quotas: Item<Named<RawQuota>>,
    /// Upstream services by name, for routes to refer to.
    #[serde(default)]
    pub(super) clusters: Item<Named<RawCluster>>,
    /// Which requests go where, and who may send them. Whatever no route matches is answered 404.
    #[serde(default)]
    pub(super) routes: Item<Vec<Item<RawRoute>>>,
    /// The built-in account endpoints.
    #[serde(default)]
    pub(super) portal: Item<RawPortal>,
    /// Services that may ask about tokens and revoke them.
    #[serde(default)]
    pub(super) oauth: Item<RawOAuth>,
    /// Which other proxies may ask whether they may forward a request.
    #[serde(default)]
    pub(super) forward_auth: Item<RawForwardAuth>,
    /// Who is told when something looks like an attack.
    #[serde(default)]
    pub(super) security_events: Item<RawSecurityEvents>,
    /// What the gateway says about itself.
    #[serde(default)]
    pub(super) telemetry: Item<RawTelemetry>,
}
