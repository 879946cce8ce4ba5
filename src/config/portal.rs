//! `portal:` the built-in account endpoints: register, log in, refresh, log out.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    checks::{Checks, values},
    item::Item,
    limits::Limits,
    paths::PathPrefix,
    settings::{self, Portal},
    urls::Origin,
    words::{CookieName, Host, Name},
};

/// The account endpoints.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Portal")]
pub(super) struct RawPortal {
    /// Serve them, with the JWKS and discovery documents. Without them nobody can log in here.
    enabled: Item<bool>,
    /// Serve them only on this host. Keeps other origins' scripts away from the portal's cookies.
    host: Option<Item<Host>>,
    /// Path they live under.
    base_path: Item<PathPrefix>,
    /// Who may register: open (anyone) or closed (nobody).
    registration: Item<Registration>,
    /// Role of a newly registered user. Never admin: anybody who can register would be one.
    default_role: Item<Name>,
    /// Names of limits on every portal endpoint. An address limit here slows password guessing and mass registration.
    limits: Item<Vec<Item<Name>>>,
    /// Name of the refresh cookie. Its prefix (__Secure- or __Host-) makes browsers refuse it over plaintext. __Host-
    /// also keeps neighbouring hosts from setting it; it is then sent with every request to this host, not the portal's
    /// only.
    cookie_name: Item<CookieName>,
    /// Origins of web apps on other hosts whose requests may use the refresh cookie; any script on them can act for its
    /// user. This lifts our own check only: the gateway answers no preflight and sends no CORS headers yet, so a proxy
    /// in front must add them, or the app be served from the gateway's own origin.
    allowed_origins: Item<Vec<Item<Origin>>>,
}

/// Who may register.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Registration {
    /// Anyone.
    Open,
    /// Nobody.
    Closed,
}

impl Default for RawPortal {
    fn default() -> Self {
        Self {
            enabled: Item::of(true),
            host: None,
            base_path: Item::of(PathPrefix("/auth".to_owned())),
            registration: Item::of(Registration::Open),
            default_role: Item::of(Name("user".to_owned())),
            limits: Item::default(),
            cookie_name: Item::of(CookieName("__Secure-portcullis-refresh".to_owned())),
            allowed_origins: Item::default(),
        }
    }
}

pub(super) fn check(item: Item<RawPortal>, limits: &Limits, checks: &mut Checks) -> Option<Portal> {
    let raw = item.value?;
    if raw.base_path.value.as_ref().is_some_and(|path| path.0 == "/") {
        checks.error(&raw.base_path.at, "the portal would take every path; give it one of its own, e.g. /auth");
    }
    if raw.default_role.value.as_ref().is_some_and(|role| role.0.eq_ignore_ascii_case("admin")) {
        checks.error(&raw.default_role.at, "anybody who registers would be an administrator");
    }
    checks.no_repeats(raw.allowed_origins.value.as_deref().unwrap_or_default());
    let limits = raw.limits.value.and_then(|references| limits.resolve(&references, checks));
    let host = match raw.host {
        None => None,
        Some(host) => Some(Arc::from(host.value?.0)),
    };
    Some(Portal {
        enabled: raw.enabled.value?,
        host,
        base_path: raw.base_path.value?.0.into(),
        registration: match raw.registration.value? {
            Registration::Open => settings::Registration::Open,
            Registration::Closed => settings::Registration::Closed,
        },
        default_role: raw.default_role.value?.0.into(),
        limits: limits?,
        cookie_name: raw.cookie_name.value?.0.into(),
        allowed_origins: values(raw.allowed_origins.value?)?.into_iter().map(|origin| origin.0.into()).collect(),
    })
}
