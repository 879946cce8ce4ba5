//! HTTP/1.1: the phases of a connection, the parser's limits, bodies.

use std::{
    sync::Mutex,
    task::{Context, Poll},
};

use super::*;

fn with(change: impl FnOnce(&mut Listener)) -> Listener {
    let mut listener = listener();
    change(&mut listener);
    listener
}

#[tokio::test]
async fn a_silent_connection_is_cut() {
    let server = Server::start(&with(|listener| listener.timeouts.first_byte = SHORT), echo());
    assert_eq!(server.connect().await.closed().await, "");
    assert_eq!(server.drained().await.connection_errors.of(ConnectionError::Timeout).get(), 1);
}

#[tokio::test]
async fn a_half_typed_head_is_cut() {
    let server = Server::start(&with(|listener| listener.timeouts.header = SHORT), echo());
    let mut client = server.connect().await;
    client.send("GET /a HTTP/1.1\r\nho").await;
    assert_eq!(client.closed().await, "");
    assert_eq!(server.drained().await.connection_errors.of(ConnectionError::Timeout).get(), 1);
}

#[tokio::test]
async fn a_half_typed_second_head_is_cut() {
    let server = Server::start(&with(|listener| listener.timeouts.header = SHORT), echo());
    let mut client = server.connect().await;
    client.send("POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc").await;
    assert!(client.answer().await.ends_with("POST /a 3 tls=false"));
    client.send("G").await;
    assert_eq!(client.closed().await, "");
    assert_eq!(server.drained().await.connection_errors.of(ConnectionError::Timeout).get(), 1);
}

#[tokio::test]
async fn bytes_that_keep_coming_do_not_prolong_a_head() {
    let server = Server::start(&with(|listener| listener.timeouts.header = SHORT), echo());
    let client = server.connect().await;
    let (mut read, mut write) = client.0.into_split();
    write.write_all(b"GET /a HTTP/1.1\r\nx: ").await.expect("writes");
    let dribble = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(SHORT / 20);
        loop {
            ticks.tick().await;
            if write.write_all(b"a").await.is_err() {
                break;
            }
        }
    });
    let _ = patiently(read.read_to_end(&mut Vec::new())).await;
    assert_eq!(server.errors(ConnectionError::Timeout), 1);
    dribble.await.expect("ends when the socket is closed");
}

#[tokio::test]
async fn a_connection_that_stalls_between_requests_is_closed_without_an_error() {
    let server = Server::start(&with(|listener| listener.timeouts.idle = SHORT), echo());
    let mut client = server.connect().await;
    client.send(GET).await;
    client.answer().await;
    assert_eq!(client.closed().await, "");
    assert_eq!(server.ended(ConnectionResult::Retired), 1);
    assert_eq!(server.drained().await.connection_errors.of(ConnectionError::Timeout).get(), 0);
}

#[tokio::test]
async fn a_running_request_is_not_cut_by_any_time_out_of_the_edge() {
    let short = ConnectionTimeouts { tls_handshake: SHORT, first_byte: SHORT, header: SHORT, idle: SHORT };
    let slow = service_fn(|_: Request<GateBody>| async {
        tokio::time::sleep(SHORT * 3).await;
        Ok::<_, Infallible>(Response::new(GateBody::full("late")))
    });
    let server = Server::start(&with(|listener| listener.timeouts = short), slow);
    let mut client = server.connect().await;
    client.send(GET).await;
    assert!(client.answer().await.ends_with("late"));
}

#[tokio::test]
async fn a_client_that_stops_reading_is_cut() {
    let server = Server::start(&with(|listener| listener.timeouts.idle = SHORT), endless());
    let mut client = server.connect().await;
    client.send(GET).await;
    until(|| server.errors(ConnectionError::Timeout) == 1).await;
}

#[tokio::test]
async fn a_client_that_hangs_up_cancels_its_request() {
    struct Cancelled(Option<oneshot::Sender<()>>);
    impl Drop for Cancelled {
        fn drop(&mut self) {
            let _ = self.0.take().map(|sender| sender.send(()));
        }
    }
    let (sender, cancelled) = oneshot::channel();
    let (called, was_called) = oneshot::channel();
    let once = Arc::new(Mutex::new(Some((called, Cancelled(Some(sender))))));
    let server = Server::start(
        &listener(),
        service_fn(move |_: Request<GateBody>| {
            let (called, guard) = once.lock().expect("unpoisoned").take().expect("one request");
            async move {
                let _guard = guard;
                let _ = called.send(());
                std::future::pending::<Result<Response<GateBody>, Infallible>>().await
            }
        }),
    );
    let mut client = server.connect().await;
    client.send(GET).await;
    was_called.await.expect("called");
    drop(client);
    cancelled.await.expect("the gate's future was dropped");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(&listener(), echo());
    let mut client = server.connect().await;
    client.send("GET /1 HTTP/1.1\r\nhost: x\r\n\r\nGET /2 HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(client.answer().await.ends_with("GET /1 0 tls=false"));
    assert!(client.answer().await.ends_with("GET /2 0 tls=false"));
}

#[tokio::test]
async fn an_oversized_head_is_431() {
    let server = Server::start(&with(|listener| listener.max_header_bytes = 1024), echo());
    let mut client = server.connect().await;
    client.send(&format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "a".repeat(1024))).await;
    assert!(client.closed().await.starts_with("HTTP/1.1 431 "));
    drop(client);
    assert_eq!(server.drained().await.connection_errors.of(ConnectionError::TooLarge).get(), 1);
}

