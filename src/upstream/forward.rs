//! The last service of the pipeline: one authorised request to one endpoint, and its answer back, streamed both ways.
//!
//! Hop-by-hop rules are RFC 9110 §7.6.1; `Upgrade` stops here, but for the WebSockets of routes that let them through
//! ([`super::upgrade`]). Retries: what was never sent, because the endpoint had closed an idle connection, and once a
//! safe request without a body that such a connection swallowed. Any other failure is told, not repeated.

use std::{error::Error as StdError, future::Future, io, pin::Pin, sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRAILER, TRANSFER_ENCODING},
    uri::PathAndQuery,
};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep};

use crate::{
    clock::{Clock, Tick},
    config::settings::HostHeader,
    gate::{
        authorise::Authorised,
        body::{BodyFault, GateBody},
        caller::Caller,
        dispatch::Forwarder,
        exchange::Exchange,
        guard::ResponseGuard,
        metered::Asked,
        refusal::{Detail, Refusal},
        snapshot::{RouteEntry, Snapshot},
        stage::Outcome,
    },
    policy::{
        cookies, forwarded, headers,
        reason::Reason,
        rewrite,
        trace::{self, Tracestate},
        websocket::{self, Accept},
    },
    telemetry::metrics::UpstreamResult,
    upstream::{
        cluster::Cluster,
        endpoint::{Endpoint, EndpointUse},
        line::{Flowing, Line, Missed, Patience},
        told, upgrade,
    },
};

/// Forwards requests to clusters.
#[derive(Clone)]
pub struct Forward {
    clock: Arc<dyn Clock>,
}

impl Forward {
    /// Measures by `clock`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }

    /// Sends a request to `cluster` and gives the answer's head with its body still flowing.
    pub fn forward(
        &self,
        request: Request<GateBody>,
        cluster: Arc<Cluster>,
    ) -> Pin<Box<dyn Future<Output = Outcome> + Send>> {
        let clock = Arc::clone(&self.clock);
        Box::pin(async move {
            let mut counted = Counted { cluster: &cluster, result: UpstreamResult::Cancelled };
            let outcome = send(request, &cluster, &*clock).await;
            counted.result = result(&outcome);
            outcome
        })
    }
}

/// Counts the request when it ends, however it ends: dropped before an outcome, the client had gone away.
struct Counted<'a> {
    cluster: &'a Cluster,
    result: UpstreamResult,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.cluster.metrics().requests.of(self.result).inc();
    }
}

const fn result(outcome: &Outcome) -> UpstreamResult {
    match outcome {
        Ok(_) => UpstreamResult::Answered,
        Err(refusal) => match refusal.reason {
            Reason::UpstreamUnhealthy => UpstreamResult::Unhealthy,
            Reason::UpstreamConnect => UpstreamResult::Connect,
            Reason::UpstreamTimeout | Reason::TotalTimeout => UpstreamResult::Timeout,
            // The client's body broke off, was too large or too slow, or was its no more.
            Reason::BodyBroken
            | Reason::BodyTooLarge
            | Reason::BodyTimeout
            | Reason::SessionEnded
            | Reason::StreamExpired
            | Reason::RoleMissing => UpstreamResult::Cancelled,
            _ => UpstreamResult::Broken,
        },
    }
}

