//! `clusters:` the services behind the gateway: where they are, how one endpoint is picked, how connections are kept.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    checks::{Checks, Noted},
    identity::{self, RawIdentity},
    item::{At, Item, Named},
    paths::RequestTarget,
    settings::{self, ClientTls, Cluster, Endpoint},
    tls,
    units::{Int, Span},
    urls::EndpointUrl,
    words::{self, FilePath, TlsName},
};

/// One upstream service.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Cluster")]
pub(super) struct RawCluster {
    /// URLs of its endpoints: http://host:port or https://host:port, one scheme for all, no path.
    endpoints: Item<Vec<Item<EndpointUrl>>>,
    /// How an endpoint is picked: `round_robin`, `least_requests` (the less busy of two random ones) or `consistent_hash` (the
    /// same client address, the same endpoint).
    #[serde(default)]
    balance: Item<Balance>,
    /// Active health checks. Without them an endpoint that is down costs each request sent to it a connect time-out.
    #[serde(default)]
    health_check: Option<Item<RawHealthCheck>>,
    /// TLS towards https endpoints. Without it the operating system's roots and the endpoint's host name are used.
    #[serde(default)]
    tls: Option<Item<RawClientTls>>,
    /// Host header sent upstream: preserve (what the client sent) or endpoint (the endpoint's own).
    #[serde(default)]
    host: Item<HostHeader>,
    /// For connecting, TLS included: 502 after it. Longer rides out a slow network; it holds requests of a dead endpoint.
    #[serde(default = "connect_timeout")]
    connect_timeout: Item<Span<10, 60_000>>,
    /// Connections kept for reuse.
    #[serde(default)]
    pool: Item<RawPool>,
    /// The signed identity sent to this cluster.
    #[serde(default)]
    identity: Item<RawIdentity>,
}

/// How an endpoint is picked.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Balance {
    /// In turn.
    #[default]
    RoundRobin,
    /// The less busy of two random ones.
    LeastRequests,
    /// The same client address, the same endpoint while it is healthy.
    ConsistentHash,
}

/// Host header sent upstream.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum HostHeader {
    /// What the client sent.
    #[default]
    Preserve,
    /// The endpoint's own host and port.
    Endpoint,
}

/// Active health checks.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "HealthCheck")]
pub(super) struct RawHealthCheck {
    /// Path (and query) asked with GET; any 2xx is healthy.
    path: Item<RequestTarget>,
    /// Time between two checks of an endpoint. Shorter notices a failure sooner; it costs the service more checks.
    #[serde(default = "interval")]
    interval: Item<Span<100, 3_600_000>>,
    /// For one check; not longer than the interval.
    #[serde(default = "check_timeout")]
    timeout: Item<Span<10, 60_000>>,
    /// Successes in a row that make an endpoint healthy.
    #[serde(default = "healthy_after")]
    healthy_after: Item<Int<1, 100>>,
    /// Failures in a row that make it unhealthy.
    #[serde(default = "unhealthy_after")]
    unhealthy_after: Item<Int<1, 100>>,
}

/// TLS towards the endpoints.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ClientTls")]
pub(super) struct RawClientTls {
    /// PEM file with the only roots to trust, for services with a private CA. A relative path starts at this file's
    /// folder.
    ca_file: Option<Item<FilePath>>,
    /// Name sent as SNI and checked in the certificate, where it is not the endpoint's host.
    server_name: Option<Item<TlsName>>,
}

/// Connections kept for reuse.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Pool")]
pub(super) struct RawPool {
    /// Idle connections kept for each endpoint. More saves connecting; each holds a socket at both ends.
    idle_per_endpoint: Item<Int<0, 10_000>>,
    /// How long an idle connection is kept. Keep it below the service's own keep-alive time-out.
    idle_timeout: Item<Span<1_000, 3_600_000>>,
}

fn connect_timeout() -> Item<Span<10, 60_000>> {
    Item::of(Span::secs(2))
}

fn interval() -> Item<Span<100, 3_600_000>> {
    Item::of(Span::secs(5))
}

fn check_timeout() -> Item<Span<10, 60_000>> {
    Item::of(Span::secs(2))
}

fn healthy_after() -> Item<Int<1, 100>> {
    Item::of(Int(2))
}

fn unhealthy_after() -> Item<Int<1, 100>> {
    Item::of(Int(3))
}

impl Default for RawPool {
    fn default() -> Self {
        Self { idle_per_endpoint: Item::of(Int(64)), idle_timeout: Item::of(Span::secs(60)) }
    }
}

