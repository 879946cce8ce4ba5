//! Every metric, declared once: the table below is the struct, the registration, the help text and the reference page.
//!
//! The hot path neither locks nor allocates: what carries a name from the configuration is resolved to a handle at
//! set-up ([`Metrics::route`], [`Metrics::cluster`], …), what carries a closed label is an array. Names follow
//! Prometheus' conventions: `portcullis_*`, base units, `_total` on counters.

mod cells;
mod exemplars;
mod exposition;
mod labels;

use std::{collections::HashSet, fmt, fmt::Write, sync::Arc, time::Duration};

use http::{Method, StatusCode};
use prometheus_client::{metrics::MetricType, registry::Registry};

use self::cells::{Build, Cell, Exported, LabelRow};
pub use self::{
    cells::{Counter, Each, Gauge, Histogram, Label, Name, Named, Rare, Sampled, Told},
    exemplars::{Traced, TracedHistogram},
    exposition::Format,
    labels::{
        ApiKeyLookup, AuthDecision, CacheResult, ClusterName, ConnectResult, ConnectionError, ConnectionResult,
        DeliveryResult, EndpointName, FetchResult, FileSha256, FloodKind, HashResult, IssuerName, LimitName,
        LimitResult, LockoutResult, PacedCall, PoolState, QuotaName, QuotaResult, ReadResult, RefreshResult,
        ReloadResult, RevocationKind, RouteName, SealingResult, SharedStateCall, SharedStateResult, ShedCause,
        SignatureCheck, SpanResult, StatusClass, StreamKind, TokenKind, TokenSource, UpstreamResult, Verb, WebhookName,
    },
};
use crate::policy::{
    key_life::KeyState, lockout::Counter as Lockouts, overload::Class, reason::Reason, stuffing::Reach,
    webhook::SecurityEvent,
};

/// Requests of one route. Cells are made when a combination is first seen; after that it is three loads and an add.
pub type RequestCells = Rare<Reason, Rare<Verb, Rare<StatusClass, Counter>>>;

/// One line of the table.
struct Row {
    name: &'static str,
    kind: MetricType,
    help: String,
    labels: Vec<LabelRow>,
}

