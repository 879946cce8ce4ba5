//! `telemetry:` what the gateway says about itself.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use super::{
    checks::{Checks, values},
    item::{At, Item},
    secret::Secret,
    settings::{self, Telemetry},
    tls,
    units::Span,
    urls::CollectorUrl,
    words::{CollectorHeader, FilePath, LogFilter, RequestIdHeader, Sample},
};
use crate::policy::trace::Sampling;

/// What the gateway says about itself.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Telemetry")]
pub(super) struct RawTelemetry {
    /// Its own log, on standard output.
    log: Item<RawLog>,
    /// One line for each request, in the log's format. Costs a write per request.
    access_log: Item<bool>,
    /// A warning for each request that waited this long or longer for the head of its answer. Without it: none.
    slow_request: Option<Item<Span<1, 86_400_000>>>,
    /// Exports a span of each sampled request, by OTLP over HTTP (protobuf). Without it: none.
    otlp: Option<Item<RawOtlp>>,
    /// Header that carries the request id: believed from trusted proxies, set on every answer.
    request_id_header: Item<RequestIdHeader>,
}

/// A collector of spans.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Otlp")]
pub(super) struct RawOtlp {
    /// Where it takes traces. Spans tell paths and client addresses: over a network that is not your own, use https.
    endpoint: Item<CollectorUrl>,
    /// PEM file with the only roots to trust, for a collector with a private CA. A relative path starts at this file's
    /// folder.
    #[serde(default)]
    ca_file: Option<Item<FilePath>>,
    /// Headers it wants, such as its token.
    #[serde(default)]
    headers: Item<Vec<Item<RawHeader>>>,
    /// Which requests: parent (those whose caller sampled them), or also this ratio, from 0 to 1, of those whose caller
    /// says nothing of traces. Any caller can have its own requests sampled; when they are too many, spans are dropped.
    #[serde(default = "sample")]
    sample: Item<Sample>,
    /// How long it may take over a batch, which is lost then.
    #[serde(default = "timeout")]
    timeout: Item<Span<100, 60_000>>,
}

/// A header with a secret value.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SecretHeader")]
pub(super) struct RawHeader {
    /// E.g. authorization.
    name: Item<CollectorHeader>,
    /// E.g. the whole of "Bearer ...".
    value: Item<Secret>,
}

fn sample() -> Item<Sample> {
    Item::of(Sample(0))
}

fn timeout() -> Item<Span<100, 60_000>> {
    Item::of(Span::secs(10))
}

/// The log.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Log")]
pub(super) struct RawLog {
    /// json (one object a line) or text (for people).
    format: Item<Format>,
    /// What is logged: a level (error, warn, info, debug, trace), or levels by module: info,portcullis=debug.
    filter: Item<LogFilter>,
}

/// Log format.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl Default for RawTelemetry {
    fn default() -> Self {
        Self {
            log: Item::default(),
            access_log: Item::of(true),
            slow_request: None,
            otlp: None,
            request_id_header: Item::of(RequestIdHeader(HeaderName::from_static("x-request-id"))),
        }
    }
}

impl Default for RawLog {
    fn default() -> Self {
        Self { format: Item::of(Format::Json), filter: Item::of(LogFilter("info".to_owned())) }
    }
}

/// `clusters`: `None` when one of them was wrong, which has been noted.
pub(super) fn check(
    item: Item<RawTelemetry>,
    clusters: Option<&[Arc<settings::Cluster>]>,
    checks: &mut Checks,
) -> Option<Telemetry> {
    let at = item.at.or(&At::root(), "telemetry");
    let raw = item.value?;
    check_request_id(&raw.request_id_header, &at, clusters.unwrap_or_default(), checks);
    let otlp = match raw.otlp {
        Some(otlp) => Some(check_otlp(otlp, checks)?),
        None => None,
    };
    let log = raw.log.value?;
    Some(Telemetry {
        format: match log.format.value? {
            Format::Json => settings::LogFormat::Json,
            Format::Text => settings::LogFormat::Text,
        },
        filter: log.filter.value?.0,
        access_log: raw.access_log.value?,
        slow_request: match raw.slow_request {
            Some(item) => Some(item.value?.0),
            None => None,
        },
        otlp,
        request_id_header: raw.request_id_header.value?.0,
    })
}

/// It is set last, on every request that goes to a service: there it would say who calls.
fn check_request_id(
    item: &Item<RequestIdHeader>,
    parent: &At,
    clusters: &[Arc<settings::Cluster>],
    checks: &mut Checks,
) {
    let Some(RequestIdHeader(name)) = &item.value else { return };
    let at = item.at.or(parent, "request_id_header");
    for cluster in clusters.iter().filter(|cluster| cluster.identity.headers.all().contains(&name)) {
        checks.error(&at, format!("clusters.{}.identity sends who calls under this name", cluster.name));
    }
}

fn check_otlp(item: Item<RawOtlp>, checks: &mut Checks) -> Option<settings::Otlp> {
    let (at, raw) = (item.at, item.value?);
    let endpoint = checks.required(raw.endpoint, &at, "endpoint", "where traces are taken")?.0;
    let headers: Option<Vec<_>> =
        values(raw.headers.value?)?.into_iter().map(|header| check_header(header, &at, checks)).collect();
    let tls = if endpoint.scheme_str() == Some("https") {
        let (roots, place) = match raw.ca_file {
            None => (tls::system_roots(), at),
            Some(file) => (checks.pem(&file.at, &file.value?.0).and_then(|pem| tls::roots_of_file(&pem)), file.at),
        };
        let made = roots.and_then(|roots| tls::client(roots, None));
        Some(made.map_err(|message| checks.error(&place, message)).ok()?.config)
    } else if let Some(file) = raw.ca_file {
        checks.error(&file.at, "contradicts endpoint: it is not https");
        return None;
    } else {
        None
    };
    Some(settings::Otlp {
        endpoint,
        tls,
        headers: headers?,
        sampling: Sampling::per_million(raw.sample.value?.0),
        timeout: raw.timeout.value?.0,
    })
}

fn check_header(raw: RawHeader, parent: &At, checks: &mut Checks) -> Option<(HeaderName, HeaderValue)> {
    let name = checks.required(raw.name, parent, "name", "which header");
    let value_at = raw.value.at.clone();
    let value = checks.required(raw.value, parent, "value", "what it says");
    let (name, value) = (name?.0, value?.0);
    checks.inputs.content(&value_at.path, value.expose_secret().as_bytes());
    let Ok(mut value) = HeaderValue::from_str(value.expose_secret()) else {
        checks.error(&value_at, "cannot stand in a header");
        return None;
    };
    value.set_sensitive(true);
    Some((name, value))
}
