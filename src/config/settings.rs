//! The checked settings: what a valid file means, with nothing left to interpret but the URLs of PostgreSQL and Redis
//! (the drivers').
//!
//! Plain data. Every reference is resolved or known to resolve, every number is inside its range, every secret is
//! loaded. Built only by the checks beside this file; the rest of the program never sees YAML.

mod admin_api;
mod api_keys;
mod floods;
mod identity;
mod issuers;
mod limits;
mod lockout;
mod overload;
mod quotas;
mod routes;
mod security_events;
mod usage;

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Uri, uri::Authority};
use ipnet::IpNet;
use secrecy::{SecretSlice, SecretString};

pub use self::{
    admin_api::AdminApi,
    api_keys::ApiKeys,
    floods::Flood,
    identity::{Identity, IdentityHeaders},
    issuers::{Issuer, IssuerKeys, KeySource},
    limits::{Cap, KeyPart, Limit, LimitKey, LimitScope, Limiting, UnderWay},
    lockout::Lockout,
    overload::{MaxMemory, Overload},
    quotas::Quota,
    routes::{AuthMode, Credentials, Rewrite, Route, RouteTimeouts, Staleness, UploadRate},
    security_events::Webhook,
    usage::Usage,
};
pub(crate) use super::words::is_name;
use super::written::Written;
use crate::policy::{
    keys::{Algorithm, SigningKey},
    oauth_client::OAuthClient,
    preset::Preset,
    stuffing::StuffingRules,
    trace::Sampling,
};

/// One whole configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where clients and operators connect.
    pub listeners: Listeners,
    /// Where the facts live; `None`: nowhere. Then there is no portal, and no route takes tokens of our own.
    pub store: Option<Store>,
    /// What gateways share and may lose.
    pub shared_state: SharedState,
    /// Worker threads of the runtime; `None`: one per core.
    pub workers: Option<usize>,
    /// How much may be going on before requests are sent away.
    pub overload: Overload,
    /// Access and refresh tokens.
    pub tokens: Tokens,
    /// Other issuers whose tokens routes may accept.
    pub issuers: Vec<Arc<Issuer>>,
    /// Password rules and hashing costs.
    pub passwords: Passwords,
    /// Counters of failed logins.
    pub lockout: Lockout,
    /// Named rate limits, in the order of the file.
    pub limits: Vec<Arc<Limit>>,
    /// Named caps on what is under way at once, in the order of the file.
    pub caps: Vec<Arc<Cap>>,
    /// Named quotas, in the order of the file.
    pub quotas: Vec<Arc<Quota>>,
    /// Named upstream clusters.
    pub clusters: Vec<Arc<Cluster>>,
    /// Routes, in the order of the file.
    pub routes: Vec<Route>,
    /// The built-in account endpoints.
    pub portal: Portal,
    /// Who may ask about tokens and revoke them. Empty: nobody can.
    pub oauth: Vec<OAuthClient>,
    /// Who may ask for decisions.
    pub forward_auth: ForwardAuth,
    /// When failed logins are taken for credential stuffing; `None`: never.
    pub stuffing: Option<StuffingRules>,
    /// Who is told of security events.
    pub webhooks: Vec<Arc<Webhook>>,
    /// Logs and traces.
    pub telemetry: Telemetry,
    /// What it was made of: for telling one configuration from another.
    pub written: Arc<Written>,
}

impl Settings {
    /// The algorithms that something is signed with by a key of the gateway's own.
    #[must_use]
    pub fn signing_algorithms(&self) -> SigningAlgorithms {
        let own = self.tokens.algorithm;
        let mut others = Vec::new();
        for algorithm in self.presets().filter_map(Preset::algorithm) {
            if algorithm != own && !others.contains(&algorithm) {
                others.push(algorithm);
            }
        }
        SigningAlgorithms { own, others }
    }

    /// The presets of clusters.
    pub fn presets(&self) -> impl Iterator<Item = Preset> {
        self.clusters.iter().filter_map(|cluster| cluster.identity.preset)
    }
}