async fn send(mut request: Request<GateBody>, cluster: &Cluster, clock: &dyn Clock) -> Outcome {
    let exchange = Exchange::take(&mut request)?;
    let _permit: &Authorised = exchange.authorised()?;
    let route = exchange.route()?;
    let endpoint = cluster.pick(exchange.client()?).ok_or(Reason::UpstreamUnhealthy)?;
    let switch = upgrade::asked(&request, route)?;
    prepare(&mut request, &exchange, cluster, &endpoint)?;
    if switch.is_some() {
        upgrade::ask(request.headers_mut());
    }

    let mut total = route.timeouts.total.map(|total| Box::pin(sleep(total)));
    let mut span = told::begin(&mut request, &exchange, cluster, &endpoint);
    let sent = clock.tick();
    let in_use = EndpointUse::begin(endpoint);
    let asking = Asking { cluster, in_use: &in_use, exchange: &exchange, sent, switch: switch.as_ref() };
    let metered = Asked::begin(&exchange)?;
    let answered = answer(request, asking, total.as_mut()).await;
    told::answered(&mut span, &answered);
    let (response, line) = match answered {
        Ok(answered) => answered,
        Err(refusal) => {
            metered.into_iter().for_each(Asked::failed);
            return Err(refusal);
        }
    };
    let took = clock.tick().since(sent);
    exchange.record().set_upstream_first_byte(took);
    cluster.metrics().first_byte.observe(took);
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return upgrade::tunnel(response, *line, in_use, exchange, (span, total));
    }
    let response = response.map(|body| Flowing::new(body, line, in_use, span));
    let (idle, by_cookie) = (route.timeouts.idle, exchange.by_cookie());
    let snapshot = Arc::clone(exchange.snapshot());
    let mut response = deliver(response, (idle, total), snapshot, exchange.into_caller(), metered);
    if by_cookie {
        cookies::keep_private(response.headers_mut());
    }
    Ok(response)
}

/// What one request is asked with.
#[derive(Clone, Copy)]
struct Asking<'a> {
    cluster: &'a Cluster,
    in_use: &'a EndpointUse,
    exchange: &'a Exchange,
    /// When it was begun.
    sent: Tick,
    /// It asks to switch protocols, and the answer must be to this.
    switch: Option<&'a Accept>,
}

/// The answer's head and the connection it came over: an idle one as long as the request can be taken back from one
/// that turns out to be closed, else a new one. A safe request (RFC 9110 §9.2.1) that a connection at rest for long has
/// swallowed is sent once more, over a new one: most likely the service closed it in that very moment.
async fn answer(
    mut request: Request<GateBody>,
    Asking { cluster, in_use, exchange, sent, switch }: Asking<'_>,
    mut total: Option<&mut Pin<Box<Sleep>>>,
) -> Result<(Response<Incoming>, Box<Line>), Refusal> {
    let route = exchange.route()?;
    // A connection that is to become another's tunnel is a new one: nothing of anybody else has ever been on it.
    let mut may_be_idle = switch.is_none();
    loop {
        let idle = if may_be_idle { in_use.endpoint().take_idle() } else { None };
        let mut line = match idle {
            Some(line) => line,
            None => connect(cluster, in_use.endpoint(), total.as_deref_mut()).await?,
        };
        let used = line.used();
        let spare = line.rested_long(sent).then(|| spare(&request)).flatten();
        let first_byte = route.timeouts.first_byte;
        let may_switch = switch.is_some();
        let patience = Patience { first_byte, total: total.as_deref_mut(), upload: exchange.upload(), may_switch };
        match (line.send(request, sent, patience).await, spare) {
            (Ok(response), _) if has_switched_wrongly(&response, switch) => {
                return Err(Refusal::with(
                    Reason::UpstreamBroken,
                    Detail::Log("switched protocols unasked, or to another than was asked for".to_owned()),
                ));
            }
            (Ok(response), _) => return Ok((response, line)),
            (Err(Missed::NeverSent(taken_back)), _) if used => request = *taken_back,
            (Err(Missed::Failed(error)), Some(spare)) if is_hang_up(&error) => {
                (request, may_be_idle) = (spare, false);
            }
            (Err(Missed::NeverSent(_)), _) => {
                return Err(Refusal::with(Reason::UpstreamBroken, Detail::Log("closed before the request".to_owned())));
            }
            (Err(Missed::Failed(error)), _) => return Err(failed(&error)),
            (Err(Missed::FirstByte), _) => return Err(Reason::UpstreamTimeout.into()),
            (Err(Missed::Total), _) => return Err(Reason::TotalTimeout.into()),
            (Err(Missed::Cut(reason)), _) => return Err(reason.into()),
        }
    }
}

