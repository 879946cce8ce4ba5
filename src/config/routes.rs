//! `routes:` which requests go where, and who may send them. Whatever no route matches is refused.

mod contradictions;
mod timeouts;
mod usage;

use std::{fmt, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::{
    contradictions::{check_access, check_credentials, check_upgrades},
    timeouts::{RawRouteTimeouts, check_timeouts},
    usage::{RawUsage, check_usage},
};
use super::{
    checks::{Checks, values},
    issuers::{Issuers, OWN},
    item::{At, Item},
    limits::Limits,
    paths::{PathPattern, PathPrefix},
    quotas::{Quotas, check_metered},
    routing::{Claim, Table},
    settings::{AuthMode, Credentials, Portal, Rewrite, Route, Staleness},
    units::{BodyLimit, Span},
    urls::Origin,
    words::{Host, HttpMethod, Name, Scope, Text},
};
use crate::policy::preset::Preset;

/// One route.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Route")]
pub(super) struct RawRoute {
    /// Its name: the label in metrics and logs.
    name: Item<Name>,
    /// Which requests it takes.
    #[serde(rename = "match")]
    matches: Item<RawMatch>,
    /// Who may call: required (a valid access token), optional (anonymous too, but a bad token is refused) or none
    /// (credentials are not looked at: the path is public).
    #[serde(default = "auth")]
    auth: Item<Auth>,
    /// Where credentials are looked for: any of bearer (an access token in the Authorization header), cookie (one in
    /// `portal.access_cookie_name`, which a login with delivery cookie sets) and `api_key`. What a browser asks for by itself (pages, images, downloads,
    /// EventSource) can carry a cookie only. A cookie counts for safe methods, and for others only from the gateway's own
    /// pages or `allowed_origins`: services must not change anything on GET. And `api_key`: a user's API key, in the
    /// Authorization header or in X-API-Key, which is the gateway's own on such a route and not passed on.
    #[serde(default = "credentials")]
    credentials: Item<Vec<Item<Credential>>>,
    /// Whose tokens are accepted: names of issuers, and own for the gateway's own. All of the others' are refused.
    #[serde(default = "issuers")]
    issuers: Item<Vec<Item<Name>>>,
    /// Any one of these roles is needed. Empty: none is. Users of the portal's have `portal.default_role`, or what
    /// `portcullis users roles` gave them; what roles another issuer gives its mapping says.
    #[serde(default)]
    roles: Item<Vec<Item<Name>>>,
    /// All of these scopes are needed. In this version only other issuers give scopes: our own tokens have none.
    #[serde(default)]
    scopes: Item<Vec<Item<Scope>>>,
    /// aud accepted here instead of tokens.audience and the issuers' audiences.
    #[serde(default)]
    audience: Option<Item<Text>>,
    /// Names of limits, at most eight. Narrow ones are asked before wide ones, whatever the order here: session, subject,
    /// client, org, address, header, route; a pair before its narrower part alone.
    #[serde(default)]
    limits: Item<Vec<Item<Name>>>,
    /// Names of quotas. A request must be within each; it counts in all of them or in none.
    #[serde(default)]
    quotas: Item<Vec<Item<Name>>>,
    /// Origins of web apps on other hosts whose pages may call this route and read its answers, credentials included.
    /// Preflights are answered here, and what the service says of origins is replaced. Empty: CORS is the service's own
    /// affair.
    #[serde(default)]
    allowed_origins: Item<Vec<Item<Origin>>>,
    /// Name of the cluster it goes to.
    cluster: Item<Name>,
    /// Replaces a leading part of the path before forwarding.
    #[serde(default)]
    rewrite: Option<Item<RawRewrite>>,
    /// What is done with tokens while the store cannot be read, so that what is revoked elsewhere is not learned of.
    #[serde(default)]
    revocation: Item<RawRevocation>,
    /// Time-outs of one request.
    #[serde(default)]
    timeouts: Item<RawRouteTimeouts>,
    /// Largest request body, or none. More is refused with 413 before it is read on. Bodies stream, so a large limit
    /// costs no memory here, but the service must cope with what it lets through.
    #[serde(default = "body_limit")]
    body_limit: Item<BodyLimit>,
    /// Pass the client's Authorization header on. Then the service holds tokens it could use elsewhere; it gets the
    /// caller's signed identity without it.
    #[serde(default)]
    forward_authorization: Item<bool>,
    /// Protocols that a client may switch to: websocket (over HTTP/1.1). The handshake passes everything a request does; what
    /// follows is tunnelled as it is. Browsers cannot set headers on one: they need the cookie among the credentials.
    /// Empty: Upgrade is taken off, and the service sees an ordinary request.
    #[serde(default)]
    upgrades: Item<Vec<Item<Upgrade>>>,
    /// The answers come from a language model: tokens are metered as they flow. Unset: nothing is looked at.
    #[serde(default)]
    usage: Option<Item<RawUsage>>,
}

/// Which requests a route takes.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Match")]
pub(super) struct RawMatch {
    /// Exact host names, lower case, without a port. Empty: any host. A route that names the host goes before one that
    /// does not.
    #[serde(default)]
    hosts: Item<Vec<Item<Host>>>,
    /// Path pattern: /docs, /docs/{id}, /files/{*rest} (which takes /files/ too). The more literal pattern goes first.
    path: Item<PathPattern>,
    /// Methods. Empty: any. GET takes HEAD too.
    #[serde(default)]
    methods: Item<Vec<Item<HttpMethod>>>,
}

/// Who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Auth {
    /// A valid access token.
    Required,
    /// Anonymous too; a bad token is refused.
    Optional,
    /// Anybody.
    None,
}

