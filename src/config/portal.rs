//! `portal:` the built-in account endpoints: register, log in, refresh, log out.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    api_keys::{self, RawApiKeys},
    checks::{Checks, values},
    item::{At, Item},
    limits::Limits,
    paths::PathPrefix,
    settings::{self, Portal},
    urls::Origin,
    words::{CookieName, Host, HostCookieName, Name},
};

/// Where the admin API is.
pub(super) const ADMIN_BASE: &str = "/admin/v1";

/// The account endpoints.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Portal")]
pub(super) struct RawPortal {
    /// Serve them, with the discovery document. Without them nobody can log in here. The key set is served either way,
    /// since services verify identities by it. Must be false with store.url: none.
    enabled: Item<bool>,
    /// Serve them only on this host. Keeps other origins' scripts away from the portal's cookies.
    host: Option<Item<Host>>,
    /// Paths they live under, for front ends that expect one or another; the same endpoints, sessions and cookies under
    /// each. None may lie below another.
    base_paths: Item<Vec<Item<PathPrefix>>>,
    /// Front ends to be mistaken for another service by: none, or fastapi for those written against a FastAPI service.
    /// fastapi weakens rules, and says so at start: on every route a missing token is 403 and not 401; a taken e-mail
    /// address is 400; `detail` is worded as FastAPI words it; and unless this file says otherwise passwords need 8
    /// characters, none is on a blocklist (`passwords.min_length`, `passwords.blocklist`), and refresh tokens travel in
    /// cookies (tokens.delivery). A login may also be a form (`OAuth2PasswordRequestForm`), from our own pages or those of
    /// `allowed_origins`.
    compat: Item<Compat>,
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
    /// Name of the cookie that carries an access token, for routes whose credentials take one. Set by logins and refreshes
    /// with delivery cookie, when there is such a route. Its prefix __Host- makes browsers keep neighbouring hosts from it.
    access_cookie_name: Item<HostCookieName>,
    /// Origins of web apps on other hosts whose pages may call the portal, read its answers and use its cookies; any
    /// script on them can act for its user. Preflights are answered for them. Browsers send the cookies from hosts of the
    /// same site only (app.example.com to auth.example.com): they are SameSite=Strict.
    allowed_origins: Item<Vec<Item<Origin>>>,
    /// What API keys users may make. Which routes take them is each route's `credentials`.
    api_keys: Item<RawApiKeys>,
    /// Where the admin API (/admin/v1) is served: none (nowhere), admin (at listeners.admin), or public (at
    /// listeners.public too, on `portal.host`). Wherever it is served, it takes nothing but an access token of ours with the
    /// role admin; admin only narrows who can reach it. The admin listener is plaintext: keep it on loopback, or tokens
    /// cross the network in the clear.
    admin_api: Item<AdminApi>,
}

/// Where the admin API is served.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum AdminApi {
    /// Nowhere.
    None,
    /// At the admin listener.
    Admin,
    /// At both listeners.
    Public,
}

/// Whose statuses, words and defaults are spoken.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Compat {
    /// Our own.
    None,
    /// Those of a FastAPI service.
    FastApi,
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
            base_paths: Item::of(vec![Item::of(PathPrefix("/auth".to_owned()))]),
            compat: Item::of(Compat::None),
            registration: Item::of(Registration::Open),
            default_role: Item::of(Name("user".to_owned())),
            limits: Item::default(),
            cookie_name: Item::of(CookieName("__Secure-portcullis-refresh".to_owned())),
            access_cookie_name: Item::of(HostCookieName("__Host-portcullis-access".to_owned())),
            allowed_origins: Item::default(),
            api_keys: Item::default(),
            admin_api: Item::of(AdminApi::Admin),
        }
    }
}

/// Whose defaults hold in the other sections.
pub(super) fn compat(item: &Item<RawPortal>) -> settings::Compat {
    match item.value.as_ref().and_then(|raw| raw.compat.value) {
        Some(Compat::FastApi) => settings::Compat::FastApi,
        Some(Compat::None) | None => settings::Compat::None,
    }
}