/// The algorithms that keys of the gateway's own are needed for, each named once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningAlgorithms {
    /// That of access tokens and the identity.
    pub own: Algorithm,
    /// Those that nothing but a preset asks for.
    pub others: Vec<Algorithm>,
}

impl SigningAlgorithms {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Algorithm> {
        std::iter::once(self.own).chain(self.others.iter().copied())
    }
}

/// Who may ask for decisions.
#[derive(Debug, Clone)]
pub struct ForwardAuth {
    /// Proxies that may ask; each is among [`Listeners::trusted_proxies`] too. Default: none.
    pub trusted: Vec<IpNet>,
}

/// Both listeners.
#[derive(Debug, Clone)]
pub struct Listeners {
    /// Where clients connect.
    pub public: Listener,
    /// Where operators connect (`/metrics`, `/livez`, …); plaintext, default loopback.
    pub admin: SocketAddr,
    /// Peers whose `X-Forwarded-For` is believed, right to left. Default: none.
    pub trusted_proxies: Vec<IpNet>,
    /// How long a drain waits for requests in flight before it cuts them.
    pub drain: Duration,
}

/// The public listener.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Address and port; port 0 takes a free one.
    pub bind: SocketAddr,
    /// TLS by rustls; `None`: plaintext.
    pub tls: Option<ServerTls>,
    /// Serve HTTP/2 with prior knowledge on the plaintext port instead of HTTP/1.1.
    pub h2c: bool,
    /// Connections open at once; for a new one the quietest goes, or it waits in the kernel's queue.
    pub max_connections: usize,
    /// Connections of one address (/32, /64) open at once; `None`: as many as there are. Trusted proxies may have all.
    pub max_connections_per_address: Option<NonZeroU32>,
    /// Bytes of request line and headers together; above: 431 (h1) or a stream error (h2).
    pub max_header_bytes: usize,
    /// Number of header fields.
    pub max_headers: usize,
    /// Concurrent streams of one HTTP/2 connection.
    pub h2_max_streams: u32,
    /// How long a connection may stay in each phase.
    pub timeouts: ConnectionTimeouts,
    /// What one address may do before anybody is known.
    pub flood: Flood,
}

/// How long a client connection may stay in each phase before it is closed.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionTimeouts {
    /// TLS handshake, from accept.
    pub tls_handshake: Duration,
    /// From accept (or the end of the handshake) to the first byte.
    pub first_byte: Duration,
    /// From the first byte of a request's head to its last.
    pub header: Duration,
    /// Between an answer and the next request on a kept-alive connection.
    pub idle: Duration,
}

/// A certificate chain and its key, both PEM, already read and checked to belong together.
#[derive(Clone)]
pub struct ServerTls {
    /// The rustls configuration, ALPN `h2` and `http/1.1`.
    pub config: Arc<rustls::ServerConfig>,
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerTls(…)")
    }
}

/// Where the facts live.
#[derive(Debug, Clone)]
pub struct Store {
    /// Which engine, and how to reach it.
    pub engine: Engine,
    /// The key that seals secrets at rest: 32 bytes. `None` only with SQLite: made once beside the database.
    pub master_key: Option<SecretSlice<u8>>,
    /// Connections in the pool (PostgreSQL) or readers (SQLite).
    pub pool: u32,
    /// How long a request waits for a connection or an answer before the store counts as lost.
    pub timeout: Duration,
}

/// The SQL engine.
#[derive(Debug, Clone)]
pub enum Engine {
    /// Embedded; one gateway.
    Sqlite {
        /// The database file. Its folder also holds `master.key`.
        path: PathBuf,
    },
    /// Production; the URL may hold a password.
    Postgres {
        /// `postgres://…`
        url: SecretString,
    },
}

/// What gateways share besides the store.
#[derive(Debug, Clone, Default)]
pub struct SharedState {
    /// Counts shared limits; `None`: each gateway counts for itself.
    pub redis: Option<Redis>,
}