#[tokio::test]
async fn an_endless_head_is_431_and_the_client_can_read_it() {
    let server = Server::start(&listener(), echo());
    let mut client = server.connect().await;
    client.send(&format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}", "a".repeat(512 * 1024))).await;
    assert!(client.closed().await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn a_head_within_its_limits_is_served_whatever_its_pieces() {
    let server = Server::start(&with(|listener| listener.max_headers = 200), echo());
    let mut client = server.connect().await;
    client.send("GET /a HTTP/1.1\r\nhost: x\r\n").await;
    for number in 0..150 {
        client.send(&format!("x{number}: 1\r\n")).await;
    }
    client.send("\r\n").await;
    assert!(client.answer().await.ends_with("GET /a 0 tls=false"));
}

#[tokio::test]
async fn too_many_headers_are_431() {
    for limit in [100, 20] {
        let server = Server::start(&with(|listener| listener.max_headers = limit), echo());
        let mut client = server.connect().await;
        client.send(&format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: 1\r\n".repeat(limit))).await;
        assert!(client.closed().await.starts_with("HTTP/1.1 431 "), "{limit}");
    }
}

#[tokio::test]
async fn what_is_not_http_is_400_and_counted() {
    let server = Server::start(&listener(), echo());
    let mut client = server.connect().await;
    client.send("\u{16}\u{3}\u{1}\0 this is no request\r\n\r\n").await;
    assert!(client.closed().await.starts_with("HTTP/1.1 400 "));
    drop(client);
    assert_eq!(server.drained().await.connection_errors.of(ConnectionError::Parse).get(), 1);
}

#[tokio::test]
async fn an_early_refusal_reaches_a_client_that_is_still_sending() {
    let refuse = service_fn(|_: Request<GateBody>| async {
        let mut response = Response::new(GateBody::full("too large"));
        *response.status_mut() = http::StatusCode::PAYLOAD_TOO_LARGE;
        Ok::<_, Infallible>(response)
    });
    let server = Server::start(&listener(), refuse);
    let mut client = server.connect().await;
    client.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 8388608\r\n\r\n").await;
    // Far more than all buffers hold: without someone who discards it, this ends in a reset.
    patiently(client.0.write_all(&vec![0; 8 * 1024 * 1024])).await.expect("no reset");
    client.0.shutdown().await.expect("no reset");
    let mut answer = Vec::new();
    client.0.read_to_end(&mut answer).await.expect("no reset");
    let answer = String::from_utf8(answer).expect("text");
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.ends_with("too large"), "{answer}");
}

#[tokio::test]
async fn an_idle_connection_parks_and_serves_again() {
    let server = Server::start(&with(|listener| listener.timeouts.idle = SHORT * 40), echo());
    let mut client = server.connect().await;
    client.send("POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc").await;
    client.answer().await;
    assert_eq!(server.metrics.connections_parked.get(), 0);
    until(|| server.metrics.connections_parked.get() == 1).await;
    client.send(GET).await;
    assert!(client.answer().await.ends_with("GET /a 0 tls=false"));
    assert_eq!(server.metrics.connections_parked.get(), 0);
}

#[tokio::test]
async fn a_parked_connection_keeps_the_beginning_of_a_pipelined_request() {
    let server = Server::start(&with(|listener| listener.timeouts.idle = SHORT * 40), echo());
    let mut client = server.connect().await;
    client.send("GET /1 HTTP/1.1\r\nhost: x\r\n\r\nGET /2 HT").await;
    client.answer().await;
    until(|| server.metrics.connections_parked.get() == 1).await;
    client.send("TP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(client.answer().await.ends_with("GET /2 0 tls=false"));
}

/// Ready only when asked twice.
#[derive(Clone)]
struct Reluctant<S>(S, bool);

impl<S: Gate> tower::Service<Request<GateBody>> for Reluctant<S> {
    type Response = Response<GateBody>;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if std::mem::replace(&mut self.1, true) {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn call(&mut self, request: Request<GateBody>) -> S::Future {
        assert!(std::mem::take(&mut self.1), "called before it was ready");
        self.0.call(request)
    }
}

#[tokio::test]
async fn a_gate_that_is_not_ready_is_waited_for() {
    let server = Server::start(&listener(), Reluctant(echo(), false));
    let mut client = server.connect().await;
    for _ in 0..3 {
        client.send(GET).await;
        assert!(client.answer().await.ends_with("GET /a 0 tls=false"));
    }
}

/// Time is tokio's own here and jumps to the next timer whenever nothing else is to do.
#[tokio::test]
async fn an_answer_that_breaks_off_ends_at_once() {
    let broken = service_fn(|_: Request<GateBody>| async {
        let frames = [
            Ok(http_body::Frame::data(bytes::Bytes::from_static(b"some"))),
            Err(crate::gate::body::BodyFault::Cut(crate::policy::reason::Reason::AnswerCut)),
        ];
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        Ok::<_, Infallible>(Response::new(GateBody::boxed(body)))
    });
    let server = Server::start(&listener(), broken);
    let mut client = server.connect().await;
    tokio::time::pause();
    #[expect(clippy::disallowed_methods, reason = "the time that was paused, not the clock")]
    let began = tokio::time::Instant::now();
    client.send(GET).await;
    client.closed().await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}