/// Where an access token is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Credential {
    /// The Authorization header.
    Bearer,
    /// The access cookie.
    Cookie,
    /// An API key.
    ApiKey,
}

/// What a client may switch to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Upgrade {
    /// RFC 6455.
    Websocket,
}

impl fmt::Display for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Websocket => "websocket",
        })
    }
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bearer => "bearer",
            Self::Cookie => "cookie",
            Self::ApiKey => "api_key",
        })
    }
}

/// Replaces a leading part of the path before forwarding.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Rewrite")]
pub(super) struct RawRewrite {
    /// The part to take off: whole segments, and a literal beginning of the pattern.
    prefix: Item<PathPrefix>,
    /// What stands there instead: / or a path.
    to: Item<PathPrefix>,
}

/// What is done with tokens while what is revoked elsewhere is not learned of.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Revocation")]
pub(super) struct RawRevocation {
    /// How old the last good look at the store may be.
    max_staleness: Item<Span<1_000, 86_400_000>>,
    /// Then: deny (503 with Retry-After for whoever shows a token) or allow (what is known to be revoked stays refused).
    on_stale: Item<OnStale>,
}

/// What is done with tokens when it is not known for too long what was revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum OnStale {
    /// 503.
    Deny,
    /// As if nothing had been revoked since.
    Allow,
}

impl Default for RawRevocation {
    fn default() -> Self {
        Self { max_staleness: Item::of(Span::secs(300)), on_stale: Item::of(OnStale::Deny) }
    }
}

fn auth() -> Item<Auth> {
    Item::of(Auth::Required)
}

fn credentials() -> Item<Vec<Item<Credential>>> {
    Item::of(vec![Item::of(Credential::Bearer)])
}

fn issuers() -> Item<Vec<Item<Name>>> {
    Item::of(vec![Item::of(Name(OWN.to_owned()))])
}

fn body_limit() -> Item<BodyLimit> {
    Item::of(BodyLimit(Some(10 << 20)))
}

/// What a route may refer to.
pub(super) struct Around<'a> {
    pub(super) clusters: &'a [String],
    pub(super) limits: &'a Limits,
    pub(super) quotas: &'a Quotas,
    pub(super) issuers: &'a Issuers,
    pub(super) portal: Option<&'a Portal>,
    /// What clusters are told in besides.
    pub(super) presets: &'a [Preset],
    /// `store.url: none`.
    pub(super) no_store: bool,
}

