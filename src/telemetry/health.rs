//! The admin listener's endpoints: `/metrics`, `/livez`, `/readyz`, `/startupz`.
//!
//! Served by the same [`Edge`](crate::edge::Edge) as the clients, so that its limits and time-outs hold here too; on
//! loopback unless configured otherwise, since nothing here asks who calls. Liveness depends on nothing but the
//! process: restarting a gateway does not bring back a database.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE},
    request::Parts,
};
use serde::Serialize;

use super::metrics::{Format, Metrics};
use crate::{
    config::settings::{ConnectionTimeouts, Flood, Listener},
    edge::Gate,
    gate::body::GateBody,
};

/// A readiness check that takes longer has failed; probes give up after a few seconds themselves.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// What was found of one thing the gateway needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// As it should be.
    Ok,
    /// Missing, but the gateway still serves in a declared degraded mode: ready.
    Degraded,
    /// Missing, and requests should go elsewhere: not ready.
    Failed,
}

/// One named check.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was looked at, e.g. `store`.
    pub name: &'static str,
    /// What was found.
    pub state: CheckState,
    /// For the operator, in a sentence; never a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Knows whether the gateway can do its work.
#[async_trait]
pub trait Readiness: Send + Sync + 'static {
    /// Looks at everything the gateway needs. Cancelled after five seconds.
    async fn check(&self) -> Vec<Check>;
}

/// Where the process stands in its life; shared between `app` and the admin listener.
#[derive(Debug, Default)]
pub struct Lifecycle(AtomicU8);

impl Lifecycle {
    /// Everything is wired and the public listener accepts.
    pub fn started(&self) {
        self.0.store(1, Ordering::Release);
    }

    /// The drain has begun: not ready any more, still alive.
    pub fn draining(&self) {
        self.0.store(2, Ordering::Release);
    }

    fn check(&self) -> (bool, Check) {
        let (started, state, detail) = match self.0.load(Ordering::Acquire) {
            0 => (false, CheckState::Failed, Some("starting".to_owned())),
            1 => (true, CheckState::Ok, None),
            _ => (true, CheckState::Failed, Some("draining".to_owned())),
        };
        (started, Check { name: "lifecycle", state, detail })
    }
}

/// The answer of `/readyz`.
#[derive(Serialize)]
struct Report {
    status: CheckState,
    checks: Vec<Check>,
}

/// What the admin endpoints tell of.
struct Admin {
    metrics: Arc<Metrics>,
    lifecycle: Arc<Lifecycle>,
    readiness: Arc<dyn Readiness>,
    check_timeout: Duration,
}

/// The admin listener's settings, for [`Edge::bind`](crate::edge::Edge::bind). Give that edge metrics of its own:
/// the exported connection counts are the clients'.
#[must_use]
pub fn listener(bind: SocketAddr) -> Listener {
    let seconds = Duration::from_secs;
    Listener {
        bind,
        tls: None,
        h2c: false,
        max_connections: 64,
        max_connections_per_address: None,
        max_header_bytes: 16 * 1024,
        max_headers: 100,
        h2_max_streams: 1,
        timeouts: ConnectionTimeouts {
            tls_handshake: seconds(5),
            first_byte: seconds(5),
            header: seconds(5),
            idle: seconds(120),
        },
        flood: Flood { window: seconds(10), connections: None, bad_requests: None, failed_tokens: None },
    }
}

/// The admin endpoints as a service.
pub fn admin(metrics: Arc<Metrics>, lifecycle: Arc<Lifecycle>, readiness: Arc<dyn Readiness>) -> impl Gate {
    serve(Admin { metrics, lifecycle, readiness, check_timeout: CHECK_TIMEOUT })
}

fn serve(admin: Admin) -> impl Gate {
    let admin = Arc::new(admin);
    tower::service_fn(move |request: Request<GateBody>| {
        let (admin, (head, _)) = (Arc::clone(&admin), request.into_parts());
        async move { Ok(admin.answer(&head).await) }
    })
}

