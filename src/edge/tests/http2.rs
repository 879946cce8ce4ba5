//! HTTP/2 with prior knowledge; by ALPN in `tls`.

use http::{StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;

/// Long enough for a loaded machine to send its first request.
const IDLE: Duration = Duration::from_millis(500);

type Sender = SendRequest<Empty<bytes::Bytes>>;

/// A client and the task that drives it; the task ends when the server closes.
async fn client(server: &Server) -> (Sender, JoinHandle<()>) {
    let stream = TcpStream::connect(server.address).await.expect("connects");
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("shakes hands");
    let driven = tokio::spawn(async move {
        let _ = connection.await;
    });
    (sender, driven)
}

fn h2c() -> Listener {
    let mut listener = listener();
    listener.h2c = true;
    listener
}

fn get(headers: usize) -> Request<Empty<bytes::Bytes>> {
    let mut request = Request::get("http://x/a").body(Empty::new()).expect("a request");
    for _ in 0..headers {
        request.headers_mut().append("a", http::HeaderValue::from_static("1"));
    }
    request
}

#[tokio::test]
async fn prior_knowledge_is_served_and_streams_share_a_connection() {
    let server = Server::start(&h2c(), echo());
    let (mut sender, _driven) = client(&server).await;
    let (one, other) = (sender.send_request(get(0)), sender.clone().send_request(get(0)));
    let (one, other) = tokio::join!(one, other);
    for response in [one, other] {
        let response = response.expect("an answer");
        assert_eq!(response.version(), Version::HTTP_2);
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!(body, "GET /a 0 tls=false");
    }
    assert_eq!(server.metrics.connections_open.get(), 1);
}

#[tokio::test]
async fn too_many_headers_are_431() {
    let server = Server::start(&h2c(), echo());
    let (mut sender, _driven) = client(&server).await;
    let response = sender.send_request(get(101)).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(server.errors(ConnectionError::TooLarge), 1, "nobody else tells of it");
    let response = sender.send_request(get(1)).await.expect("the connection lives on");
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_header_list_above_the_limit_is_refused() {
    let server = Server::start(&h2c(), echo());
    let (mut sender, _driven) = client(&server).await;
    let mut request = get(0);
    let value = http::HeaderValue::from_str(&"a".repeat(20 * 1024)).expect("a value");
    request.headers_mut().insert("x", value);
    let refused = match sender.send_request(request).await {
        Ok(response) => response.status() == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Err(_) => true,
    };
    assert!(refused);
}

#[tokio::test]
async fn a_silent_connection_is_cut() {
    let mut listener = h2c();
    listener.timeouts.first_byte = SHORT;
    let server = Server::start(&listener, echo());
    assert_eq!(server.connect().await.closed().await, "");
    assert_eq!(server.errors(ConnectionError::Timeout), 1);
}

#[tokio::test]
async fn a_half_typed_preface_is_cut() {
    let mut listener = h2c();
    listener.timeouts.idle = IDLE;
    let server = Server::start(&listener, echo());
    let mut client = server.connect().await;
    client.send("PRI * HTTP/2.0\r\n").await;
    client.closed().await;
    until(|| server.metrics.connections_open.get() == 0).await;
}

#[tokio::test]
async fn a_connection_without_streams_is_retired() {
    let mut listener = h2c();
    listener.timeouts.idle = IDLE;
    let server = Server::start(&listener, echo());
    let (mut sender, driven) = client(&server).await;
    sender.send_request(get(0)).await.expect("an answer").into_body().collect().await.expect("a body");
    patiently(driven).await.expect("the server says GOAWAY and closes");
    assert_eq!(server.drained().await.connections.of(ConnectionResult::Retired).get(), 1);
}

#[tokio::test]
async fn a_client_that_grants_no_window_is_cut() {
    let mut listener = h2c();
    listener.timeouts.idle = IDLE;
    let server = Server::start(&listener, endless());
    let (mut sender, driven) = client(&server).await;
    let response = sender.send_request(get(0)).await.expect("an answer");
    patiently(driven).await.expect("the server closes");
    drop(response);
    assert_eq!(server.errors(ConnectionError::Timeout), 1);
}

#[tokio::test]
async fn a_client_that_grants_no_window_is_cut_however_late_the_body_comes() {
    let mut listener = h2c();
    listener.timeouts.idle = IDLE;
    let late = service_fn(|_: Request<GateBody>| async {
        // When nothing moves on the connection any more, the watch's timer neither.
        let frames = futures_util::stream::once(async {
            tokio::time::sleep(IDLE * 2).await;
            Ok(http_body::Frame::data(bytes::Bytes::from_static(b"event")))
        });
        Ok::<_, Infallible>(Response::new(GateBody::boxed(http_body_util::StreamBody::new(frames))))
    });
    let server = Server::start(&listener, late);
    let stream = TcpStream::connect(server.address).await.expect("connects");
    let shut = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake(TokioIo::new(stream))
        .await;
    let (mut sender, connection) = shut.expect("shakes hands");
    let driven = tokio::spawn(async move {
        let _ = connection.await;
    });
    let response = sender.send_request(get(0)).await.expect("an answer");
    patiently(driven).await.expect("the server closes");
    drop(response);
    assert_eq!(server.errors(ConnectionError::Timeout), 1);
}

#[tokio::test]
async fn a_silent_stream_whose_client_reads_is_not_cut() {
    let mut listener = h2c();
    listener.timeouts.idle = IDLE;
    let slow = service_fn(|_: Request<GateBody>| async {
        let late = futures_util::stream::once(async {
            tokio::time::sleep(IDLE * 2).await;
            Ok(http_body::Frame::data(bytes::Bytes::from_static(b"event")))
        });
        Ok::<_, Infallible>(Response::new(GateBody::boxed(http_body_util::StreamBody::new(late))))
    });
    let server = Server::start(&listener, slow);
    let (mut sender, _driven) = client(&server).await;
    let body = sender.send_request(get(0)).await.expect("an answer").into_body().collect().await.expect("a body");
    assert_eq!(body.to_bytes(), "event");
}

#[tokio::test]
async fn a_drain_says_goaway_and_ends() {
    let server = Server::start(&h2c(), echo());
    let (mut sender, driven) = client(&server).await;
    sender.send_request(get(0)).await.expect("an answer").into_body().collect().await.expect("a body");
    let metrics = server.drained().await;
    patiently(driven).await.expect("ends");
    assert_eq!(metrics.connections.of(ConnectionResult::Retired).get(), 1);
}

#[tokio::test]
async fn what_is_not_http2_is_counted() {
    let server = Server::start(&h2c(), echo());
    let mut client = server.connect().await;
    client.send(GET).await;
    client.closed().await;
    until(|| server.errors(ConnectionError::Parse) == 1).await;
}