macro_rules! table {
    ($($(#[doc = $help:literal])+ $field:ident: $cell:ty = $name:literal;)*) => {
        /// Every metric of the program.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $($(#[doc = $help])+ pub $field: Arc<$cell>,)*
        }

        impl Metrics {
            /// All at zero.
            #[must_use]
            pub fn new() -> Self {
                let mut registry = Registry::with_prefix("portcullis");
                $(
                    let $field = Arc::<$cell>::default();
                    // The encoder ends each help text with a full stop of its own.
                    let help = concat!($($help),+).trim().trim_end_matches('.');
                    registry.register($name, help, Exported(Arc::clone(&$field)));
                )*
                Self { registry, $($field,)* }
            }

            fn rows() -> Vec<Row> {
                vec![$({
                    let mut labels = Vec::new();
                    <$cell>::describe(&mut labels);
                    Row { name: $name, kind: <$cell>::TYPE, help: concat!($($help),+).trim().to_owned(), labels }
                },)*]
            }
        }
    };
}

table! {
    /// Requests answered. Parse-level refusals of the HTTP library are not among them: see connection errors.
    requests: Named<RouteName, RequestCells> = "requests";
    /// From a request's head to the last byte of its answer. In OpenMetrics with exemplars of sampled requests.
    request_duration: Named<RouteName, TracedHistogram> = "request_duration_seconds";
    /// Requests whose answer's last byte has not been sent.
    requests_in_flight: Gauge = "requests_in_flight";
    /// Admitted requests whose answer has not begun: what `overload.max_in_flight` bounds.
    requests_unanswered: Gauge = "requests_unanswered";
    /// `overload.max_in_flight`.
    requests_unanswered_limit: Gauge = "requests_unanswered_limit";
    /// Requests sent away because there was too much to do.
    requests_shed: Each<Class, Each<ShedCause, Counter>> = "requests_shed";
    /// Who is sent away for want of memory. 0: nobody, 1: the anonymous, 2: refreshes too, 3: everybody.
    memory_pressure: Gauge = "memory_pressure";
    /// Memory of this process that is resident.
    memory_resident: Gauge = "memory_resident_bytes";
    /// What it is held against: `overload.max_memory` or the cgroup's limit; 0: nothing.
    memory_limit: Gauge = "memory_limit_bytes";
    /// How late a task runs that was due: workers are busy, or the machine is.
    runtime_lag: Histogram = "runtime_lag_seconds";
    /// What flows for callers with a token and would end with their right to it. What is over at once is not counted.
    open_streams: Each<StreamKind, Gauge> = "open_streams";
    /// Open streams that were ended because the right to them was gone.
    streams_cut: Rare<Reason, Counter> = "streams_cut";
    /// From a request sent to the head of its answer.
    upstream_first_byte: Named<ClusterName, Histogram> = "upstream_first_byte_seconds";
    /// Requests sent to a cluster.
    upstream_requests: Named<ClusterName, Each<UpstreamResult, Counter>> = "upstream_requests";
    /// New connections to a cluster's endpoints.
    upstream_connects: Named<ClusterName, Each<ConnectResult, Counter>> = "upstream_connects";
    /// 1 while an endpoint is healthy, else 0.
    upstream_endpoint_healthy: Named<ClusterName, Named<EndpointName, Gauge>> = "upstream_endpoint_healthy";
    /// Client connections open now, TLS handshakes included.
    connections_open: Gauge = "connections_open";
    /// Client connections that wait for a request without holding buffers.
    connections_parked: Gauge = "connections_parked";
    /// Client connections that have ended.
    connections: Each<ConnectionResult, Counter> = "connections";
    /// Client connections that failed.
    connection_errors: Each<ConnectionError, Counter> = "connection_errors";
    /// What was refused early, because its address asks too much before anybody is known.
    floods_refused: Each<FloodKind, Counter> = "floods_refused";
    /// Signatures of access tokens that were not among the verified ones.
    signature_checks: Each<SignatureCheck, Counter> = "signature_checks";
    /// What authentication decided.
    auth_decisions: Each<AuthDecision, Rare<Reason, Counter>> = "auth_decisions";
    /// Look-ups in the verified-token cache.
    token_cache: Each<CacheResult, Counter> = "token_cache";
    /// API keys that were shown, by what they were known by. Requests wait for the store when they are found, unknown or
    /// lost; busy are those that were sent away because too many waited.
    api_key_lookups: Each<ApiKeyLookup, Counter> = "api_key_lookups";
    /// Attempts to fetch the keys of another issuer.
    issuer_fetches: Named<IssuerName, Each<FetchResult, Counter>> = "issuer_fetches";
    /// Keys of another issuer that can verify.
    issuer_keys: Named<IssuerName, Gauge> = "issuer_keys";
    /// Seconds since the keys of another issuer were last fetched. Above 86400 they are used no more.
    issuer_keys_age: Named<IssuerName, Gauge> = "issuer_keys_age_seconds";
    /// Refreshes of a session.
    refresh: Each<RefreshResult, Counter> = "refresh";
    /// Password hashes waiting for a thread.
    hash_queue_length: Gauge = "hash_queue_length";
    /// Password hashes that may wait for a thread.
    hash_queue_capacity: Gauge = "hash_queue_capacity";
    /// Password hashes that were asked for, by what became of them.
    hash_jobs: Each<HashResult, Counter> = "hash_jobs";
    /// How long a password hash waited for a thread.
    hash_wait: Histogram = "hash_wait_seconds";
    /// How long a password hash took.
    hash_duration: Histogram = "hash_seconds";
    /// What the counters of failed logins said of logins, and what they locked by them. Without a device cookie a login
    /// that may be tried counts with pair.
    lockout_decisions: Each<Lockouts, Each<LockoutResult, Counter>> = "lockout_decisions";
    /// Calls that anybody may make only so often.
    paced_calls: Each<PacedCall, Each<LimitResult, Counter>> = "paced_calls";
    /// What a limit or a cap decided.
    limit_decisions: Named<LimitName, Each<LimitResult, Counter>> = "limit_decisions";
    /// Tokens that language models read and wrote, on routes with `usage`.
    tokens: Named<RouteName, Each<TokenKind, Each<TokenSource, Counter>>> = "tokens";
    /// Answers that were ended because a hard budget was used up.
    budget_ends: Named<RouteName, Counter> = "budget_ends";
    /// Keys a limit keeps count of; of a cap those with something under way.
    limit_keys: Named<LimitName, Gauge> = "limit_keys";
    /// What a quota decided.
    quota_decisions: Named<QuotaName, Each<QuotaResult, Counter>> = "quota_decisions";
    /// Keys of a quota that are held here: used in the last seconds.
    quota_keys: Named<QuotaName, Gauge> = "quota_keys";
    /// 1 while the store is lost to quotas and each gateway counts them for itself, else 0.
    quota_store_lost: Gauge = "quota_store_lost";
    /// 1 while Redis is lost and each gateway counts shared limits for itself, else 0.
    shared_state_lost: Gauge = "shared_state_lost";
    /// Questions to Redis. Requests wait for those of kind charge only.
    shared_state_calls: Each<SharedStateCall, Each<SharedStateResult, Counter>> = "shared_state_calls";
    /// Decisions on shared limits that this gateway made alone, because Redis was lost.
    shared_state_fallbacks: Counter = "shared_state_fallbacks";
    /// Entries of the revocation feed that are held here: they may concern a token that has not expired.
    revocations: Each<RevocationKind, Gauge> = "revocations";
    /// Readings of the revocation feed.
    revocation_reads: Each<ReadResult, Counter> = "revocation_reads";
    /// Seconds since the revocation feed was last read to its end.
    revocations_age: Gauge = "revocations_age_seconds";
    /// Entries of the revocation feed that made no sense here, as those of a newer gateway may not. They are passed over.
    revocation_oddities: Counter = "revocation_oddities";
    /// From the cause of an entry, at whatever gateway and by its clock, until it was known here.
    revocation_lag: Histogram = "revocation_lag_seconds";
    /// Signing keys by where they stand in their life. None without a store.
    signing_keys: Each<KeyState, Gauge> = "signing_keys";
    /// Seconds since the key of `tokens.algorithm` began to sign.
    signing_key_age: Gauge = "signing_key_age_seconds";
    /// Readings of the signing keys; one that fails leaves in use what is held.
    signing_key_reads: Each<ReadResult, Counter> = "signing_key_reads";
    /// Attempts to seal audit rows. One gateway at a time does; rows wait for the next attempt.
    audit_sealings: Each<SealingResult, Counter> = "audit_sealings";
    /// Audit rows sealed here.
    audit_rows_sealed: Counter = "audit_rows_sealed";
    /// Place of the last row in the audit chain when this gateway sealed last. A chain that is shorter was cut.
    audit_position: Gauge = "audit_position";
    /// Parts of the network that were found trying many people's passwords, and are refused for a while.
    stuffing_episodes: Each<Reach, Counter> = "credential_stuffing_episodes";
    /// Events that may mean an attack, as they were audited here.
    security_events: Each<SecurityEvent, Counter> = "security_events";
    /// Requests of authenticated callers that were refused for a role or scope and are not in the audit: too many.
    permission_denials_dropped: Counter = "permission_denials_dropped";
    /// Messages to webhooks.
    webhook_deliveries: Named<WebhookName, Each<DeliveryResult, Counter>> = "webhook_deliveries";
    /// Connections of the store's pool.
    store_pool_connections: Each<PoolState, Gauge> = "store_pool_connections";
    /// Reloads of the configuration that were asked for or found something changed.
    config_reloads: Each<ReloadResult, Counter> = "config_reloads";
    /// 1 unless the file, when it was last read, said something that could not be taken.
    config_last_reload_successful: Gauge = "config_last_reload_successful";
    /// When the configuration in force was last read, start included: seconds since 1970-01-01T00:00:00Z.
    config_last_reload_success: Gauge = "config_last_reload_success_timestamp_seconds";
    /// Always 1; the label tells the configuration in force: SHA-256 of the file, as `sha256sum` prints it.
    config_info: Told<FileSha256> = "config_info";
    /// Spans of sampled requests: taken by the collector, not taken by it, or dropped because the queue was full.
    trace_spans: Each<SpanResult, Counter> = "trace_spans";
    /// Log lines dropped because standard output did not keep up.
    log_lines_dropped: Sampled = "log_lines_dropped";
    /// Always 1; the labels tell the build.
    build_info: Build = "build_info";
}

/// The one histogram with exemplars: its buckets, as they are called in the text.
const REQUEST_DURATION: &str = "portcullis_request_duration_seconds_bucket";

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// What is counted of one route.
#[derive(Debug, Clone)]
pub struct RouteMetrics {
    requests: Arc<RequestCells>,
    duration: Arc<TracedHistogram>,
}

impl RouteMetrics {
    /// Counts an answered request; `traced` when it is sampled.
    pub fn answered(
        &self,
        method: &Method,
        status: StatusCode,
        reason: Reason,
        duration: Duration,
        traced: Option<Traced>,
    ) {
        self.requests.of(reason).of(method.into()).of(status.into()).inc();
        self.duration.observe(duration, traced);
    }
}

/// What is counted of one cluster.
#[derive(Debug, Clone)]
pub struct ClusterMetrics {
    /// From a request sent to the head of its answer.
    pub first_byte: Arc<Histogram>,
    /// Requests.
    pub requests: Arc<Each<UpstreamResult, Counter>>,
    /// New connections.
    pub connects: Arc<Each<ConnectResult, Counter>>,
}

/// What is counted of one route's use of language models.
#[derive(Debug, Clone)]
pub struct UsageMetrics {
    /// Tokens.
    pub tokens: Arc<Each<TokenKind, Each<TokenSource, Counter>>>,
    /// Answers ended by a budget.
    pub ended: Arc<Counter>,
}

/// What is counted of one limit.
#[derive(Debug, Clone)]
pub struct LimitMetrics {
    /// Decisions.
    pub decisions: Arc<Each<LimitResult, Counter>>,
    /// Keys it keeps count of.
    pub keys: Arc<Gauge>,
}

/// What is counted of one quota.
#[derive(Debug, Clone)]
pub struct QuotaMetrics {
    /// Decisions.
    pub decisions: Arc<Each<QuotaResult, Counter>>,
    /// Keys held.
    pub keys: Arc<Gauge>,
}

/// What is counted of another issuer.
#[derive(Debug, Clone)]
pub struct IssuerMetrics {
    /// Attempts to fetch its keys.
    pub fetches: Arc<Each<FetchResult, Counter>>,
    /// Keys that can verify.
    pub keys: Arc<Gauge>,
    /// Seconds since they were fetched.
    pub age: Arc<Gauge>,
}

impl Metrics {
    /// The handle of an issuer. Resolve once.
    #[must_use]
    pub fn issuer(&self, name: &str) -> IssuerMetrics {
        IssuerMetrics {
            fetches: self.issuer_fetches.get(name),
            keys: self.issuer_keys.get(name),
            age: self.issuer_keys_age.get(name),
        }
    }

    /// The handle of a route. Takes locks: resolve it when the route is built, not per request.
    #[must_use]
    pub fn route(&self, name: &str) -> Arc<RouteMetrics> {
        Arc::new(RouteMetrics { requests: self.requests.get(name), duration: self.request_duration.get(name) })
    }

    /// The handle of a cluster. Resolve once.
    #[must_use]
    pub fn cluster(&self, name: &str) -> Arc<ClusterMetrics> {
        Arc::new(ClusterMetrics {
            first_byte: self.upstream_first_byte.get(name),
            requests: self.upstream_requests.get(name),
            connects: self.upstream_connects.get(name),
        })
    }

    /// The health of an endpoint (`host:port`): 1 or 0. Resolve once.
    #[must_use]
    pub fn endpoint(&self, cluster: &str, endpoint: &str) -> Arc<Gauge> {
        self.upstream_endpoint_healthy.get(cluster).get(endpoint)
    }

    /// The handle of a metered route. Resolve once.
    #[must_use]
    pub fn usage(&self, route: &str) -> Arc<UsageMetrics> {
        Arc::new(UsageMetrics { tokens: self.tokens.get(route), ended: self.budget_ends.get(route) })
    }

    /// The handle of a limit. Resolve once.
    #[must_use]
    pub fn limit(&self, name: &str) -> Arc<LimitMetrics> {
        Arc::new(LimitMetrics { decisions: self.limit_decisions.get(name), keys: self.limit_keys.get(name) })
    }

    /// The handle of a quota. Resolve once.
    #[must_use]
    pub fn quota(&self, name: &str) -> Arc<QuotaMetrics> {
        Arc::new(QuotaMetrics { decisions: self.quota_decisions.get(name), keys: self.quota_keys.get(name) })
    }

    /// See [`Self::retain`].
    pub fn retain_quotas(&self, quotas: &HashSet<&str>) {
        self.quota_decisions.retain(&|name| quotas.contains(name));
        self.quota_keys.retain(&|name| quotas.contains(name));
    }

    /// Forgets the cells of names that are not among these: a reload must not leave series behind. Who holds a handle
    /// counts on into nowhere.
    pub fn retain(&self, routes: &HashSet<&str>, clusters: &HashSet<&str>, limits: &HashSet<&str>) {
        self.requests.retain(&|name| routes.contains(name));
        self.request_duration.retain(&|name| routes.contains(name));
        self.tokens.retain(&|name| routes.contains(name));
        self.budget_ends.retain(&|name| routes.contains(name));
        self.upstream_first_byte.retain(&|name| clusters.contains(name));
        self.upstream_requests.retain(&|name| clusters.contains(name));
        self.upstream_connects.retain(&|name| clusters.contains(name));
        self.upstream_endpoint_healthy.retain(&|name| clusters.contains(name));
        self.limit_decisions.retain(&|name| limits.contains(name));
        self.limit_keys.retain(&|name| limits.contains(name));
    }

    /// Forgets a cluster's endpoints but these.
    pub fn retain_endpoints(&self, cluster: &str, wanted: &dyn Fn(&str) -> bool) {
        self.upstream_endpoint_healthy.get(cluster).retain(wanted);
    }

    /// Everything as text.
    pub fn encode(&self, format: Format) -> Result<String, fmt::Error> {
        let text = exposition::encode(&self.registry, format)?;
        Ok(match format {
            Format::Classic => text,
            Format::OpenMetrics => exposition::with_exemplars(&text, REQUEST_DURATION, &|labels, bound| {
                self.request_duration.known(labels.get(RouteName::NAME)?)?.exemplar(bound)
            }),
        })
    }
}

/// The reference page of every metric, in Markdown.
#[must_use]
pub fn reference() -> String {
    let mut out = String::from("# Metrics\n\n<!-- Generated from src/telemetry/metrics.rs. -->\n\n");
    out.push_str("| name | type | labels | meaning |\n|---|---|---|---|\n");
    let mut closed = std::collections::BTreeSet::new();
    for row in Metrics::rows() {
        let total = if matches!(row.kind, MetricType::Counter) { "_total" } else { "" };
        let labels: Vec<_> = row.labels.iter().map(|(name, _)| format!("`{name}`")).collect();
        let (name, kind) = (row.name, row.kind.as_str());
        let _ = writeln!(out, "| `portcullis_{name}{total}` | {kind} | {} | {} |", labels.join(", "), row.help);
        closed.extend(row.labels.into_iter().filter_map(|(label, values)| Some((label, name, total, values?))));
    }
    out.push_str("\nLabels not listed below hold names from the configuration.\n\n");
    out.push_str("| label | of | values |\n|---|---|---|\n");
    for (label, name, total, values) in closed {
        let _ = writeln!(out, "| `{label}` | `portcullis_{name}{total}` | `{}` |", values.join("`, `"));
    }
    out
}

#[cfg(test)]
mod tests;