impl Admin {
    async fn answer(&self, request: &Parts) -> Response<GateBody> {
        let path = request.uri.path();
        if !matches!(path, "/metrics" | "/livez" | "/readyz" | "/startupz") {
            return text(StatusCode::NOT_FOUND, "not found\n");
        }
        if !matches!(request.method, Method::GET | Method::HEAD) {
            let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        match path {
            "/metrics" => self.metrics(request),
            "/readyz" => self.readyz().await,
            "/startupz" if !self.lifecycle.check().0 => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            _ => text(StatusCode::OK, "ok\n"),
        }
    }

    fn metrics(&self, request: &Parts) -> Response<GateBody> {
        let accept = request.headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
        let format = Format::accepted(accept);
        match self.metrics.encode(format) {
            Ok(body) => answer(StatusCode::OK, format.content_type(), body),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be encoded\n"),
        }
    }

    async fn readyz(&self) -> Response<GateBody> {
        let mut checks = vec![self.lifecycle.check().1];
        match tokio::time::timeout(self.check_timeout, self.readiness.check()).await {
            Ok(found) => checks.extend(found),
            Err(_) => checks.push(Check {
                name: "readiness",
                state: CheckState::Failed,
                detail: Some("the checks did not end in time".to_owned()),
            }),
        }
        let status = checks.iter().map(|check| check.state).max().unwrap_or(CheckState::Ok);
        let code = if status == CheckState::Failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        match serde_json::to_vec(&Report { status, checks }) {
            Ok(body) => answer(code, "application/json", body),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the report could not be encoded\n"),
        }
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<GateBody> {
    answer(status, "text/plain; charset=utf-8", body)
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<bytes::Bytes>) -> Response<GateBody> {
    let mut response = Response::new(GateBody::full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    /// Finds what it is told, or never ends.
    struct Scripted(Option<CheckState>);

    #[async_trait]
    impl Readiness for Scripted {
        async fn check(&self) -> Vec<Check> {
            match self.0 {
                Some(state) => vec![Check { name: "store", state, detail: None }],
                None => std::future::pending().await,
            }
        }
    }

    struct Answer {
        status: StatusCode,
        content_type: String,
        body: String,
    }

    async fn ask(lifecycle: &Arc<Lifecycle>, store: Option<CheckState>, request: http::request::Builder) -> Answer {
        let gate = serve(Admin {
            metrics: Arc::new(Metrics::new()),
            lifecycle: Arc::clone(lifecycle),
            readiness: Arc::new(Scripted(store)),
            check_timeout: Duration::from_millis(50),
        });
        let request = request.body(GateBody::Empty).expect("a request");
        let response = gate.oneshot(request).await.expect("never fails");
        let status = response.status();
        let content_type = response.headers()[CONTENT_TYPE].to_str().expect("text").to_owned();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        Answer { status, content_type, body: String::from_utf8(body.to_vec()).expect("text") }
    }

    fn started() -> Arc<Lifecycle> {
        let lifecycle = Arc::new(Lifecycle::default());
        lifecycle.started();
        lifecycle
    }

    #[tokio::test]
    async fn liveness_depends_on_nothing() {
        for lifecycle in [Arc::new(Lifecycle::default()), started()] {
            let answer = ask(&lifecycle, Some(CheckState::Failed), Request::get("/livez")).await;
            assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "ok\n"));
        }
    }

    #[tokio::test]
    async fn readiness_is_the_worst_of_its_checks() {
        let expected = [
            (CheckState::Ok, StatusCode::OK, "ok"),
            (CheckState::Degraded, StatusCode::OK, "degraded"),
            (CheckState::Failed, StatusCode::SERVICE_UNAVAILABLE, "failed"),
        ];
        for (state, status, word) in expected {
            let answer = ask(&started(), Some(state), Request::get("/readyz")).await;
            assert_eq!(answer.status, status);
            let report: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
            assert_eq!(report["status"], word);
            assert_eq!(report["checks"][1], serde_json::json!({"name": "store", "state": word}));
        }
    }

    #[tokio::test]
    async fn a_gateway_that_starts_or_drains_is_not_ready() {
        let lifecycle = Arc::new(Lifecycle::default());
        let startup = ask(&lifecycle, Some(CheckState::Ok), Request::get("/startupz")).await;
        assert_eq!(startup.status, StatusCode::SERVICE_UNAVAILABLE);
        let ready = ask(&lifecycle, Some(CheckState::Ok), Request::get("/readyz")).await;
        assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
        lifecycle.started();
        assert_eq!(ask(&lifecycle, Some(CheckState::Ok), Request::get("/startupz")).await.status, StatusCode::OK);
        lifecycle.draining();
        let ready = ask(&lifecycle, Some(CheckState::Ok), Request::get("/readyz")).await;
        assert!(ready.status == StatusCode::SERVICE_UNAVAILABLE && ready.body.contains("draining"), "{}", ready.body);
        assert_eq!(ask(&lifecycle, Some(CheckState::Ok), Request::get("/startupz")).await.status, StatusCode::OK);
    }

    #[tokio::test]
    async fn a_check_that_hangs_has_failed() {
        let answer = ask(&started(), None, Request::get("/readyz")).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn metrics_come_in_the_format_asked_for() {
        let classic = ask(&started(), Some(CheckState::Ok), Request::get("/metrics")).await;
        assert_eq!(classic.content_type, "text/plain; version=0.0.4; charset=utf-8");
        assert!(classic.body.contains("# TYPE portcullis_connections_total counter\n"));
        let request = Request::get("/metrics").header(ACCEPT, "application/openmetrics-text;version=1.0.0,*/*;q=0.1");
        let open = ask(&started(), Some(CheckState::Ok), request).await;
        assert!(open.content_type.starts_with("application/openmetrics-text; version=1.0.0"));
        assert!(open.body.ends_with("# EOF\n"));
    }

    #[tokio::test]
    async fn nothing_else_is_served() {
        assert_eq!(ask(&started(), None, Request::get("/")).await.status, StatusCode::NOT_FOUND);
        assert_eq!(ask(&started(), None, Request::get("/metrics/")).await.status, StatusCode::NOT_FOUND);
        assert_eq!(ask(&started(), None, Request::post("/livez")).await.status, StatusCode::METHOD_NOT_ALLOWED);
    }

    #[tokio::test]
    async fn a_real_listener_serves_it_and_drains() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = listener(SocketAddr::from(([127, 0, 0, 1], 0)));
        let edge = crate::edge::Edge::bind(&listener, Duration::from_secs(5), Arc::default(), None).expect("binds");
        let address = edge.local_addr().expect("an address");
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let gate = admin(Arc::default(), started(), Arc::new(Scripted(Some(CheckState::Ok))));
        let served = tokio::spawn(edge.serve(gate, async move {
            let _ = stopped.await;
        }));
        let mut client = tokio::net::TcpStream::connect(address).await.expect("connects");
        client.write_all(b"HEAD /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("writes");
        let mut text = String::new();
        client.read_to_string(&mut text).await.expect("reads");
        assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("\r\n\r\n"), "{text}");
        drop((client, stop));
        served.await.expect("ends");
    }
}
