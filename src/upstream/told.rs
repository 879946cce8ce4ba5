//! The span of a request to a service, as its trace tells it: OpenTelemetry's semantic conventions for HTTP clients,
//! without the query, which may hold secrets.

use http::{Request, Response};

use crate::{
    gate::{exchange::Exchange, refusal::Refusal},
    policy::{reason::Reason, trace::TRACEPARENT},
    telemetry::{
        metrics::{Label, Verb},
        record::told_path,
        traces::{ChildSpan, number, text},
    },
    upstream::{cluster::Cluster, endpoint::Endpoint},
};

/// A span of the call that begins now, which the service is told to continue; `None` when the request is not sampled.
/// Boxed: it goes with the answer's body.
pub(super) fn begin<B>(
    request: &mut Request<B>,
    exchange: &Exchange,
    cluster: &Cluster,
    endpoint: &Endpoint,
) -> Option<Box<ChildSpan>> {
    let trace = exchange.record().trace.as_ref()?;
    let verb = match Verb::from(request.method()) {
        Verb::Other => "_OTHER",
        known => known.value(),
    };
    let settings = cluster.settings();
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    let authority = endpoint.host.to_str().unwrap_or_default();
    let port = i64::from(endpoint.address.port());
    let attributes = vec![
        text("http.request.method", verb),
        text("url.full", &format!("{scheme}://{authority}{}", told_path(request.uri().path()))),
        text("server.address", host_of(authority)),
        number("server.port", port),
        text("network.peer.address", &endpoint.address.ip().to_string()),
        number("network.peer.port", port),
        text("portcullis.cluster", &settings.name),
    ];
    let span = trace.upstream(verb.to_owned(), attributes);
    request.headers_mut().insert(TRACEPARENT, span.context().header_value());
    Some(Box::new(span))
}

/// The host of an authority, an IPv6 address without its brackets.
fn host_of(authority: &str) -> &str {
    let port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let host = authority.rsplit_once(':').filter(|(_, end)| port(end)).map_or(authority, |(host, _)| host);
    host.trim_matches(['[', ']'])
}

/// Notes the answer's status, or why there is none. A status that tells of an error is an error of the call, as the
/// conventions have it.
pub(super) fn answered<B, L>(span: &mut Option<Box<ChildSpan>>, answered: &Result<(Response<B>, L), Refusal>) {
    let Some(span) = span else { return };
    match answered {
        Err(refusal) => span.failed(refusal.reason.as_str()),
        Ok((response, _)) => {
            let status = response.status();
            span.note(number("http.response.status_code", i64::from(status.as_u16())));
            if status.is_client_error() || status.is_server_error() {
                span.failed(status.as_str().to_owned());
            } else {
                span.well();
            }
        }
    }
}

/// Notes why the answer did not come whole.
pub(super) fn failed(span: &mut Option<Box<ChildSpan>>, reason: Reason) {
    if let Some(span) = span {
        span.failed(reason.as_str());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_told_without_its_port_and_brackets() {
        for authority in ["rag.internal", "rag.internal:8000"] {
            assert_eq!(host_of(authority), "rag.internal", "{authority}");
        }
        for authority in ["[fd00::1]", "[fd00::1]:8000"] {
            assert_eq!(host_of(authority), "fd00::1", "{authority}");
        }
    }
}