/// The Redis that counts shared limits.
#[derive(Debug, Clone)]
pub struct Redis {
    /// `redis://`, `rediss://` or `redis+unix://`; may hold a password.
    pub url: SecretString,
    /// PEM with the only roots to trust; `None`: the operating system's.
    pub ca: Option<Vec<u8>>,
    /// A Redis Cluster, and hosts and ports of more of its servers that tell its map; `None`: one server.
    pub cluster: Option<Vec<(String, u16)>>,
    /// Who says which server it is; `None`: the one of `url`.
    pub sentinel: Option<Sentinel>,
    /// Put before every key.
    pub prefix: Arc<str>,
    /// How long a request waits for an answer.
    pub deadline: Duration,
    /// Between two looks at a Redis that was lost.
    pub retry: Duration,
}

/// The sentinels of a Redis.
#[derive(Debug, Clone)]
pub struct Sentinel {
    /// What they call it.
    pub service: Arc<str>,
    /// Host and port of each; at least one.
    pub servers: Vec<(String, u16)>,
    /// The name they know us by, if they ask for one.
    pub username: Option<Arc<str>>,
    /// The password they ask for.
    pub password: Option<SecretString>,
}

/// Access and refresh tokens.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// `iss` of own tokens and base of the discovery document: an http(s) URL without a trailing slash.
    pub issuer: Arc<str>,
    /// `aud` of own tokens, which every route inherits unless it names its own.
    pub audience: Arc<str>,
    /// Algorithm of the key that signs access tokens, unless `secret` does, and the identity.
    pub algorithm: Algorithm,
    /// Access tokens are signed with this (HS256) instead of that key.
    pub secret: Option<SecretSlice<u8>>,
    /// The keys that sign, one for each algorithm, given by the operator. Only without a store; empty there: made anew at
    /// each start.
    pub signing_keys: Vec<Arc<SigningKey>>,
    /// How long the keys in the store sign.
    pub rotation: crate::policy::key_life::KeyRules,
    /// Life of an access token.
    pub access_ttl: Duration,
    /// Clock skew forgiven on `exp` and `nbf`.
    pub leeway: Duration,
    /// How long after its token and the leeway an open stream of a session that nobody has refreshed goes on.
    pub stream_grace: Duration,
    /// Life and grace of refresh tokens.
    pub refresh: crate::policy::refresh::RefreshRules,
    /// Live sessions a user may have; `None`: any number.
    pub max_sessions: Option<NonZeroU32>,
    /// Default delivery of the refresh token.
    pub delivery: crate::policy::refresh::Delivery,
    /// Entries in the verified-token cache.
    pub cache_entries: u64,
}

/// Password rules and hashing costs.
#[derive(Debug, Clone)]
pub struct Passwords {
    /// The rules (NIST SP 800-63B-4).
    pub rules: crate::policy::password::PasswordRules,
    /// argon2id memory, KiB; at least 19456.
    pub argon2_memory_kib: u32,
    /// argon2id iterations; at least 2.
    pub argon2_iterations: u32,
    /// argon2id lanes.
    pub argon2_lanes: u32,
    /// Hashing threads (at nice 19).
    pub hash_threads: usize,
    /// Hash jobs that may wait; more are answered 503.
    pub hash_queue: usize,
    /// Of these, jobs of one address (IPv4 /32, IPv6 /64); at most `hash_queue`.
    pub hash_queue_per_address: usize,
}

/// One upstream cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its name: metric label and `aud` of the identity token unless `identity` says otherwise.
    pub name: Arc<str>,
    /// `http://` or `https://` URLs, one scheme for all, no path.
    pub endpoints: Vec<Endpoint>,
    /// How one is picked.
    pub balance: Balance,
    /// Active health checks; `None`: every endpoint counts as healthy.
    pub health: Option<HealthCheck>,
    /// TLS towards the endpoints, present when they are `https`.
    pub tls: Option<ClientTls>,
    /// `Host` sent upstream.
    pub host: HostHeader,
    /// TCP (and TLS) connect.
    pub connect_timeout: Duration,
    /// Idle connections kept per endpoint.
    pub pool_idle_per_endpoint: usize,
    /// How long an idle connection is kept.
    pub pool_idle_timeout: Duration,
    /// How it is told who calls.
    pub identity: Identity,
}

