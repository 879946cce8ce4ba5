//! Tests of the edge over real sockets: every client is a raw `TcpStream` (or hyper's client for HTTP/2), every server
//! a real listener on port 0. No test sleeps: it waits for the event, the close of a socket or an answer. (A service
//! sleeps where it has to be slow.)

mod drain;
mod http1;
mod http2;
mod tls;

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};
use tower::service_fn;

use super::{Connection, Edge, Gate};
use crate::{
    config::settings::{ConnectionTimeouts, Flood, Listener},
    gate::body::GateBody,
    telemetry::metrics::{ConnectionError, ConnectionResult, Metrics},
};

/// A time-out under test.
const SHORT: Duration = Duration::from_millis(100);

/// A time-out that must not be what ends the connection.
const LONG: Duration = Duration::from_mins(10);

/// No time-out is short.
fn listener() -> Listener {
    Listener {
        bind: SocketAddr::from(([127, 0, 0, 1], 0)),
        tls: None,
        h2c: false,
        max_connections: 16,
        max_connections_per_address: None,
        max_header_bytes: 16 * 1024,
        max_headers: 100,
        h2_max_streams: 16,
        timeouts: ConnectionTimeouts { tls_handshake: LONG, first_byte: LONG, header: LONG, idle: LONG },
        flood: Flood { window: LONG, connections: None, bad_requests: None, failed_tokens: None },
    }
}

/// An edge that serves.
struct Server {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    stop: oneshot::Sender<()>,
    done: JoinHandle<()>,
}

impl Server {
    fn start(listener: &Listener, gate: impl Gate) -> Self {
        Self::with_drain(listener, LONG, gate)
    }

    fn with_drain(listener: &Listener, drain: Duration, gate: impl Gate) -> Self {
        let metrics = Arc::new(Metrics::new());
        let edge = Edge::bind(listener, drain, Arc::clone(&metrics), None).expect("binds");
        let address = edge.local_addr().expect("has an address");
        let (stop, stopped) = oneshot::channel();
        let done = tokio::spawn(edge.serve(gate, async move {
            let _ = stopped.await;
        }));
        Self { address, metrics, stop, done }
    }

    async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.address).await.expect("connects"))
    }

    fn errors(&self, kind: ConnectionError) -> u64 {
        self.metrics.connection_errors.of(kind).get()
    }

    fn ended(&self, result: ConnectionResult) -> u64 {
        self.metrics.connections.of(result).get()
    }

    /// Stops and waits until every connection is gone.
    async fn drained(self) -> Arc<Metrics> {
        let _ = self.stop.send(());
        self.done.await.expect("serves to its end");
        assert_eq!(self.metrics.connections_open.get(), 0);
        assert_eq!(self.metrics.connections_parked.get(), 0);
        self.metrics
    }
}

/// A client that writes and reads bytes.
struct Client(TcpStream);

impl Client {
    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.expect("writes");
    }

    /// Reads one answer with a `Content-Length` and gives it whole.
    async fn answer(&mut self) -> String {
        let mut text = Vec::new();
        loop {
            text.push(self.0.read_u8().await.expect("an answer"));
            if text.ends_with(b"\r\n\r\n") {
                break;
            }
        }
        let head = String::from_utf8(text).expect("text");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a number"))];
        self.0.read_exact(&mut body).await.expect("a body");
        head + &String::from_utf8(body).expect("text")
    }

    /// Waits for the server to close, and gives what came until then.
    async fn closed(&mut self) -> String {
        let mut text = Vec::new();
        // A reset is a close too.
        let _ = patiently(self.0.read_to_end(&mut text)).await;
        String::from_utf8(text).expect("text")
    }
}

const GET: &str = "GET /a HTTP/1.1\r\nhost: x\r\n\r\n";

/// Answers with method, path and length of the body, which it reads.
fn echo() -> impl Gate {
    service_fn(|request: Request<GateBody>| async move {
        use http_body_util::BodyExt;
        let connection = request.extensions().get::<Connection>().copied().expect("the edge tells the connection");
        let (head, body) = request.into_parts();
        let length = body.collect().await.map_or(0, |body| body.to_bytes().len());
        let text = format!("{} {} {length} tls={}", head.method, head.uri.path(), connection.tls);
        Ok::<_, Infallible>(Response::new(GateBody::full(text)))
    })
}

/// Answers for ever.
fn endless() -> impl Gate {
    use http_body::Frame;
    let chunk = bytes::Bytes::from_static(&[b'x'; 16 * 1024]);
    service_fn(move |_: Request<GateBody>| {
        let chunk = chunk.clone();
        let chunks = futures_util::stream::repeat_with(move || Ok(Frame::data(chunk.clone())));
        std::future::ready(Ok(Response::new(GateBody::boxed(http_body_util::StreamBody::new(chunks)))))
    })
}

/// Lets a test fail rather than hang.
async fn patiently<F: Future>(event: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), event).await.expect("the event came")
}

/// Yields to the other tasks until it is so.
async fn until(mut it_is_so: impl FnMut() -> bool) {
    patiently(async {
        while !it_is_so() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
