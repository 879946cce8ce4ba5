//! Floods of HTTP/2 frames, each as it was found in the wild: what they are answered with, that nobody else pays for
//! them, and that none of it needs more than one connection's memory. What the HTTP library ends, and with which
//! limits, is said in `edge/listener.rs`; what it would answer for ever, `edge/watch.rs` ends.

use tokio::net::TcpStream;

use crate::harness::{
    gateway::{Engine, Gateway, standard},
    h2::{CONTINUATION, DATA, END_HEADERS, END_STREAM, Fate, H2, HEADERS, RST_STREAM, SETTINGS, STREAM, block, frame},
    soon,
    upstream::Upstream,
};

const PRIORITY: u8 = 2;
const PING: u8 = 6;

/// RFC 9113 §7.
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

async fn gateway(more: &str) -> (Gateway, Upstream) {
    let upstream = Upstream::start().await;
    let listeners = format!("{{public: {{bind: \"127.0.0.1:0\", h2c: true{more}}}, admin: {{bind: \"127.0.0.1:0\"}}}}");
    let yaml = format!("listeners: {listeners}\n{}", standard(&upstream));
    (Gateway::start(Engine::Sqlite, &yaml).await, upstream)
}

async fn connect(gateway: &Gateway) -> H2 {
    H2::begin(TcpStream::connect(gateway.address()).await.unwrap()).await
}

fn request(path: &str) -> Vec<u8> {
    block(&[(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", path)])
}

fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &request(path))
}

/// Streams of a client: odd numbers.
fn streams(many: u32) -> impl Iterator<Item = u32> {
    (0..many).map(|nth| STREAM + 2 * nth)
}

/// It ends, by a word of this error if the client gets to read it; others are served as ever.
async fn assert_ended(gateway: &Gateway, h2: &mut H2, kind: &str) {
    let error = h2.end().await;
    assert!(matches!(error, None | Some(ENHANCE_YOUR_CALM)), "{error:?}");
    let line = format!("portcullis_connection_errors_total{{kind=\"{kind}\"}}");
    soon("the connection to be counted", async { while gateway.metric(&line).await < 0.5 {} }).await;
    let mut other = connect(gateway).await;
    other.send(&get(STREAM, "/open/a")).await;
    assert_eq!(other.fate().await, Fate::Answered(200, String::new()));
}

/// Sends the same again and again, as long as the gateway takes it: a flood has no end of its own.
async fn flood(h2: &mut H2, piece: &[u8], times: usize) {
    let bytes = piece.repeat(100);
    for _ in 0..times / 100 {
        h2.send(&bytes).await;
    }
}

#[tokio::test]
async fn requests_taken_back_at_once_end_the_connection() {
    let (gateway, _upstream) = gateway("").await;
    let mut h2 = connect(&gateway).await;
    let reset = |stream| [get(stream, "/open/a"), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat();
    let rapid: Vec<u8> = streams(2_000).flat_map(reset).collect();
    h2.send(&rapid).await;
    assert_ended(&gateway, &mut h2, "parse").await;
}

#[tokio::test]
async fn requests_taken_back_with_patience_end_the_connection_too() {
    let (gateway, upstream) = gateway("").await;
    upstream.hold("/open/held");
    let mut h2 = connect(&gateway).await;
    let all: Vec<u32> = streams(2_000).collect();
    for some in all.chunks(100) {
        // Once a PING behind them is answered they have been let in, so that nothing waits to be.
        let asked: Vec<u8> = some.iter().flat_map(|stream| get(*stream, "/open/held")).collect();
        h2.send(&[asked, frame(PING, 0, 0, &[7; 8])].concat()).await;
        if !h2.comes(PING, 0).await {
            break;
        }
        h2.send(&some.iter().flat_map(|stream| frame(RST_STREAM, 0, *stream, &[0, 0, 0, 8])).collect::<Vec<_>>()).await;
    }
    assert_ended(&gateway, &mut h2, "flood").await;
}

#[tokio::test]
async fn a_header_block_in_a_thousand_pieces_ends_the_connection() {
    let (gateway, upstream) = gateway("").await;
    for piece in [block(&[("x-a", "b")]), Vec::new()] {
        let mut h2 = connect(&gateway).await;
        h2.send(&frame(HEADERS, END_STREAM, STREAM, &request("/open/a"))).await;
        flood(&mut h2, &frame(CONTINUATION, 0, STREAM, &piece), 20_000).await;
        assert_ended(&gateway, &mut h2, "parse").await;
    }
    assert!(upstream.received().iter().all(|received| received.head.all("x-a").is_empty()));
}

#[tokio::test]
async fn streams_above_the_limit_are_refused_and_the_others_go_on() {
    let (gateway, upstream) = gateway(", h2_max_streams: 3").await;
    upstream.hold("/open/held");
    let mut h2 = connect(&gateway).await;
    // The first stream is the one whose fate is read: it comes last here, as the number of a later one cannot be less.
    let all: Vec<u8> = streams(4).map(|stream| stream + 2).flat_map(|stream| get(stream, "/open/held")).collect();
    h2.send(&all).await;
    assert_eq!(h2.reset_of(STREAM + 8).await, Some(REFUSED_STREAM));
    for _ in 0..3 {
        let mut held = upstream.held().await;
        held.answer(&crate::harness::upstream::Reply::new(200, "done")).await;
    }
}

#[tokio::test]
async fn faults_that_make_the_gateway_reset_streams_end_the_connection() {
    let (gateway, upstream) = gateway("").await;
    upstream.hold("/open/held");
    let mut h2 = connect(&gateway).await;
    // A field that may not be there (RFC 9113 §8.2.2): a fault of the stream, which the gateway must reset (CVE-2025-8671).
    let faulty = [request("/open/held"), block(&[("connection", "close")])].concat();
    let made = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &faulty);
    let bytes: Vec<u8> = streams(2_000).flat_map(made).collect();
    h2.send(&bytes).await;
    assert_ended(&gateway, &mut h2, "parse").await;
}

#[tokio::test]
async fn frames_that_ask_for_nothing_end_the_connection() {
    let (gateway, _upstream) = gateway("").await;
    for piece in [
        frame(PING, 0, 0, &[7; 8]),
        frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]),
        frame(PRIORITY, 0, STREAM, &[0, 0, 0, 0, 9]),
        frame(0x5c, 0, 0, b"unknown"),
    ] {
        let mut h2 = connect(&gateway).await;
        flood(&mut h2, &piece, 20_000).await;
        assert_ended(&gateway, &mut h2, "flood").await;
    }
}