/// One address of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Scheme is https.
    pub https: bool,
    /// `host:port`, the port always present.
    pub authority: Authority,
}

/// How an endpoint is picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// In turn.
    RoundRobin,
    /// The less busy of two random ones, by our own counters.
    LeastRequests,
    /// The same client address, the same endpoint while it is healthy (ketama).
    ConsistentHash,
}

/// An active health check: GET `path`, any 2xx is healthy.
#[derive(Debug, Clone)]
pub struct HealthCheck {
    /// Path and query.
    pub path: Uri,
    /// Between two checks.
    pub interval: Duration,
    /// For one check.
    pub timeout: Duration,
    /// Consecutive successes that make it healthy.
    pub healthy_after: usize,
    /// Consecutive failures that make it unhealthy.
    pub unhealthy_after: usize,
}

/// TLS towards a cluster.
#[derive(Clone)]
pub struct ClientTls {
    /// The rustls configuration (roots from the system or a file).
    pub config: Arc<rustls::ClientConfig>,
    /// Name sent as SNI and checked in the certificate; `None`: the endpoint's host.
    pub server_name: Option<rustls::pki_types::ServerName<'static>>,
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// `Host` sent upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostHeader {
    /// What the client sent.
    Preserve,
    /// The endpoint's authority.
    Endpoint,
}

/// The account endpoints.
#[derive(Debug, Clone)]
pub struct Portal {
    /// Serve them at all; needs a store.
    pub enabled: bool,
    /// Serve them only on this host (lower case, no port).
    pub host: Option<Arc<str>>,
    /// Paths they live under, no trailing slash; at least one, none below another.
    pub base_paths: Vec<Arc<str>>,
    /// Whose statuses, words and defaults are spoken.
    pub compat: Compat,
    /// Who may register.
    pub registration: Registration,
    /// Role of a registered user.
    pub default_role: Arc<str>,
    /// Limits on every portal route, narrow before wide.
    pub limits: Limiting,
    /// Name of the refresh cookie, `__Secure-` first.
    pub cookie_name: Arc<str>,
    /// Name of the cookie that carries an access token, `__Host-` first.
    pub access_cookie_name: Arc<str>,
    /// Whether it is set: when a route takes one.
    pub sets_access_cookie: bool,
    /// Origins besides our own whose pages may call it, read its answers and use its cookies.
    pub allowed_origins: Vec<Arc<str>>,
    /// What API keys its users may make.
    pub api_keys: ApiKeys,
    /// Where the admin API is served.
    pub admin_api: AdminApi,
}

/// Whose statuses, words and defaults are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compat {
    /// Our own.
    #[default]
    None,
    /// Those of services written with `FastAPI`, for front ends that were written against one: 403 for missing
    /// credentials, 400 for a taken address, `FastAPI`'s `detail`; passwords from 8 characters without a blocklist and
    /// refresh tokens in a cookie, unless the file says otherwise.
    FastApi,
}

/// Who may register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    /// Anyone.
    Open,
    /// Nobody: 403.
    Closed,
}

/// Logs and the request id's header.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// Log format.
    pub format: LogFormat,
    /// Filter in `tracing`'s words, e.g. `info,portcullis=debug`.
    pub filter: String,
    /// One line per request.
    pub access_log: bool,
    /// A warning for each request whose answer's head took this long or longer.
    pub slow_request: Option<Duration>,
    /// Where spans go; `None`: nowhere.
    pub otlp: Option<Otlp>,
    /// Request-id header accepted from trusted proxies and set on every answer.
    pub request_id_header: HeaderName,
}

/// A collector of spans.
#[derive(Debug, Clone)]
pub struct Otlp {
    /// Takes `ExportTraceServiceRequest`s.
    pub endpoint: Uri,
    /// For `https`.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Sent to it; the values are marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Of traces that begin here.
    pub sampling: Sampling,
    /// For one request to it.
    pub timeout: Duration,
}

/// Log format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}
