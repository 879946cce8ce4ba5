//! Who is cut when: silent, half-typed and stalled clients, services that think too long, bodies that stop.
//!
//! The time-outs here are the shortest the configuration takes; a test waits for what they cause (an answer, a closed
//! connection), never for time itself, and asserts nothing of how *fast* anything is. One time-out cannot be
//! configured: its test pauses tokio's clock and reads that.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use crate::harness::{
    client::PASSWORD,
    gateway::{Engine, Gateway, Setup},
    h2::{self, Fate, H2},
    raw::Raw,
    soon,
    tls::Authority,
    upstream::{Held, Reply, Upstream},
    wire::{Io, Piece},
};

/// More than all buffers on the way hold together.
const ENOUGH: usize = 256 << 20;

const ROUTES: &str = r#"
routes:
  - {name: plain, match: {path: "/plain/{*rest}"}, auth: none, cluster: rag}
  - {name: thinks, match: {path: "/thinks/{*rest}"}, auth: none, cluster: rag, body_limit: none, timeouts: {first_byte: 150ms}}
  - {name: idles, match: {path: "/idles/{*rest}"}, auth: none, cluster: rag, timeouts: {idle: 150ms}}
  - {name: drips, match: {path: "/drips/{*rest}"}, auth: none, cluster: rag, timeouts: {body_rate: 1GiB/s, body_grace: 100ms}}
  - {name: whole, match: {path: "/whole/{*rest}"}, auth: none, cluster: rag, body_limit: none, timeouts: {total: 400ms}}
"#;

fn yaml(upstream: &Upstream, timeouts: &str, tls: &str) -> String {
    format!(
        "listeners: {{public: {{bind: \"127.0.0.1:0\", timeouts: {{{timeouts}}}{tls}}}, \
         admin: {{bind: \"127.0.0.1:0\"}}}}\nclusters: {{rag: {{endpoints: [\"{}\"]}}}}\n{ROUTES}",
        upstream.url()
    )
}

async fn gateway(timeouts: &str) -> (Gateway, Upstream) {
    let upstream = Upstream::start().await;
    (Gateway::start(Engine::Sqlite, &yaml(&upstream, timeouts, "")).await, upstream)
}

fn post(path: &str, lines: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n")
}