pub(super) fn check(item: Item<RawPortal>, no_store: bool, limits: &Limits, checks: &mut Checks) -> Option<Portal> {
    let compat = compat(&item);
    let at = item.at.or(&At::root(), "portal");
    let raw = item.value?;
    if no_store && raw.enabled.value == Some(true) {
        let place = raw.enabled.at.or(&at, "enabled");
        checks.error(&place, "contradicts store.url: none; accounts need a store, so say portal.enabled: false");
    }
    check_base_paths(&raw.base_paths, checks);
    if raw.default_role.value.as_ref().is_some_and(|role| role.0.eq_ignore_ascii_case("admin")) {
        checks.error(&raw.default_role.at, "anybody who registers would be an administrator");
    }
    checks.no_repeats(raw.allowed_origins.value.as_deref().unwrap_or_default());
    let limits_at = raw.limits.at.clone();
    for reference in raw.limits.value.iter().flatten().filter(|reference| limits.is_of_streams(reference)) {
        checks
            .error(&reference.at, format!("{} counts streams, and no answer of the portal is one", reference.quoted()));
    }
    let limits = raw.limits.value.and_then(|references| limits.resolve(&references, &limits_at, checks));
    let host = match raw.host {
        None => None,
        Some(host) => Some(Arc::from(host.value?.0)),
    };
    if let (Some(access), Some(refresh)) = (&raw.access_cookie_name.value, &raw.cookie_name.value)
        && access.0.eq_ignore_ascii_case(&refresh.0)
    {
        checks.error(&raw.access_cookie_name.at, "the name of portal.cookie_name too; each token needs its own");
    }
    let api_keys = api_keys::check(raw.api_keys, checks);
    Some(Portal {
        enabled: raw.enabled.value?,
        host,
        base_paths: values(raw.base_paths.value?)?.into_iter().map(|path| path.0.into()).collect(),
        compat: raw.compat.value.map(|_| compat)?,
        registration: match raw.registration.value? {
            Registration::Open => settings::Registration::Open,
            Registration::Closed => settings::Registration::Closed,
        },
        default_role: raw.default_role.value?.0.into(),
        limits: limits?,
        cookie_name: raw.cookie_name.value?.0.into(),
        access_cookie_name: raw.access_cookie_name.value?.0.into(),
        // Until a route takes one.
        sets_access_cookie: false,
        allowed_origins: values(raw.allowed_origins.value?)?.into_iter().map(|origin| origin.0.into()).collect(),
        api_keys: api_keys?,
        admin_api: match raw.admin_api.value? {
            AdminApi::None => settings::AdminApi::None,
            AdminApi::Admin => settings::AdminApi::Admin,
            AdminApi::Public => settings::AdminApi::Public,
        },
    })
}

fn check_base_paths(item: &Item<Vec<Item<PathPrefix>>>, checks: &mut Checks) {
    let Some(paths) = &item.value else { return };
    if paths.is_empty() {
        checks.error(&item.at, "empty; name at least one path, e.g. /auth (or switch the portal off: enabled: false)");
    }
    checks.no_repeats(paths);
    for path in paths {
        let Some(PathPrefix(text)) = &path.value else { continue };
        if text == "/" {
            checks.error(&path.at, "the portal would take every path; give it one of its own, e.g. /auth");
        }
        // Compared as the route table does: a mistyped login must not reach a service.
        let lower = text.to_ascii_lowercase();
        if lower == ADMIN_BASE || lower.strip_prefix(ADMIN_BASE).is_some_and(|rest| rest.starts_with('/')) {
            checks.error(&path.at, "lies under /admin/v1, where the admin API is");
        }
        let is_above = |other: &PathPrefix| lower.starts_with(&format!("{}/", other.0.to_ascii_lowercase()));
        if let Some(above) = paths.iter().filter_map(|other| other.value.as_ref()).find(|other| is_above(other)) {
            checks.error(&path.at, format!("lies below \"{above}\", where its cookies would come twice"));
        }
    }
}
