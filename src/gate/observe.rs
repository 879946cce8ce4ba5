//! The outermost layer: gives the request its id, its place in the trace and its exchange, and tells its end.
//!
//! It wraps even the rescue, since a refusal's document needs the id made here and the end of a refused request is
//! told like any other. It cannot fail.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use ipnet::IpNet;
use pin_project_lite::pin_project;
use tower::{Layer, Service};
use tracing::Span;

use crate::{
    clock::{Clock, Entropy, Timestamp},
    gate::{
        body::GateBody,
        exchange::{Arrival, Door, Exchange},
        finish::{Finish, RequestLog},
        guard::ResponseGuard,
        snapshot::Snapshot,
        watch::on_behalf_of,
    },
    policy::{
        cors,
        trace::{TRACESTATE, TraceContext},
    },
    telemetry::{
        metrics::{Metrics, RouteMetrics},
        record::Record,
        traces::{RequestTrace, Traces},
    },
};

/// draft-ietf-httpapi-ratelimit-headers-10.
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The longest request id taken over from a trusted proxy.
const LONGEST_REQUEST_ID: usize = 128;

/// What the observer stands on; shared by every connection of a listener.
#[derive(Clone)]
pub struct Observer {
    /// Whose connections these are.
    pub door: Door,
    /// The configuration in force.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Counters of requests no route took; label `-`.
    pub unrouted: Arc<RouteMetrics>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Request and span ids.
    pub entropy: Arc<dyn Entropy>,
    /// What to write of requests.
    pub log: RequestLog,
    /// Where the spans of sampled requests go; `None`: nowhere.
    pub traces: Option<Arc<Traces>>,
}

/// Puts the observer outermost.
#[derive(Clone)]
pub struct ObserveLayer(pub Arc<Observer>);

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe { observer: Arc::clone(&self.0), inner }
    }
}

/// See [`ObserveLayer`].
#[derive(Clone)]
pub struct Observe<S> {
    observer: Arc<Observer>,
    inner: S,
}

impl<S> Service<Request<GateBody>> for Observe<S>
where
    S: Service<Request<GateBody>, Response = Response<GateBody>, Error = Infallible>,
{
    type Response = Response<GateBody>;
    type Error = Infallible;
    type Future = ObserveFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<GateBody>) -> Self::Future {
        let observer = &*self.observer;
        let snapshot = observer.snapshot.load_full();
        let arrival = arrival(&mut request, observer.door);
        let (trace, parent) = observer.trace(request.headers_mut());
        let now = observer.clock.now();
        let request_id = observer.request_id(request.headers(), &snapshot, arrival, now);
        let tick = observer.clock.tick();
        let sampled = observer.traces.as_ref().filter(|_| trace.sampled);
        let spans = sampled.map(|traces| Arc::new(RequestTrace::new(Arc::clone(traces), trace, parent, (now, tick))));
        let head = (request.method().clone(), request.version());
        let record = Arc::new(Record::new(request_id, trace.trace_id, tick, head, spans));
        let span = tracing::info_span!(
            target: "portcullis::request",
            "request",
            request_id = record.request_id(),
            trace = %trace,
        );
        let finish = Finish::new(
            Arc::clone(&record),
            Arc::clone(&observer.metrics),
            Arc::clone(&observer.unrouted),
            Arc::clone(&observer.clock),
            observer.log,
        );
        let request_id_header = snapshot.request_id_header.clone();
        request.extensions_mut().insert(Exchange::new(Arc::clone(&record), snapshot, arrival, trace, now));
        let inner = span.in_scope(|| self.inner.call(request));
        ObserveFuture { inner, span, record, request_id_header, finish: Some(finish) }
    }
}

impl Observer {
    /// The caller's trace with a span of ours, and the caller's span; or a new trace.
    fn trace(&self, headers: &mut HeaderMap) -> (TraceContext, Option<[u8; 8]>) {
        let mut random = [0; 24];
        self.entropy.fill(&mut random);
        let (trace_id, span_id) = random.split_at(16);
        let (trace_id, span_id) = (trace_id.try_into().unwrap_or([1; 16]), span_id.try_into().unwrap_or([1; 8]));
        if let Some(parent) = TraceContext::of(headers) {
            return (parent.child(span_id), Some(parent.span_id));
        }
        // Without a valid parent its vendors' state means nothing (W3C Trace Context §3.3).
        headers.remove(TRACESTATE);
        let mut trace = TraceContext::start(trace_id, span_id, false);
        trace.sampled = self.traces.as_ref().is_some_and(|traces| traces.samples(&trace));
        (trace, None)
    }

