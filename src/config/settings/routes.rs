//! `routes:` as `config/routes.rs` leaves them: who may come, with which tokens, how much and how long. `app/routes.rs`
//! makes the route table of it.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use http::Method;

use super::{Issuer, Limiting, Quota, Usage};

/// Whether a route wants to know who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthMode {
    /// No credentials: 401.
    Required,
    /// No credentials: anonymous. Bad credentials: 401 all the same.
    Optional,
    /// Credentials are not looked at.
    None,
    /// Bad credentials count as none. Only for the portal's logout, which must work with an expired token; not
    /// available in the file.
    Lenient,
}

/// Where a route looks for credentials. Where both are, the header counts: a browser cannot be made to send it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// The `Authorization` header.
    pub bearer: bool,
    /// The access cookie.
    pub cookie: bool,
    /// API keys, in either header that may carry one.
    pub api_key: bool,
}

impl Credentials {
    /// The `Authorization` header alone.
    pub const BEARER: Self = Self { bearer: true, cookie: false, api_key: false };
}

/// One route.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its name: label in metrics and logs.
    pub name: Arc<str>,
    /// Exact host names, lower case, without a port; empty: any.
    pub hosts: Vec<Arc<str>>,
    /// Path pattern: `/docs/{id}`, `/files/{*rest}`. A `{*rest}` pattern also matches its bare prefix with a slash.
    pub path: Arc<str>,
    /// Methods; empty: any. `GET` takes `HEAD` too.
    pub methods: Vec<Method>,
    /// Who may call.
    pub auth: AuthMode,
    /// Where credentials are looked for.
    pub credentials: Credentials,
    /// Whether tokens of our own are accepted.
    pub own_tokens: bool,
    /// Other issuers whose tokens are accepted.
    pub issuers: Vec<Arc<Issuer>>,
    /// Any one of these roles is needed; empty: none is.
    pub roles: Vec<Arc<str>>,
    /// All of these scopes are needed.
    pub scopes: Vec<Arc<str>>,
    /// `aud` accepted, whoever the issuer; `None`: `tokens.audience`, and each issuer's own.
    pub audience: Option<Arc<str>>,
    /// Limits, narrow before wide.
    pub limits: Limiting,
    /// Quotas, in the order of the file.
    pub quotas: Vec<Arc<Quota>>,
    /// Origins besides our own whose pages may call it and read its answers.
    pub allowed_origins: Vec<Arc<str>>,
    /// The cluster's name.
    pub cluster: Arc<str>,
    /// Prefix rewrite.
    pub rewrite: Option<Rewrite>,
    /// What is done with tokens while it is not known what was revoked.
    pub staleness: Staleness,
    /// Time-outs of one request.
    pub timeouts: RouteTimeouts,
    /// Largest request body, bytes; `None`: no limit.
    pub body_limit: Option<u64>,
    /// Pass the client's `Authorization` on to the upstream.
    pub forward_authorization: bool,
    /// Tunnel WebSockets (RFC 6455); else `Upgrade` is taken off.
    pub websocket: bool,
    /// Its answers are metered so; `None`: they are not looked at.
    pub usage: Option<Usage>,
}

/// How old the knowledge of what was revoked may be, while the store that tells it cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staleness {
    /// Up to this age it does as if it were current.
    pub most: Duration,
    /// Refuse every token when it is older; else accept what is not known to be revoked.
    pub deny: bool,
}

impl Staleness {
    /// What a route does that says nothing: five minutes, then refuse.
    pub const DEFAULT: Self = Self { most: Duration::from_mins(5), deny: true };

    /// Whether knowledge of this age is too old.
    #[must_use]
    pub fn refuses(self, age: Duration) -> bool {
        self.deny && age > self.most
    }
}

/// Replace a leading path prefix before forwarding. Works on whole segments of the canonical path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// The prefix to take off, e.g. `/api/rag`; the route's pattern lies below it (checked).
    pub prefix: Arc<str>,
    /// What stands there instead, e.g. `/`.
    pub to: Arc<str>,
}

/// Time-outs of one request.
#[derive(Debug, Clone, Copy)]
pub struct RouteTimeouts {
    /// From the request sent to the head of the answer: 504.
    pub first_byte: Duration,
    /// Silence in a body, either way: the stream is cut.
    pub idle: Duration,
    /// Silence in a tunnel, both ways together: it is closed.
    pub tunnel_idle: Duration,
    /// The whole exchange; `None`: unlimited (streams).
    pub total: Option<Duration>,
    /// The slowest request body; `None`: as slow as its sender likes.
    pub upload: Option<UploadRate>,
}

/// The slowest a request body may come in. Counted is the time we wait for its sender, not the service's.
#[derive(Debug, Clone, Copy)]
pub struct UploadRate {
    /// Bytes that earn a second of waiting back.
    pub bytes_per_second: NonZeroU64,
    /// How long its sender may stay below that.
    pub grace: Duration,
}