/// The names, which resolve even when the cluster was wrong, and the clusters.
pub(super) fn check(item: Item<Named<RawCluster>>, checks: &mut Checks) -> (Vec<String>, Option<Vec<Arc<Cluster>>>) {
    let is_read = item.value.is_some();
    let entries = item.value.unwrap_or_default().0;
    let names = entries.iter().map(|(name, _)| name.clone()).collect();
    let clusters: Vec<_> = entries.into_iter().map(|(name, raw)| check_one(&name, raw, checks)).collect();
    let clusters = clusters.into_iter().map(|cluster| cluster.map(Arc::new)).collect::<Option<_>>();
    (names, clusters.filter(|_| is_read))
}

fn check_one(name: &str, item: Item<RawCluster>, checks: &mut Checks) -> Option<Cluster> {
    let at = item.at;
    if !words::is_name(name) {
        checks.error(&at, "expected a name (letters, digits, _ . -, at most 64)");
    }
    let raw = item.value?;
    let endpoints = check_endpoints(raw.endpoints, &at, checks);
    let health = match raw.health_check {
        None => Some(None),
        Some(health) => check_health(health, checks).map(Some),
    };
    let https = endpoints.as_ref().and_then(|endpoints| Some(endpoints.first()?.https));
    let tls = https.map(|https| check_tls(raw.tls, https, &at, checks));
    let identity = identity::check(raw.identity, name, &at, checks);
    let pool = raw.pool.value?;
    Some(Cluster {
        name: name.into(),
        endpoints: endpoints?,
        balance: match raw.balance.value? {
            Balance::RoundRobin => settings::Balance::RoundRobin,
            Balance::LeastRequests => settings::Balance::LeastRequests,
            Balance::ConsistentHash => settings::Balance::ConsistentHash,
        },
        health: health?,
        tls: tls?.ok()?,
        host: match raw.host.value? {
            HostHeader::Preserve => settings::HostHeader::Preserve,
            HostHeader::Endpoint => settings::HostHeader::Endpoint,
        },
        connect_timeout: raw.connect_timeout.value?.0,
        pool_idle_per_endpoint: pool.idle_per_endpoint.value?.get()?,
        pool_idle_timeout: pool.idle_timeout.value?.0,
        identity: identity?,
    })
}

fn check_endpoints(item: Item<Vec<Item<EndpointUrl>>>, parent: &At, checks: &mut Checks) -> Option<Vec<Endpoint>> {
    const WHY: &str = "a cluster needs at least one endpoint, e.g. http://127.0.0.1:8000";
    let at = item.at.or(parent, "endpoints");
    let items = checks.required(item, parent, "endpoints", WHY)?;
    if items.is_empty() {
        checks.error(&at, format!("empty; {WHY}"));
        return None;
    }
    checks.no_repeats(&items);
    let mut schemes = items.iter().filter_map(|item| Some((item, item.value.as_ref()?.0.https)));
    if let Some((_, first)) = schemes.next()
        && let Some((odd, _)) = schemes.find(|(_, https)| *https != first)
    {
        checks.error(&odd.at, "http and https endpoints in one cluster: a request could go out unencrypted by chance");
    }
    items.into_iter().map(|item| item.value.map(|url| url.0)).collect()
}

fn check_health(item: Item<RawHealthCheck>, checks: &mut Checks) -> Option<settings::HealthCheck> {
    let at = item.at;
    let raw = item.value?;
    let path = checks.required(raw.path, &at, "path", "e.g. /health");
    let (interval, timeout) = (raw.interval.value?.0, raw.timeout.value?.0);
    if timeout > interval {
        let place = if raw.timeout.is_written() { raw.timeout.at } else { raw.interval.at };
        checks.error(&place, "the check's timeout is longer than its interval");
    }
    Some(settings::HealthCheck {
        path: path?.0,
        interval,
        timeout,
        healthy_after: raw.healthy_after.value?.get()?,
        unhealthy_after: raw.unhealthy_after.value?.get()?,
    })
}

/// `None`: plaintext.
fn check_tls(
    item: Option<Item<RawClientTls>>,
    https: bool,
    parent: &At,
    checks: &mut Checks,
) -> Result<Option<ClientTls>, Noted> {
    let at = item.as_ref().map_or_else(|| parent.child("tls"), |item| item.at.clone());
    if !https {
        if item.is_some() {
            checks.error(&at, "contradicts endpoints: they are http");
        }
        return Ok(None);
    }
    let raw = item.map_or_else(|| Some(RawClientTls::default()), |item| item.value).ok_or(Noted)?;
    let server_name = match raw.server_name {
        None => None,
        Some(name) => Some(name.value.ok_or(Noted)?.0),
    };
    let (roots, place) = match raw.ca_file {
        None => (tls::system_roots(), at),
        Some(file) => {
            let pem = checks.pem(&file.at, &file.value.ok_or(Noted)?.0);
            (pem.and_then(|pem| tls::roots_of_file(&pem)), file.at)
        }
    };
    let made = roots.and_then(|roots| tls::client(roots, server_name));
    made.map(Some).map_err(|message| {
        checks.error(&place, message);
        Noted
    })
}