/// A request at `path` has been sent and is in the test's hands.
async fn in_hands(gateway: &Gateway, upstream: &Upstream, path: &str) -> (Raw, Held) {
    upstream.hold(path);
    let mut raw = gateway.raw().await;
    raw.send(&format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
    (raw, upstream.held().await)
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let (gateway, upstream) = gateway("first_byte: 100ms").await;
    let mut raw = gateway.raw().await;
    assert_eq!(raw.closed().await, b"");
    assert!(gateway.metric("portcullis_connection_errors_total{kind=\"timeout\"}").await >= 1.0);
    upstream.assert_untouched();
}

#[tokio::test]
async fn a_half_typed_head_is_closed() {
    let (gateway, upstream) = gateway("header: 100ms").await;
    for part in ["G", "GET /plain/a HTTP/1.1", "GET /plain/a HTTP/1.1\r\nHost: a.test\r\nX-Slow:"] {
        let mut raw = gateway.raw().await;
        raw.send(part).await;
        raw.closed().await;
    }
    // After a good request the next one is watched as well.
    let mut raw = gateway.raw().await;
    raw.send("GET /plain/a HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(raw.answer().await.unwrap().status, 200);
    raw.send("GET /plain/a HT").await;
    raw.closed().await;
    assert_eq!(upstream.received().len(), 1);
}

/// Sends one byte after another, soon enough to be never silent, until the gateway closes.
async fn drips(gateway: &Gateway, io: impl Io + 'static, bytes: impl Iterator<Item = u8>) {
    let (mut read, mut write) = tokio::io::split(io);
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let dripping = async {
        for byte in bytes {
            ticks.tick().await;
            let _ = write.write_all(&[byte]).await;
            let _ = write.flush().await;
        }
        panic!("the gateway took all of it");
    };
    let mut answer = Vec::new();
    soon("the gateway to close", async {
        tokio::select! {
            _ = read.read_to_end(&mut answer) => {}
            () = dripping => {}
        }
    })
    .await;
    assert!(!answer.starts_with(b"HTTP/1.1 "), "{}", answer.escape_ascii());
    assert!((gateway.metric("portcullis_connection_errors_total{kind=\"timeout\"}").await - 1.0).abs() < f64::EPSILON);
}

/// A listener that speaks by `listener`, and cuts heads after the shortest time there is.
async fn short_heads(listener: &str) -> (Gateway, Authority, Upstream) {
    let upstream = Upstream::start().await;
    let authority = Authority::new();
    let ours = authority.certify("localhost");
    let setup = Setup::new(Engine::Sqlite, &yaml(&upstream, "header: 100ms", listener));
    let setup = setup.file("cert.pem", &ours.certificate).file("key.pem", &ours.key);
    (setup.start().await, authority, upstream)
}

const TLS: &str = ", tls: {certificate: cert.pem, key: key.pem}";

/// A head of HTTP/1.1 that never ends.
fn endless_head() -> impl Iterator<Item = u8> {
    b"GET /plain/a HTTP/1.1\r\nHost: a.test\r\nX-Slow: ".iter().copied().chain(std::iter::repeat_n(b'x', 10_000))
}

/// A header block of HTTP/2 that never ends: each of its frames does.
fn endless_block() -> impl Iterator<Item = u8> {
    let field = h2::block(&[("x-slow", "x")]);
    let more = h2::frame(h2::CONTINUATION, 0, h2::STREAM, &field);
    let first = h2::frame(h2::HEADERS, 0, h2::STREAM, &field);
    let hello = [h2::PREFACE, &h2::frame(h2::SETTINGS, 0, 0, &[]), &first].concat();
    hello.into_iter().chain(std::iter::repeat_n(more, 1_000).flatten())
}

/// A frame of headers that is as large as a frame can be and comes byte by byte.
fn endless_frame() -> impl Iterator<Item = u8> {
    let frame = h2::frame(h2::HEADERS, 5, h2::STREAM, &[b'x'; 16_000]);
    [h2::PREFACE, &h2::frame(h2::SETTINGS, 0, 0, &[]), &frame].concat().into_iter()
}

#[tokio::test]
async fn a_head_that_drips_in_is_closed_plainly_and_over_tls() {
    let (gateway, _authority, upstream) = short_heads("").await;
    drips(&gateway, TcpStream::connect(gateway.address()).await.unwrap(), endless_head()).await;
    upstream.assert_untouched();
    let (gateway, authority, upstream) = short_heads(TLS).await;
    drips(&gateway, authority.connect_h1(gateway.address()).await, endless_head()).await;
    upstream.assert_untouched();
}

#[tokio::test]
async fn a_head_that_drips_in_is_closed_over_http_2_too() {
    for bytes in [endless_block().collect::<Vec<u8>>(), endless_frame().collect()] {
        let (gateway, _authority, upstream) = short_heads(", h2c: true").await;
        drips(&gateway, TcpStream::connect(gateway.address()).await.unwrap(), bytes.iter().copied()).await;
        upstream.assert_untouched();
        let (gateway, authority, upstream) = short_heads(TLS).await;
        drips(&gateway, authority.connect_h2(gateway.address()).await, bytes.into_iter()).await;
        upstream.assert_untouched();
    }
}

#[tokio::test]
async fn a_second_stream_whose_head_never_ends_takes_the_first_with_it() {
    let (gateway, _authority, upstream) = short_heads(", h2c: true").await;
    upstream.hold("/plain/a");
    let mut h2 = H2::begin(TcpStream::connect(gateway.address()).await.unwrap()).await;
    h2.headers(&[(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/plain/a")], true).await;
    let held = upstream.held().await;
    // Nothing may come between the frames of one header block (RFC 9113 §4.3): the connection is of no more use.
    h2.send(&h2::frame(h2::HEADERS, 0, h2::STREAM + 2, &h2::block(&[(":method", "GET")]))).await;
    assert_eq!(h2.fate().await, Fate::Closed);
    held.given_up().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let (gateway, _upstream) = gateway("idle: 1s").await;
    let mut raw = gateway.raw().await;
    raw.send("GET /plain/a HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(raw.answer().await.unwrap().status, 200);
    assert_eq!(raw.closed().await, b"");
}

#[tokio::test]
async fn a_tls_handshake_that_stops_is_closed() {
    let upstream = Upstream::start().await;
    let authority = Authority::new();
    let ours = authority.certify("localhost");
    let yaml = yaml(&upstream, "tls_handshake: 100ms", ", tls: {certificate: cert.pem, key: key.pem}");
    let setup = Setup::new(Engine::Sqlite, &yaml).file("cert.pem", &ours.certificate).file("key.pem", &ours.key);
    let gateway = setup.start().await;
    gateway.raw().await.closed().await;
    let mut raw = gateway.raw().await;
    raw.send_bytes(&[0x16, 0x03, 0x01, 0x02]).await;
    raw.closed().await;
    assert!(gateway.metric("portcullis_connection_errors_total{kind=\"tls\"}").await >= 2.0);
    gateway.tls_client(authority.pem()).get("/plain/a").send().await.expect(200);
}

#[tokio::test]
async fn a_client_that_stops_sending_its_body_gets_408_and_is_closed() {
    let (gateway, upstream) = gateway("").await;
    upstream.hold("/idles/a");
    for (lines, part) in [("Content-Length: 10\r\n", "half"), ("Transfer-Encoding: chunked\r\n", "4\r\nhalf\r\n")] {
        let mut raw = gateway.raw().await;
        raw.send(&post("/idles/a", lines)).await;
        raw.send(part).await;
        let mut held = upstream.held().await;
        let answer = raw.answer().await.unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (408, "body_timeout"));
        raw.closed().await;
        assert!(!held.read_body().await, "the service must not take half a body for a whole one");
    }
}

/// Time is tokio's own here and jumps to the next timer whenever nothing else is to do.
#[tokio::test]
async fn a_form_that_drips_in_is_cut_after_half_a_minute() {
    let (gateway, _upstream) = gateway("").await;
    let body = format!("{{\"email\":\"ann@example.org\",\"password\":\"{PASSWORD}\"}}");
    let mut raw = gateway.raw().await;
    tokio::time::pause();
    #[expect(clippy::disallowed_methods, reason = "the time that was paused, not the gateway's clock")]
    let began = Instant::now();
    raw.send(&post("/auth/login", &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())))
        .await;
    // Never silent for the ten seconds that a form may be silent for.
    for byte in body.chars().take(3) {
        tokio::time::sleep(Duration::from_secs(9)).await;
        raw.send(&byte.to_string()).await;
    }
    let answer = raw.answer().await.unwrap();
    let took = began.elapsed();
    tokio::time::resume();
    assert_eq!((answer.status, answer.code().as_str()), (408, "body_timeout"));
    assert!((30..31).contains(&took.as_secs()), "{took:?}");
    raw.closed().await;
}

#[tokio::test]
async fn an_upload_that_drips_in_gets_408() {
    let (gateway, upstream) = gateway("").await;
    upstream.hold("/drips/a");
    let mut raw = gateway.raw().await;
    raw.send(&post("/drips/a", "Transfer-Encoding: chunked\r\n")).await;
    let mut held = upstream.held().await;
    // Each piece comes long before its sender has been silent for too long, until the gateway has had enough of it.
    let dripping = async {
        while raw.try_send(b"1\r\nx\r\n").await.is_ok() && held.piece().await == Piece::Data(b"x".to_vec()) {}
    };
    soon("the gateway to lose its patience", dripping).await;
    let answer = raw.answer().await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (408, "body_timeout"));
    raw.closed().await;
}

#[tokio::test]
async fn a_stream_that_drips_in_gets_408_on_http2_too() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Engine::Sqlite, &yaml(&upstream, "", ", h2c: true")).await;
    upstream.hold("/drips/a");
    let mut h2 = H2::begin(TcpStream::connect(gateway.address()).await.unwrap()).await;
    let post = [(":method", "POST"), (":scheme", "http"), (":authority", "a.test"), (":path", "/drips/a")];
    h2.headers(&post, false).await;
    let mut held = upstream.held().await;
    let dripping = async {
        loop {
            h2.data("x", false).await;
            if held.piece().await != Piece::Data(b"x".to_vec()) {
                break;
            }
        }
    };
    soon("the gateway to lose its patience", dripping).await;
    assert_eq!(h2.fate().await, Fate::Answered(408, "body_timeout".to_owned()));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_and_holds_little() {
    let (gateway, upstream) = gateway("idle: 1s").await;
    let (_raw, mut held) = in_hands(&gateway, &upstream, "/plain/a").await;
    held.begin(200, &[]).await;
    held.write(&format!("{ENOUGH:x}\r\n")).await;
    // Nobody reads, so the service cannot get rid of it: the pressure reaches back to it, until the client is cut.
    let poured = held.pour(ENOUGH).await;
    assert!(poured.is_err(), "256 MiB went somewhere: {poured:?}");
    held.given_up().await;
}

/// A service that reads no more, whatever it is sent, is out of time, and nothing of the exchange stays behind: not
/// the connection to it, not the client's.
async fn assert_an_unread_upload_ends(path: &str, code: &str) {
    let (gateway, upstream) = gateway("").await;
    upstream.hold(path);
    let mut raw = gateway.raw().await;
    raw.send(&post(path, "Content-Length: 268435456\r\n")).await;
    let held = upstream.held().await;
    let piece = vec![b'x'; 64 << 10];
    let mut sent = 0;
    // When the gateway has given up it discards what still comes, for a while, and then closes.
    while sent < 256 << 20 && raw.try_send(&piece).await.is_ok() {
        sent += piece.len();
    }
    let answer = raw.answer().await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (504, code));
    raw.closed().await;
    let taken = held.given_up().await;
    // The sockets' buffers and hyper's; the rest never left the client or was discarded.
    assert!(taken < 64 << 20, "{taken} bytes went to a service that does not read");
}

#[tokio::test]
async fn an_upload_that_nobody_reads_ends_with_the_services_time() {
    assert_an_unread_upload_ends("/thinks/a", "upstream_timeout").await;
}

#[tokio::test]
async fn an_upload_that_nobody_reads_ends_with_the_total_time() {
    assert_an_unread_upload_ends("/whole/a", "total_timeout").await;
}

#[tokio::test]
async fn a_service_that_thinks_too_long_is_504_and_given_up() {
    let (gateway, upstream) = gateway("").await;
    let (mut raw, held) = in_hands(&gateway, &upstream, "/thinks/a").await;
    let answer = raw.answer().await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (504, "upstream_timeout"));
    held.given_up().await;
    // The client's connection goes on.
    raw.send("GET /plain/a HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(raw.answer().await.unwrap().status, 200);

    // Half a head is no head.
    let (mut raw, mut held) = in_hands(&gateway, &upstream, "/thinks/a").await;
    held.write("HTTP/1.1 200 OK\r\nContent-").await;
    assert_eq!(raw.answer().await.unwrap().code(), "upstream_timeout");
    held.given_up().await;

    // Its time begins when it has the whole request, however that was framed.
    upstream.hold("/thinks/b");
    for body in ["Content-Length: 2\r\n\r\nab", "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"] {
        let mut raw = gateway.raw().await;
        raw.send(&format!("POST /thinks/b HTTP/1.1\r\nHost: a.test\r\n{body}")).await;
        let mut held = upstream.held().await;
        assert!(held.read_body().await);
        assert_eq!(raw.answer().await.unwrap().code(), "upstream_timeout");
        held.given_up().await;
    }
}

#[tokio::test]
async fn a_slow_upload_does_not_count_as_the_services_thinking() {
    let (gateway, upstream) = gateway("").await;
    upstream.hold("/thinks/a");
    let mut raw = gateway.raw().await;
    raw.send(&post("/thinks/a", "Transfer-Encoding: chunked\r\n")).await;
    let mut held = upstream.held().await;
    // Before each piece another request runs out of that very time, from its beginning to its end.
    upstream.hold("/thinks/meanwhile");
    for _ in 0..3 {
        gateway.client().get("/thinks/meanwhile").send().await.refused(504, "upstream_timeout");
        drop(upstream.held().await);
        raw.send("1\r\nx\r\n").await;
        assert_eq!(held.piece().await, Piece::Data(b"x".to_vec()));
    }
    raw.send("0\r\n\r\n").await;
    assert!(held.read_body().await);
    held.answer(&Reply::new(200, "ok")).await;
    assert_eq!(raw.answer().await.unwrap().status, 200);
}

#[tokio::test]
async fn an_answer_that_stops_is_cut_and_not_ended() {
    let (gateway, upstream) = gateway("").await;
    let (mut raw, mut held) = in_hands(&gateway, &upstream, "/idles/a").await;
    held.begin(200, &[]).await;
    held.chunk("some").await;
    let answer = raw.answer().await.unwrap();
    assert_eq!(answer.text(), "some");
    assert!(!answer.body.whole, "a client must not take half an answer for a whole one");
    held.given_up().await;
}

#[tokio::test]
async fn an_exchange_that_takes_too_long_is_cut_wherever_it_stands() {
    let (gateway, upstream) = gateway("").await;
    let (mut raw, held) = in_hands(&gateway, &upstream, "/whole/a").await;
    let answer = raw.answer().await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (504, "total_timeout"));
    held.given_up().await;

    // A stream that never falls silent is held to it too.
    let (mut raw, mut held) = in_hands(&gateway, &upstream, "/whole/b").await;
    held.begin(200, &[]).await;
    held.write(&format!("{:x}\r\n", 1_u64 << 40)).await;
    let pouring = tokio::spawn(async move { held.pour(1 << 40).await });
    let answer = raw.answer().await.unwrap();
    assert!(!answer.body.whole && answer.body.len > 0);
    assert!(pouring.await.unwrap().is_err());
}
