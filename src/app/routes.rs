//! From settings to the [`Snapshot`] that requests see: the configured routes, and the portal's endpoints as routes
//! like any other (key set and claims too while the portal is off). A limit has one counter, whichever routes name it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::{HeaderName, Method, Uri};

use super::quotas::{self, Ledgers};
use crate::{
    config::settings::{
        self, AdminApi, AuthMode, Cap, Credentials, Limit, Limiting, Route, RouteTimeouts, Settings, Staleness, Usage,
    },
    gate::{
        metered::Metering,
        open_streams::OpenStreams,
        quotas::RouteQuotas,
        route_limits::{RouteCap, RouteLimit, RouteLimits},
        route_table::{PatternFault, RouteTable},
        snapshot::{Accepted, Accounts, ForwardAuth, RouteEntry, Snapshot, Target},
    },
    policy::{cross_site::origin_of, headers::is_reserved, limit_headers::quoted, overload::Calls, preset::Preset},
    portal::{
        endpoints::{ADMIN_BASE, ADMIN_ROLE, ENDPOINTS, Endpoint, Served},
        key_sets::PRESET_KEYS,
    },
    store::{limits::Limiter, redis::Redis},
    telemetry::metrics::Metrics,
    upstream::{cluster::Cluster, issuers::Issuer},
};

/// For a whole portal request: a form that drips in holds its place no longer than this.
const PORTAL_TOTAL: Duration = Duration::from_secs(30);

/// Time-outs of the portal's endpoints: small bodies from a browser, no upstream.
const PORTAL_TIMEOUTS: RouteTimeouts = RouteTimeouts {
    first_byte: Duration::from_secs(30),
    idle: Duration::from_secs(10),
    tunnel_idle: Duration::ZERO,
    total: Some(PORTAL_TOTAL),
    upload: None,
};

/// The counters of every configured limit, by name: one for all routes that name it.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) rates: HashMap<Arc<str>, RouteLimit>,
    pub(super) caps: HashMap<Arc<str>, RouteCap>,
}

impl Counters {
    /// Tells how many keys each has.
    pub(super) fn publish(&self) {
        for limit in self.rates.values() {
            limit.metrics.keys.set_count(limit.limiter.len());
        }
        for cap in self.caps.values() {
            cap.metrics.keys.set_count(cap.in_flight.len());
        }
    }
}

/// Makes the counters, but for those that `before` has: of a rate that has not changed, and of a cap that counts by the
/// same, since what is under way stays so.
pub(super) fn counters(
    settings: &Settings,
    redis: Option<&Arc<Redis>>,
    metrics: &Metrics,
    before: Option<(&Settings, &Counters)>,
) -> Counters {
    let rate = |limit: &Arc<Limit>| {
        // Whoever has looked on keeps its counts when it begins to refuse.
        let same = |old: &Arc<Limit>| Limit { shadow: limit.shadow, ..Limit::clone(old) } == **limit;
        let same = before.filter(|(old, _)| old.limits.iter().any(same));
        if let Some(kept) = same.and_then(|(_, counters)| counters.rates.get(&limit.name)) {
            return (Arc::clone(&limit.name), RouteLimit { shadow: limit.shadow, ..kept.clone() });
        }
        let route_limit = RouteLimit {
            name: Arc::clone(&limit.name),
            quoted_name: quoted(&limit.name).into(),
            key: limit.key.clone(),
            shadow: limit.shadow,
            limiter: Arc::new(Limiter::new(limit, redis, limit.max_keys)),
            // What a client sees is a full bucket and the time that fills it: the burst is what it may spend at once.
            quota: limit.burst.get(),
            window: limit.period.mul_f64(f64::from(limit.burst.get()) / f64::from(limit.requests.get())),
            metrics: metrics.limit(&limit.name),
        };
        (Arc::clone(&limit.name), route_limit)
    };
    let cap = |cap: &Arc<Cap>| {
        let kept = before
            .and_then(|(_, counters)| counters.caps.get(&cap.name))
            .filter(|kept| kept.key == cap.key && kept.of == cap.of);
        let route_cap = RouteCap {
            name: Arc::clone(&cap.name),
            quoted_name: quoted(&cap.name).into(),
            key: cap.key.clone(),
            shadow: cap.shadow,
            of: cap.of,
            most: cap.most.get(),
            in_flight: kept.map(|kept| Arc::clone(&kept.in_flight)).unwrap_or_default(),
            metrics: metrics.limit(&cap.name),
        };
        (Arc::clone(&cap.name), route_cap)
    };
    Counters { rates: settings.limits.iter().map(rate).collect(), caps: settings.caps.iter().map(cap).collect() }
}