fn has_switched_wrongly(response: &Response<Incoming>, switch: Option<&Accept>) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS
        && !switch.is_some_and(|accept| websocket::agreed(response.headers(), accept))
}

/// A second copy of a request that may be sent twice: safe, and without a body.
fn spare(request: &Request<GateBody>) -> Option<Request<GateBody>> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !safe || !matches!(request.body(), GateBody::Empty) {
        return None;
    }
    let mut copy = Request::new(GateBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// Whether the connection ended before the answer had a head, rather than with something that is no answer.
fn is_hang_up(error: &hyper::Error) -> bool {
    let socket = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    error.is_incomplete_message() || socket.is_some()
}

/// A new connection, within the connect time-out and the exchange's total.
async fn connect(
    cluster: &Cluster,
    endpoint: &Endpoint,
    total: Option<&mut Pin<Box<Sleep>>>,
) -> Result<Box<Line>, Refusal> {
    let refused = |why: String| Refusal::with(Reason::UpstreamConnect, Detail::Log(why));
    let connected = async {
        let stream = cluster.connector().connect(endpoint).await.map_err(|fault| refused(fault.to_string()))?;
        Line::over(stream).await.map(Box::new).map_err(|fault| refused(fault.to_string()))
    };
    let Some(total) = total else { return connected.await };
    tokio::select! {
        biased;
        connected = connected => connected,
        () = total => Err(Reason::TotalTimeout.into()),
    }
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Makes the request the upstream's: its URI, its `Host`, our `X-Forwarded-*` and trace, nothing hop-by-hop.
fn prepare(
    request: &mut Request<GateBody>,
    exchange: &Exchange,
    cluster: &Cluster,
    endpoint: &Endpoint,
) -> Result<(), Refusal> {
    let asked_host = authority(request);
    if let Some(target) = target(request.uri(), exchange.route()?)? {
        *request.uri_mut() = target;
    }
    *request.version_mut() = Version::HTTP_11;
    let is_metered = exchange.route()?.metering.is_some();
    let unsized_body = !request.body().is_end_stream() && request.body().size_hint().exact().is_none();
    let headers = request.headers_mut();
    headers::strip_hop_by_hop(headers);
    if unsized_body {
        // hyper sends a GET's body only when it is told that there is one.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if is_metered {
        // What is compressed cannot be read.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    set_forwarded(headers, exchange, asked_host.as_ref())?;
    let host = match cluster.settings().host {
        HostHeader::Preserve => asked_host.unwrap_or_else(|| endpoint.host.clone()),
        HostHeader::Endpoint => endpoint.host.clone(),
    };
    headers.insert(HOST, host);
    Ok(())
}

/// The host the client asked for: `:authority` on HTTP/2, `Host` on HTTP/1.1; hygiene holds them equal.
fn authority(request: &Request<GateBody>) -> Option<HeaderValue> {
    request.headers().get(HOST).cloned().or_else(|| {
        let authority = request.uri().authority()?;
        HeaderValue::from_str(authority.as_str()).ok()
    })
}

/// What the upstream is asked for, in origin form, when that is not what the client asked for.
fn target(asked: &Uri, route: &RouteEntry) -> Result<Option<Uri>, Refusal> {
    let path = match &route.rewrite {
        None if asked.authority().is_none() && asked.scheme().is_none() => return Ok(None),
        None => asked.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")),
        Some(rule) => {
            let path = rewrite::rewrite(asked.path(), &rule.prefix, &rule.to)
                .ok_or_else(|| Refusal::internal("the route's pattern does not lie below its rewrite prefix"))?;
            let text = asked.query().map_or_else(|| path.to_string(), |query| format!("{path}?{query}"));
            PathAndQuery::try_from(text)
                .map_err(|error| Refusal::internal(format!("the upstream's path cannot be built: {error}")))?
        }
    };
    Ok(Some(Uri::from(path)))
}

/// `X-Forwarded-*`, the request id and the trace, each set to what *we* know; what the client sent of them is gone.
fn set_forwarded(headers: &mut HeaderMap, exchange: &Exchange, host: Option<&HeaderValue>) -> Result<(), Refusal> {
    let client = forwarded::header_value(exchange.client()?)
        .ok_or_else(|| Refusal::internal("an address is no header value"))?;
    headers.insert(X_FORWARDED_FOR, client);
    let proto = if exchange.https() { "https" } else { "http" };
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
    if let Some(host) = host {
        headers.insert(X_FORWARDED_HOST, host.clone());
    }
    headers.insert(exchange.snapshot().request_id_header.clone(), exchange.record().request_id.clone());
    match trace::tracestate(headers) {
        Tracestate::Whole => {}
        Tracestate::Shortened(value) => drop(headers.insert(trace::TRACESTATE, value)),
        Tracestate::Nothing => drop(headers.remove(trace::TRACESTATE)),
    }
    headers.insert(trace::TRACEPARENT, exchange.trace().header_value());
    Ok(())
}

/// Whose fault it was: the client's body, or the upstream.
fn failed(error: &hyper::Error) -> Refusal {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    let mut text = error.to_string();
    while let Some(one) = cause {
        if let Some(BodyFault::Cut(reason)) = one.downcast_ref::<BodyFault>() {
            return (*reason).into();
        }
        cause = one.source();
        if let Some(next) = cause {
            text = format!("{text}: {next}");
        }
    }
    Refusal::with(Reason::UpstreamBroken, Detail::Log(text))
}

fn deliver(
    response: Response<Flowing>,
    (idle, total): (Duration, Option<Pin<Box<Sleep>>>),
    snapshot: Arc<Snapshot>,
    caller: Option<Arc<Caller>>,
    metered: Option<Asked>,
) -> Response<GateBody> {
    let (mut head, body) = response.into_parts();
    let is_events = is_open_event_stream(&head.headers);
    let headers = &mut head.headers;
    if headers.contains_key(TRANSFER_ENCODING) {
        // RFC 9112 §6.3: the coding overrides a length, which must not be passed on beside it.
        headers.remove(CONTENT_LENGTH);
    }
    // An HTTP/1.1 client gets only those trailers that the head announces (RFC 9110 §6.6.2).
    let announced: Vec<HeaderValue> = headers.get_all(TRAILER).iter().cloned().collect();
    headers::strip_hop_by_hop(headers);
    for names in announced {
        headers.append(TRAILER, names);
    }
    headers::strip_reserved_response(headers, &snapshot.own_cookies);
    headers::strip_own(headers, &snapshot.identity_headers);
    // An HTTP/1.0 upstream's version must not become ours.
    head.version = Version::HTTP_11;
    let body = match metered {
        Some(asked) => asked.answered(GateBody::Flowing(body), &head, is_events),
        None => GateBody::Flowing(body),
    };
    let guard = ResponseGuard::of_upstream(body, idle, total, snapshot).tied(caller, is_events);
    Response::from_parts(head, GateBody::Guarded(Box::new(guard)))
}

/// Whether an answer is a stream of events that could be given one more: of no fixed length, as it was written.
fn is_open_event_stream(headers: &HeaderMap) -> bool {
    let is = |name: HeaderName, fits: &dyn Fn(&[u8]) -> bool| headers.get(name).map(|value| fits(value.as_bytes()));
    let events = |value: &[u8]| {
        let kind = value.split(|byte| *byte == b';').next().unwrap_or_default();
        kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    };
    is(CONTENT_TYPE, &events) == Some(true)
        && !headers.contains_key(CONTENT_LENGTH)
        && is(CONTENT_ENCODING, &|value| value.eq_ignore_ascii_case(b"identity")) != Some(false)
}

impl Forwarder for Forward {
    type Future = Pin<Box<dyn Future<Output = Outcome> + Send>>;

    fn forward(&self, request: Request<GateBody>, cluster: Arc<Cluster>) -> Self::Future {
        Self::forward(self, request, cluster)
    }
}