#[tokio::test]
async fn a_body_of_nothing_ends_the_connection() {
    let (gateway, upstream) = gateway("").await;
    upstream.hold("/open/held");
    let mut h2 = connect(&gateway).await;
    let post = [(":method", "POST"), (":scheme", "http"), (":authority", "a.test"), (":path", "/open/held")];
    h2.headers(&post, false).await;
    let mut held = upstream.held().await;
    flood(&mut h2, &frame(DATA, 0, STREAM, &[]), 20_000).await;
    assert!(!held.read_body().await);
    // By the HTTP library, which counts them before our watch does; not by a time-out.
    assert_ended(&gateway, &mut h2, "parse").await;
}

#[tokio::test]
async fn a_client_that_pings_while_it_takes_an_answer_is_left_alone() {
    let (gateway, upstream) = gateway("").await;
    upstream.hold("/open/held");
    let mut h2 = connect(&gateway).await;
    h2.send(&get(STREAM, "/open/held")).await;
    let mut held = upstream.held().await;
    held.begin(200, &[("transfer-encoding", "chunked")]).await;
    for _ in 0..30 {
        h2.send(&frame(PING, 0, 0, &[7; 8]).repeat(200)).await;
        held.chunk("a piece").await;
        h2.until(DATA, STREAM).await;
    }
    h2.send(&get(STREAM + 2, "/open/a")).await;
    h2.until(HEADERS, STREAM + 2).await;
}