/// The parts that outlive a snapshot and that routes refer to.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) clusters: &'a [Arc<Cluster>],
    pub(super) issuers: &'a [Arc<Issuer>],
    pub(super) counters: &'a Counters,
    pub(super) ledgers: &'a Ledgers,
    pub(super) open_streams: &'a Arc<OpenStreams>,
    pub(super) metrics: &'a Metrics,
}

/// What requests will see of these settings.
pub(super) fn snapshot(
    settings: &Settings,
    parts: Parts<'_>,
    accounts: Option<Accounts>,
) -> Result<Snapshot, PatternFault> {
    Ok(Snapshot {
        routes: table(settings, parts)?,
        admin_routes: admin_table(settings, parts)?,
        trusted_proxies: settings.listeners.trusted_proxies.clone(),
        forward_auth: ForwardAuth {
            bases: settings.portal.base_paths.clone(),
            trusted: settings.forward_auth.trusted.clone(),
        },
        issuer: Arc::clone(&settings.tokens.issuer),
        leeway: settings.tokens.leeway,
        access_ttl: settings.tokens.access_ttl,
        own_origin: origin_of(&settings.tokens.issuer).unwrap_or_default().into(),
        own_host: own_host(&settings.tokens.issuer),
        access_cookie: Arc::clone(&settings.portal.access_cookie_name),
        own_cookies: own_cookies(settings),
        identity_headers: identity_headers(&settings.clusters),
        compat: settings.portal.compat,
        request_id_header: settings.telemetry.request_id_header.clone(),
        open_streams: Arc::clone(parts.open_streams),
        accounts,
    })
}

fn own_host(issuer: &str) -> Arc<str> {
    let url = issuer.parse::<Uri>().ok();
    url.as_ref().and_then(Uri::host).unwrap_or_default().to_ascii_lowercase().into()
}

/// The access cookie too when no route takes one: browsers may still hold those of another configuration.
fn own_cookies(settings: &Settings) -> Vec<Arc<str>> {
    let portal = &settings.portal;
    [&portal.cookie_name, &portal.access_cookie_name, &settings.lockout.device_cookie].map(Arc::clone).into()
}

fn identity_headers(clusters: &[Arc<settings::Cluster>]) -> Vec<HeaderName> {
    let all = clusters.iter().flat_map(|cluster| cluster.identity.headers.all());
    let mut names: Vec<_> = all.filter(|name| !is_reserved(name)).cloned().collect();
    names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    names.dedup();
    names
}

fn table(settings: &Settings, parts: Parts<'_>) -> Result<RouteTable, PatternFault> {
    let mut table = RouteTable::default();
    if let Some(host) = &settings.portal.host {
        table.set_portal_host(Arc::clone(host));
    }
    if settings.portal.enabled {
        let mut bases = settings.portal.base_paths.clone();
        if settings.portal.admin_api == AdminApi::Public {
            bases.push(ADMIN_BASE.into());
        }
        table.set_portal_bases(bases);
    }
    for endpoint in ENDPOINTS.iter().filter(|endpoint| is_served(endpoint, settings)) {
        let paths = endpoint.full_paths(&settings.portal.base_paths);
        let entry = portal_entry(endpoint, settings, parts);
        if endpoint.of_services() {
            table.insert_for_services(&paths, entry)?;
        } else {
            table.insert_portal(&paths, entry)?;
        }
    }
    for keys in PRESET_KEYS.iter().filter(|keys| settings.presets().any(|preset| preset == keys.preset)) {
        let entry = own_entry(keys.name, &Method::GET, AuthMode::None, 0, settings, parts);
        let entry = RouteEntry { calls: Calls::Vital, ..entry };
        let paths = [keys.path().to_owned()];
        match keys.preset {
            // Its readers ask the host that they are told for `iss`: their own.
            Preset::Pomerium => table.insert_for_services(&paths, entry)?,
            _ => table.insert_portal(&paths, entry)?,
        }
    }
    for route in &settings.routes {
        // The configuration's checks have seen to it that there is one; were there none, the route would stay closed.
        if let Some(cluster) = parts.clusters.iter().find(|cluster| *cluster.name() == route.cluster) {
            table.insert(&route.hosts, &route.path, entry(route, cluster, settings, parts))?;
        }
    }
    Ok(table)
}

/// What is routed at the admin listener: the admin API alone, by whatever name it is reached.
fn admin_table(settings: &Settings, parts: Parts<'_>) -> Result<RouteTable, PatternFault> {
    let mut table = RouteTable::default();
    if settings.portal.enabled && settings.portal.admin_api != AdminApi::None {
        for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.served == Served::ToAdmins) {
            table.insert_for_services(&endpoint.full_paths(&[]), portal_entry(endpoint, settings, parts))?;
        }
    }
    Ok(table)
}

/// Whether it is at the public listener.
fn is_served(endpoint: &Endpoint, settings: &Settings) -> bool {
    match endpoint.served {
        Served::WithPortal => settings.portal.enabled,
        Served::WithOAuth => settings.portal.enabled && !settings.oauth.is_empty(),
        Served::ToAdmins => settings.portal.enabled && settings.portal.admin_api == AdminApi::Public,
        Served::Always => true,
    }
}

