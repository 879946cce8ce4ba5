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

/// One frame on the first stream, its payload nothing but zeros, or in a header block: literals without a name, which
/// nobody decodes before the block has ended.
fn frame(kind: u8, flags: u8, stream: u8, payload: u8) -> Vec<u8> {
    [&[0, 0, payload, kind, flags, 0, 0, 0, stream][..], &vec![0; payload.into()]].concat()
}

const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Sends one byte after another until the server has had enough of it.
async fn drips(server: &Server, mut client: Client, bytes: impl Iterator<Item = u8>) {
    let mut ticks = tokio::time::interval(SHORT / 8);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let dripping = async {
        for byte in bytes {
            ticks.tick().await;
            if client.0.write_all(&[byte]).await.is_err() || server.metrics.connections_open.get() == 0 {
                break;
            }
        }
    };
    patiently(dripping).await;
    assert_eq!(server.errors(ConnectionError::Timeout), 1);
}

fn short_header() -> Listener {
    let mut listener = h2c();
    listener.timeouts.header = SHORT;
    listener
}

#[tokio::test]
async fn bytes_that_keep_coming_do_not_prolong_a_header_block() {
    // Each CONTINUATION is whole: only the block never ends.
    let server = Server::start(&short_header(), echo());
    let mut client = server.connect().await;
    client.0.write_all(&[HELLO, &frame(1, 0, 1, 1)].concat()).await.expect("writes");
    drips(&server, client, frame(9, 0, 1, 1).into_iter().cycle()).await;
}

#[tokio::test]
async fn a_dripped_preface_is_cut() {
    let server = Server::start(&short_header(), echo());
    let client = server.connect().await;
    drips(&server, client, HELLO.iter().copied()).await;
}

#[tokio::test]
async fn a_dripped_frame_of_headers_is_cut() {
    let server = Server::start(&short_header(), echo());
    let mut client = server.connect().await;
    client.0.write_all(HELLO).await.expect("writes");
    drips(&server, client, frame(1, 5, 1, 200).into_iter()).await;
}

#[tokio::test]
async fn a_half_typed_head_is_cut_although_another_stream_is_open() {
    let server = Server::start(
        &short_header(),
        service_fn(|_: Request<GateBody>| std::future::pending::<Result<_, Infallible>>()),
    );
    let mut client = server.connect().await;
    // Out of the static table (RFC 7541 §6.1, appendix A): GET, http, /; and `:authority` is `a`.
    let get = [&frame(1, 5, 1, 6)[..9], b"\x82\x86\x84\x41\x01a"].concat();
    client.0.write_all(&[HELLO, &get].concat()).await.expect("writes");
    until(|| server.metrics.connections_open.get() == 1).await;
    client.0.write_all(&frame(1, 0, 3, 1)).await.expect("writes");
    until(|| server.errors(ConnectionError::Timeout) == 1).await;
}

#[tokio::test]
async fn frames_that_come_whole_do_not_prolong_an_idle_connection() {
    let mut listener = h2c();
    listener.timeouts.idle = IDLE;
    let server = Server::start(&listener, echo());
    let mut client = server.connect().await;
    client.0.write_all(HELLO).await.expect("writes");
    // PINGs, in two pieces each, so that each is seen half.
    let ping = frame(6, 0, 0, 8);
    let pinging = async {
        let mut ticks = tokio::time::interval(IDLE / 20);
        for half in ping.chunks(9).cycle() {
            ticks.tick().await;
            if client.0.write_all(half).await.is_err() || server.metrics.connections_open.get() == 0 {
                break;
            }
        }
    };
    patiently(pinging).await;
    assert_eq!(server.ended(ConnectionResult::Retired), 1);
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

#[tokio::test]
async fn a_body_may_take_longer_than_a_head_may() {
    let server = Server::start(&short_header(), echo());
    let mut client = server.connect().await;
    // As above, but a POST whose body is to come: 100 bytes in one padded frame (RFC 9113 §6.1), drop by drop.
    let post = [&frame(1, 4, 1, 6)[..9], b"\x83\x86\x84\x41\x01a"].concat();
    let padded = [0, 0, 200, 0, 8, 0, 0, 0, 1, 99];
    client.0.write_all(&[HELLO, &post, &padded].concat()).await.expect("writes");
    let mut ticks = tokio::time::interval(SHORT / 8);
    for _ in 0..19 {
        ticks.tick().await;
        client.0.write_all(&[0; 10]).await.expect("writes");
    }
    // PING, PRIORITY and a frame of a type that nobody knows; then the body's end.
    let others = [frame(6, 0, 0, 8), frame(2, 0, 1, 5), frame(0xbe, 0, 1, 3), frame(0, 1, 1, 0)].concat();
    client.0.write_all(&[&[0; 9], &others[..]].concat()).await.expect("writes");
    let (mut came, expected) = (Vec::new(), b"POST / 100 tls=false");
    let answered = async {
        while !came.ends_with(expected) {
            came.push(client.0.read_u8().await.expect("an answer"));
        }
    };
    patiently(answered).await;
    assert_eq!(server.errors(ConnectionError::Timeout), 0);
}