pub(super) fn check(item: Item<Vec<Item<RawRoute>>>, around: &Around, checks: &mut Checks) -> Option<Vec<Route>> {
    let mut table = Table::new(around.portal, around.presets);
    let mut names = std::collections::HashMap::new();
    let mut routes = Vec::new();
    for item in item.value? {
        if let Some(raw) = &item.value
            && let Some(name) = &raw.name.value
            && let Some(first) = names.insert(name.0.clone(), item.at.path.clone())
        {
            checks.error(&raw.name.at, format!("{first} has the name {} already", raw.name.quoted()));
        }
        routes.push(check_one(item, around, &mut table, checks));
    }
    routes.into_iter().collect()
}

fn check_one(item: Item<RawRoute>, around: &Around, table: &mut Table, checks: &mut Checks) -> Option<Route> {
    let at = item.at;
    let raw = item.value?;
    check_access(&raw, around.limits, checks);
    check_credentials(&raw, around, checks);
    check_upgrades(&raw, checks);
    let name = checks.required(raw.name, &at, "name", "metrics and logs call the route by it");
    let claim = check_match(raw.matches, &at, checks);
    if let Some(claim) = &claim {
        table.claim(claim, checks);
    }
    let clusters: Vec<_> = around.clusters.iter().map(String::as_str).collect();
    let cluster_at = raw.cluster.is_written();
    let cluster = checks.resolve(&raw.cluster, &clusters, "cluster").and_then(|index| clusters.get(index).copied());
    if !cluster_at {
        checks.error(&at.child("cluster"), "missing; name the cluster it goes to");
    }
    let issuers_at = raw.issuers.at.or(&at, "issuers");
    let issuers = around.issuers.resolve(raw.issuers, checks);
    if let (true, Some((true, _)), Some(Auth::Required | Auth::Optional)) = (around.no_store, &issuers, raw.auth.value)
    {
        let message = "own contradicts store.url: none; without a store there are no tokens of the gateway's own: name \
                       other issuers";
        checks.error(&issuers_at, message);
    }
    let limits_at = raw.limits.at.or(&at, "limits");
    let limits = raw.limits.value.and_then(|references| around.limits.resolve(&references, &limits_at, checks));
    let quotas = around.quotas.resolve(&raw.quotas, raw.auth.value == Some(Auth::None), checks);
    let rewrite = match raw.rewrite {
        None => Some(None),
        Some(rewrite) => check_rewrite(rewrite, claim.as_ref().map(|claim| claim.path.as_str()), checks).map(Some),
    };
    let timeouts = raw.timeouts.value.and_then(|timeouts| check_timeouts(&timeouts, checks));
    let has_upgrades = raw.upgrades.value.as_ref().is_some_and(|upgrades| !upgrades.is_empty());
    let usage = match raw.usage {
        None => Some(None),
        Some(usage) => check_usage(usage, has_upgrades, checks).map(Some),
    };
    if let (Some(quotas), Some(usage)) = (&quotas, &usage) {
        check_metered(quotas, usage.as_ref(), &raw.quotas, checks);
    }
    let staleness = raw.revocation.value.and_then(|raw| {
        Some(Staleness { most: raw.max_staleness.value?.0, deny: raw.on_stale.value? == OnStale::Deny })
    });
    let audience = match raw.audience {
        None => Some(None),
        Some(audience) => audience.value.map(|audience| Some(Arc::from(audience.0))),
    };
    let (own_tokens, issuers) = issuers?;
    let claim = claim?;
    let credentials = values(raw.credentials.value?)?;
    Some(Route {
        name: name?.0.into(),
        hosts: claim.hosts.iter().map(|host| Arc::from(host.as_str())).collect(),
        path: claim.path.into(),
        methods: claim.methods,
        auth: match raw.auth.value? {
            Auth::Required => AuthMode::Required,
            Auth::Optional => AuthMode::Optional,
            Auth::None => AuthMode::None,
        },
        credentials: Credentials {
            bearer: credentials.contains(&Credential::Bearer),
            cookie: credentials.contains(&Credential::Cookie),
            api_key: credentials.contains(&Credential::ApiKey),
        },
        own_tokens: own_tokens && !around.no_store,
        issuers,
        roles: values(raw.roles.value?)?.into_iter().map(|role| role.0.into()).collect(),
        scopes: values(raw.scopes.value?)?.into_iter().map(|scope| scope.0.into()).collect(),
        audience: audience?,
        limits: limits?,
        quotas: quotas?,
        allowed_origins: values(raw.allowed_origins.value?)?.into_iter().map(|origin| origin.0.into()).collect(),
        cluster: cluster?.into(),
        rewrite: rewrite?,
        staleness: staleness?,
        timeouts: timeouts?,
        body_limit: raw.body_limit.value?.0,
        forward_authorization: raw.forward_authorization.value?,
        websocket: values(raw.upgrades.value?)?.contains(&Upgrade::Websocket),
        usage: usage?,
    })
}