    /// A trusted proxy's id, so that its log and ours can be joined; else one of our own.
    fn request_id(&self, headers: &HeaderMap, snapshot: &Snapshot, arrival: Arrival, now: Timestamp) -> HeaderValue {
        let given = headers.get(&snapshot.request_id_header).filter(|value| well_formed(value.as_bytes()));
        match given {
            Some(id) if trusted(&snapshot.trusted_proxies, arrival) => id.clone(),
            _ => {
                let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
                let id = self.entropy.uuid_v7(now);
                let id = id.hyphenated().encode_lower(&mut text);
                HeaderValue::from_str(id).unwrap_or(HeaderValue::from_static("unknown"))
            }
        }
    }
}

fn trusted(proxies: &[IpNet], arrival: Arrival) -> bool {
    let peer = arrival.peer.to_canonical();
    proxies.iter().any(|net| net.contains(&peer))
}

fn well_formed(id: &[u8]) -> bool {
    (1..=LONGEST_REQUEST_ID).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':'))
}

fn arrival(request: &mut Request<GateBody>, door: Door) -> Arrival {
    let connection = request.extensions_mut().remove::<crate::edge::Connection>();
    connection.map_or(Arrival { door, peer: std::net::IpAddr::from([0, 0, 0, 0]), tls: false }, |connection| Arrival {
        door,
        peer: connection.peer.ip(),
        tls: connection.tls,
    })
}

pin_project! {
    /// The future of [`Observe`].
    pub struct ObserveFuture<F> {
        #[pin]
        inner: F,
        span: Span,
        record: Arc<Record>,
        request_id_header: HeaderName,
        finish: Option<Finish>,
    }
}

impl<F> Future for ObserveFuture<F>
where
    F: Future<Output = Result<Response<GateBody>, Infallible>>,
{
    type Output = Result<Response<GateBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let _entered = this.span.enter();
        let inner = this.inner;
        let mut response = match ready!(on_behalf_of(this.record, || inner.poll(cx))) {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let headers = response.headers_mut();
        headers.reserve(3);
        headers.insert(this.request_id_header.clone(), this.record.request_id.clone());
        if let Some((policy, limit)) = this.record.rate_limit() {
            headers.insert(RATE_LIMIT_POLICY, policy.clone());
            headers.insert(RATE_LIMIT, limit.clone());
        }
        if let Some((policy, limit)) = this.record.quotas() {
            if this.record.rate_limit().is_none() {
                // What the service says of limits of its own gives way, as it does to ours.
                headers.remove(RATE_LIMIT_POLICY);
                headers.remove(RATE_LIMIT);
            }
            add(headers, RATE_LIMIT_POLICY, policy);
            add(headers, RATE_LIMIT, limit);
        }
        if let Some(origin) = this.record.reader() {
            cors::tell(headers, origin, this.request_id_header);
        }
        let Some(mut finish) = this.finish.take() else {
            return Poll::Ready(Ok(response));
        };
        finish.answered(response.status());
        finish.hold(response.extensions_mut().remove());
        let head_only = this.record.method == Method::HEAD;
        Poll::Ready(Ok(response.map(|body| watched(body, finish, head_only))))
    }
}

/// Adds items to a list (RFC 9651 §3.1), on the same line: not every client joins lines.
fn add(headers: &mut HeaderMap, name: HeaderName, items: &HeaderValue) {
    let joined = headers.get(&name).map(|before| [before.as_bytes(), b", ", items.as_bytes()].concat());
    let value = joined.and_then(|joined| HeaderValue::from_bytes(&joined).ok()).unwrap_or_else(|| items.clone());
    headers.insert(name, value);
}

fn watched(body: GateBody, finish: Finish, head_only: bool) -> GateBody {
    let mut guard = match body {
        GateBody::Guarded(guard) => guard,
        GateBody::Tunnel(mut tunnel) => {
            tunnel.tell(finish);
            return GateBody::Tunnel(tunnel);
        }
        other => Box::new(ResponseGuard::of_ours(other)),
    };
    guard.tell(finish, head_only);
    GateBody::Guarded(guard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_could_break_a_log_line_is_not_taken_over() {
        assert!(well_formed(b"0190-abc.D:1_2"));
        for bad in [&b""[..], b"a b", b"a\"b", b"a\nb", &[b'a'; LONGEST_REQUEST_ID + 1]] {
            assert!(!well_formed(bad), "{bad:?}");
        }
    }
}