fn entry(route: &Route, cluster: &Arc<Cluster>, settings: &Settings, parts: Parts<'_>) -> RouteEntry {
    RouteEntry {
        name: Arc::clone(&route.name),
        hosts: route.hosts.clone(),
        methods: route.methods.clone(),
        auth: route.auth,
        calls: Calls::ByCaller,
        credentials: route.credentials,
        roles: route.roles.clone(),
        scopes: route.scopes.clone(),
        own_tokens: route.own_tokens,
        issuers: route.issuers.iter().filter_map(|issuer| accepted(route, issuer, parts.issuers)).collect(),
        audience: route.audience.clone().unwrap_or_else(|| Arc::clone(&settings.tokens.audience)),
        limits: limits(&route.name, &route.limits, parts.counters),
        quotas: quotas::of_route(route, parts.ledgers),
        allowed_origins: route.allowed_origins.clone(),
        target: Target::Cluster(Arc::clone(cluster)),
        rewrite: route.rewrite.clone(),
        staleness: route.staleness,
        timeouts: route.timeouts,
        body_limit: route.body_limit,
        forward_authorization: route.forward_authorization,
        websocket: route.websocket,
        metering: route.usage.as_ref().map(|usage| metering(usage, &route.name, parts.metrics)),
        metrics: parts.metrics.route(&route.name),
    }
}

fn metering(usage: &Usage, route: &str, metrics: &Metrics) -> Arc<Metering> {
    Arc::new(Metering { usage: usage.clone(), metrics: metrics.usage(route) })
}

/// An issuer as a route takes its tokens: meant for the route's own audience, else for the issuer's.
fn accepted(route: &Route, settings: &Arc<settings::Issuer>, issuers: &[Arc<Issuer>]) -> Option<Accepted> {
    let issuer = issuers.iter().find(|issuer| issuer.rules().name == settings.rules.name)?;
    let audiences = match &route.audience {
        Some(audience) => Arc::from([Arc::clone(audience)]),
        None => settings.audiences.clone().into(),
    };
    Some(Accepted { issuer: Arc::clone(issuer), audiences })
}

fn portal_entry(endpoint: &Endpoint, settings: &Settings, parts: Parts<'_>) -> RouteEntry {
    let entry = own_entry(endpoint.name, &endpoint.method, endpoint.auth, endpoint.body_limit, settings, parts);
    let entry = RouteEntry { calls: endpoint.calls(), ..entry };
    // The portal's limits are its users'; a service asks about all of them from one address. Only tries to be taken for
    // a service count against it.
    if endpoint.proves_client() {
        RouteEntry { limits: entry.limits.of_failures(), ..entry }
    } else if endpoint.served == Served::ToAdmins {
        // No page of another origin acts for an administrator, whatever origins the portal lists.
        RouteEntry { roles: vec![ADMIN_ROLE.into()], allowed_origins: Vec::new(), ..entry }
    } else if endpoint.of_services() {
        RouteEntry { limits: RouteLimits::default(), ..entry }
    } else {
        entry
    }
}

/// Something the gateway answers itself.
fn own_entry(
    name: &'static str,
    method: &Method,
    auth: AuthMode,
    body_limit: u64,
    settings: &Settings,
    parts: Parts<'_>,
) -> RouteEntry {
    RouteEntry {
        name: name.into(),
        hosts: Vec::new(),
        methods: vec![method.clone()],
        auth,
        calls: Calls::ByCaller,
        // A page that has its token in the cookie alone may ask who it is, and leave.
        credentials: Credentials { cookie: settings.portal.sets_access_cookie, ..Credentials::BEARER },
        roles: Vec::new(),
        scopes: Vec::new(),
        own_tokens: true,
        issuers: Vec::new(),
        audience: Arc::clone(&settings.tokens.audience),
        limits: limits(name, &settings.portal.limits, parts.counters),
        quotas: RouteQuotas::default(),
        allowed_origins: settings.portal.allowed_origins.clone(),
        target: Target::Portal,
        rewrite: None,
        staleness: Staleness::DEFAULT,
        timeouts: PORTAL_TIMEOUTS,
        body_limit: Some(body_limit),
        forward_authorization: false,
        websocket: false,
        metering: None,
        metrics: parts.metrics.route(name),
    }
}

fn limits(route: &str, named: &Limiting, counters: &Counters) -> RouteLimits {
    let rates = named.rates.iter().filter_map(|limit| counters.rates.get(&limit.name).cloned()).collect();
    let caps = named.caps.iter().filter_map(|cap| counters.caps.get(&cap.name).cloned()).collect();
    RouteLimits::new(route, rates, caps)
}