fn check_match(item: Item<RawMatch>, parent: &At, checks: &mut Checks) -> Option<Claim> {
    let at = item.at.or(parent, "match");
    let raw = checks.required(item, parent, "match", "it needs at least a path")?;
    checks.no_repeats(raw.hosts.value.as_deref().unwrap_or_default());
    checks.no_repeats(raw.methods.value.as_deref().unwrap_or_default());
    let path_at = raw.path.at.or(&at, "path");
    let path = checks.required(raw.path, &at, "path", "e.g. /docs/{id} or /{*rest} for every path");
    let hosts = raw.hosts.value.and_then(values);
    let methods = raw.methods.value.and_then(values);
    Some(Claim {
        at: path_at,
        route: parent.path.clone(),
        hosts: hosts?.into_iter().map(|host| host.0).collect(),
        path: path?.0,
        methods: methods?.into_iter().map(|method| method.0).collect(),
    })
}

fn check_rewrite(item: Item<RawRewrite>, pattern: Option<&str>, checks: &mut Checks) -> Option<Rewrite> {
    let at = item.at;
    let raw = item.value?;
    let prefix_at = raw.prefix.at.clone();
    let prefix = checks.required(raw.prefix, &at, "prefix", "the leading part of the path to take off, e.g. /api");
    let to = checks.required(raw.to, &at, "to", "what stands there instead, e.g. /");
    if let (Some(prefix), Some(pattern)) = (&prefix, pattern)
        && !is_literal_prefix(&prefix.0, pattern)
    {
        checks.error(&prefix_at, "not a leading part of match.path, in whole segments without parameters");
    }
    Some(Rewrite { prefix: prefix?.0.into(), to: to?.0.into() })
}

/// Whether every path that fits `pattern` begins with the segments of `prefix`.
fn is_literal_prefix(prefix: &str, pattern: &str) -> bool {
    if prefix == "/" {
        return true;
    }
    let mut segments = pattern.split('/');
    prefix.split('/').all(|wanted| segments.next().is_some_and(|segment| segment == wanted && !segment.contains('{')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_rewrite_takes_off_whole_literal_segments() {
        for (prefix, pattern) in
            [("/", "/x"), ("/api", "/api/{*rest}"), ("/api", "/api"), ("/api/rag", "/api/rag/{id}")]
        {
            assert!(is_literal_prefix(prefix, pattern), "{prefix} of {pattern}");
        }
        for (prefix, pattern) in [
            ("/ap", "/api/x"),
            ("/api/rag", "/api/{id}"),
            ("/api/{id}", "/api/{id}"),
            ("/api", "/{*rest}"),
            ("/a/b", "/a"),
        ] {
            assert!(!is_literal_prefix(prefix, pattern), "{prefix} of {pattern}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_off_is_always_there(prefix in "(/[a-c]{1,2}){1,3}", pattern in "(/([a-c]{1,2}|\\{p\\})){1,4}") {
            if is_literal_prefix(&prefix, &pattern) {
                let concrete = pattern.replace("{p}", "value");
                let rest = concrete.strip_prefix(&prefix);
                prop_assert!(rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
            }
        }
    }
}
