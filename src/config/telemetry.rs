//! `telemetry:` what the gateway says about itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    item::Item,
    settings::{self, Telemetry},
    units::Span,
    words::{LogFilter, RequestIdHeader},
};

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
    /// Header that carries the request id: believed from trusted proxies, set on every answer.
    request_id_header: Item<RequestIdHeader>,
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
            request_id_header: Item::of(RequestIdHeader(http::HeaderName::from_static("x-request-id"))),
        }
    }
}

impl Default for RawLog {
    fn default() -> Self {
        Self { format: Item::of(Format::Json), filter: Item::of(LogFilter("info".to_owned())) }
    }
}

pub(super) fn check(item: Item<RawTelemetry>) -> Option<Telemetry> {
    let raw = item.value?;
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
        request_id_header: raw.request_id_header.value?.0,
    })
}
