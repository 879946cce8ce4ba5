//! What one key of a route says against another: a route that asks for roles of callers it does not look at would be
//! open, whatever its author believed.

use super::{Around, Auth, Credential, RawRoute};
use crate::config::{checks::Checks, item::Item, limits::Limits, words::HttpMethod};

/// A route that asks for roles of callers it does not look at would be open, whatever its author believed.
pub(super) fn check_access(raw: &RawRoute, limits: &Limits, checks: &mut Checks) {
    let roles = raw.roles.value.as_deref().unwrap_or_default();
    let scopes = raw.scopes.value.as_deref().unwrap_or_default();
    checks.no_repeats(roles);
    checks.no_repeats(scopes);
    checks.no_repeats(raw.allowed_origins.value.as_deref().unwrap_or_default());
    let mode = match raw.auth.value {
        Some(Auth::None) => "none",
        Some(Auth::Optional) => "optional",
        Some(Auth::Required) | None => return,
    };
    if !roles.is_empty() {
        checks.error(&raw.roles.at, format!("contradicts auth: {mode}; roles need auth: required"));
    }
    if !scopes.is_empty() {
        checks.error(&raw.scopes.at, format!("contradicts auth: {mode}; scopes need auth: required"));
    }
    if mode == "none" {
        if raw.issuers.is_written() {
            checks.error(&raw.issuers.at, "contradicts auth: none; no token is looked at");
        }
        if let Some(audience) = &raw.audience {
            checks.error(&audience.at, "contradicts auth: none; no token is looked at");
        }
        for limit in raw.limits.value.iter().flatten() {
            if let Some(key) = limits.of_callers(limit) {
                checks.error(&limit.at, format!("contradicts auth: none; {} counts by {key}", limit.quoted()));
            }
        }
    }
}

/// A WebSocket is opened with GET.
pub(super) fn check_upgrades(raw: &RawRoute, checks: &mut Checks) {
    let upgrades = raw.upgrades.value.as_deref().unwrap_or_default();
    checks.no_repeats(upgrades);
    let methods = raw.matches.value.as_ref().and_then(|matches| matches.methods.value.as_deref()).unwrap_or_default();
    let gets = |method: &Item<HttpMethod>| method.value.as_ref().is_none_or(|method| method.0 == http::Method::GET);
    if !upgrades.is_empty() && !methods.is_empty() && !methods.iter().any(gets) {
        checks.error(&raw.upgrades.at, "contradicts match.methods; a WebSocket is opened with GET");
    }
}

/// Only the portal sets the cookie; and a route that looks at no credentials has no use for any.
pub(super) fn check_credentials(raw: &RawRoute, around: &Around, checks: &mut Checks) {
    let portal = around.portal;
    let Some(credentials) = &raw.credentials.value else { return };
    checks.no_repeats(credentials);
    if credentials.is_empty() {
        checks.error(&raw.credentials.at, "empty; name bearer, cookie, api_key or several");
    }
    if raw.credentials.is_written() && raw.auth.value == Some(Auth::None) {
        checks.error(&raw.credentials.at, "contradicts auth: none; no credentials are looked at");
    }
    let api_key = credentials.iter().find(|credential| credential.value == Some(Credential::ApiKey));
    if let (Some(api_key), true) = (api_key, around.no_store) {
        checks.error(&api_key.at, "contradicts store.url: none; without a store there are no API keys");
    }
    let cookie = credentials.iter().find(|credential| credential.value == Some(Credential::Cookie));
    if let (Some(cookie), Some(portal)) = (cookie, portal)
        && !portal.enabled
    {
        checks.error(&cookie.at, "contradicts portal.enabled: false; nobody sets the cookie");
    }
    let hosts = raw.matches.value.as_ref().and_then(|matches| matches.hosts.value.as_deref()).unwrap_or_default();
    if let (Some(cookie), Some(host)) = (cookie, portal.and_then(|portal| portal.host.as_ref()))
        && !hosts.is_empty()
        && !hosts.iter().any(|item| item.value.as_ref().is_none_or(|own| *own.0 == **host))
    {
        checks.error(&cookie.at, format!("contradicts portal.host: browsers send the cookie to {host} alone"));
    }
}
