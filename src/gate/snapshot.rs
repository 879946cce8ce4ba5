//! What a request sees of the configuration: one immutable snapshot, loaded once per request and held until its end.
//!
//! Pools, limit counters, caches and sessions live outside, so that exchanging the rules costs no state.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, Method, Request, Response};
use tower::util::BoxCloneSyncService;

use crate::{
    config::settings::{AuthMode, Compat, Credentials, Rewrite, RouteTimeouts, Staleness},
    gate::{
        body::GateBody, exchange::Door, metered::Metering, open_streams::OpenStreams, quotas::RouteQuotas,
        refusal::Refusal, route_limits::RouteLimits, route_table::RouteTable,
    },
    policy::{headers::Ours, overload::Calls},
    telemetry::metrics::RouteMetrics,
    upstream::{cluster::Cluster, issuers::Issuer},
};

/// Where a route leads.
#[derive(Debug, Clone)]
pub enum Target {
    /// The account endpoints.
    Portal,
    /// An upstream cluster.
    Cluster(Arc<Cluster>),
}

/// Another issuer whose tokens a route accepts.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// The issuer.
    pub issuer: Arc<Issuer>,
    /// One of these must be in `aud`.
    pub audiences: Arc<[Arc<str>]>,
}

/// One route, ready to be applied.
#[derive(Debug)]
pub struct RouteEntry {
    /// Label in metrics and logs.
    pub name: Arc<str>,
    /// Exact host names, lower case, without a port; empty: any.
    pub hosts: Vec<Arc<str>>,
    /// Methods; empty: any.
    pub methods: Vec<Method>,
    /// Who may call.
    pub auth: AuthMode,
    /// How whoever calls it counts while there is too much to do.
    pub calls: Calls,
    /// Where credentials are looked for.
    pub credentials: Credentials,
    /// Any one of these.
    pub roles: Vec<Arc<str>>,
    /// All of these.
    pub scopes: Vec<Arc<str>>,
    /// Whether tokens of our own are accepted.
    pub own_tokens: bool,
    /// `aud` accepted in tokens of our own.
    pub audience: Arc<str>,
    /// Whose tokens are accepted besides.
    pub issuers: Vec<Accepted>,
    /// What it may be asked how often.
    pub limits: RouteLimits,
    /// How much of it may be used in a day or a month.
    pub quotas: RouteQuotas,
    /// Origins whose pages may read its answers, as browsers write them; empty: nothing is said of origins.
    pub allowed_origins: Vec<Arc<str>>,
    /// Where it leads.
    pub target: Target,
    /// Prefix rewrite.
    pub rewrite: Option<Rewrite>,
    /// What is done with tokens while it is not known what was revoked.
    pub staleness: Staleness,
    /// Time-outs.
    pub timeouts: RouteTimeouts,
    /// Largest request body, bytes.
    pub body_limit: Option<u64>,
    /// Pass `Authorization` on.
    pub forward_authorization: bool,
    /// Tunnel WebSockets.
    pub websocket: bool,
    /// Answers are metered so; `None`: not at all.
    pub metering: Option<Arc<Metering>>,
    /// Counters of this route, resolved once.
    pub metrics: Arc<RouteMetrics>,
}

impl RouteEntry {
    /// The issuer of this very `iss`, if the route accepts its tokens.
    #[must_use]
    pub fn issuer(&self, iss: &str) -> Option<&Arc<Issuer>> {
        self.issuers.iter().map(|accepted| &accepted.issuer).find(|issuer| *issuer.rules().issuer == *iss)
    }

    pub(super) fn takes(&self, method: &Method) -> bool {
        self.methods.is_empty()
            || self.methods.contains(method)
            || (method == Method::HEAD && self.methods.contains(&Method::GET))
    }
}

/// Who may ask for decisions, and where.
#[derive(Debug, Default)]
pub struct ForwardAuth {
    /// The portal's base paths, whether it is on or not.
    pub bases: Vec<Arc<str>>,
    /// Proxies that may ask.
    pub trusted: Vec<ipnet::IpNet>,
}

/// What a request sees of the configuration.
#[derive(Debug)]
pub struct Snapshot {
    /// Routes by host, path and method.
    pub routes: RouteTable,
    /// Those of the admin listener: the admin API's.
    pub admin_routes: RouteTable,
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// Who may ask for decisions, and where.
    pub forward_auth: ForwardAuth,
    /// `iss` of own tokens.
    pub issuer: Arc<str>,
    /// Clock skew forgiven on `exp` and `nbf`.
    pub leeway: Duration,
    /// How long own tokens live.
    pub access_ttl: Duration,
    /// Our own origin, as browsers write it.
    pub own_origin: Arc<str>,
    /// The host in it, without a port.
    pub own_host: Arc<str>,
    /// Name of the cookie that carries an access token.
    pub access_cookie: Arc<str>,
    /// Names of our own cookies, taken from the request and from upstream answers.
    pub own_cookies: Vec<Arc<str>>,
    /// Names, not reserved by themselves, under which some cluster is told who calls: no client may use them on any route.
    pub identity_headers: Vec<HeaderName>,
    /// Whose statuses and words refusals speak.
    pub compat: Compat,
    /// Request-id header: accepted from trusted proxies, set on every answer.
    pub request_id_header: HeaderName,
    /// What flows for callers: the same for every configuration.
    pub open_streams: Arc<OpenStreams>,
    /// The account endpoints; `None`: whatever is routed to them is a fault of ours.
    pub accounts: Option<Accounts>,
}

impl Snapshot {
    /// What is routed at a listener.
    #[must_use]
    pub const fn routes_at(&self, door: Door) -> &RouteTable {
        match door {
            Door::Public => &self.routes,
            Door::Admin => &self.admin_routes,
        }
    }

    /// What only we say in an answer.
    #[must_use]
    pub fn ours(&self) -> Ours<'_, Arc<str>> {
        let (identity, request_id) = (&self.identity_headers, &self.request_id_header);
        Ours { cookies: &self.own_cookies, identity, request_id }
    }
}

/// The account endpoints, made for one configuration.
pub type Accounts = BoxCloneSyncService<Request<GateBody>, Response<GateBody>, Refusal>;
