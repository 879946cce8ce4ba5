//! HTTP/2 as frames (RFC 9113), for requests no HTTP library would write: a header block is whatever the test says, in
//! literals that need no table (RFC 7541 §6.2.2). Just enough is read to know what became of the first stream.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{soon, wire::Io};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// The one stream of a connection.
pub(crate) const STREAM: u32 = 1;

/// Frames are no larger than every peer takes without having said so.
const MAX_FRAME: usize = 16_384;

/// One connection that carries one request.
pub(crate) struct H2 {
    io: Box<dyn Io>,
}

/// What became of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// An answer, and `code` of its problem document; empty when it has none.
    Answered(u16, String),
    /// The stream was reset, or the connection ended, with this error code (RFC 9113 §7).
    Reset(u32),
    /// The connection was closed without a word.
    Closed,
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl H2 {
    /// Says who it is; the answer to that is read in passing.
    pub(crate) async fn begin(io: impl Io + 'static) -> Self {
        let mut h2 = Self { io: Box::new(io) };
        let mut hello = PREFACE.to_vec();
        hello.extend(frame(SETTINGS, 0, 0, &[]));
        h2.send(&hello).await;
        h2
    }

    /// The header block of the request, without a body when `end`.
    pub(crate) async fn headers(&mut self, fields: &[(&str, &str)], end: bool) {
        let block = block(fields);
        let mut pieces = block.chunks(MAX_FRAME).peekable();
        let (mut kind, mut bytes) = (HEADERS, Vec::new());
        while let Some(piece) = pieces.next() {
            let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
            let ends = if end && kind == HEADERS { END_STREAM } else { 0 };
            bytes.extend(frame(kind, last | ends, STREAM, piece));
            kind = CONTINUATION;
        }
        self.send(&bytes).await;
    }

    /// A piece of the body.
    pub(crate) async fn data(&mut self, data: &str, end: bool) {
        self.send(&frame(DATA, u8::from(end), STREAM, data.as_bytes())).await;
    }

    /// A second header block: trailers, if it ends the stream.
    pub(crate) async fn trailers(&mut self, fields: &[(&str, &str)], end: bool) {
        self.send(&frame(HEADERS, END_HEADERS | u8::from(end), STREAM, &block(fields))).await;
    }

    /// Any bytes at all.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let written = soon("the gateway to take the frames", async {
            self.io.write_all(bytes).await?;
            self.io.flush().await
        });
        // It may have closed meanwhile; what it said before that is still to be read.
        let _ = written.await;
    }

    /// Reads on until it is known.
    pub(crate) async fn fate(&mut self) -> Fate {
        soon("an answer or an end", self.read_fate()).await
    }

    async fn read_fate(&mut self) -> Fate {
        let (mut status, mut body) = (None, Vec::new());
        while let Some(Frame { kind, flags, stream, payload }) = self.frame().await {
            match (kind, stream) {
                (HEADERS, STREAM) => status = status.or_else(|| Some(status_of(&payload))),
                (DATA, STREAM) => body.extend(payload),
                (RST_STREAM, STREAM) => return status.map_or(Fate::Reset(number(&payload)), |it| answered(it, &body)),
                // Behind the number of the last stream; a good-bye without an error says nothing of ours.
                (GOAWAY, _) if number(&payload[4..]) != 0 => return Fate::Reset(number(&payload[4..])),
                _ => continue,
            }
            if let (Some(status), HEADERS | DATA) = (status, kind)
                && flags & END_STREAM != 0
            {
                return answered(status, &body);
            }
        }
        Fate::Closed
    }

    /// Reads on until the gateway ends the connection; gives the error it named, if that came through.
    pub(crate) async fn end(&mut self) -> Option<u32> {
        let end = async {
            while let Some(frame) = self.frame().await {
                let error = (frame.kind == GOAWAY).then(|| number(&frame.payload[4..]));
                if error.is_some_and(|error| error != 0) {
                    return error;
                }
            }
            None
        };
        soon("the gateway to end the connection", end).await
    }

    /// Reads on until this stream is reset; gives the error.
    pub(crate) async fn reset_of(&mut self, stream: u32) -> Option<u32> {
        let reset = async {
            loop {
                let frame = self.frame().await?;
                if (frame.kind, frame.stream) == (RST_STREAM, stream) {
                    return Some(number(&frame.payload));
                }
            }
        };
        soon("the stream to be reset", reset).await
    }

    /// Reads on until a frame of this kind comes on this stream.
    pub(crate) async fn until(&mut self, kind: u8, stream: u32) {
        assert!(self.comes(kind, stream).await, "the connection has ended");
    }

    /// The same, if the connection does not end before.
    pub(crate) async fn comes(&mut self, kind: u8, stream: u32) -> bool {
        let comes = async {
            while let Some(frame) = self.frame().await {
                if (frame.kind, frame.stream) == (kind, stream) {
                    return true;
                }
            }
            false
        };
        soon("a frame", comes).await
    }

    async fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; number(&[&[0], &head[..3]].concat()) as usize];
        self.io.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind: head[3], flags: head[4], stream: number(&head[5..]), payload })
    }
}

fn answered(status: u16, body: &[u8]) -> Fate {
    let document: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    Fate::Answered(status, document["code"].as_str().unwrap_or_default().to_owned())
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// An integer with a prefix of seven bits (RFC 7541 §5.1).
fn length(block: &mut Vec<u8>, length: usize) {
    let mut byte = |value: usize, flag: u8| block.push(u8::try_from(value).unwrap() | flag);
    let Some(mut rest) = length.checked_sub(127) else { return byte(length, 0) };
    byte(127, 0);
    while rest >= 128 {
        byte(rest % 128, 128);
        rest /= 128;
    }
    byte(rest, 0);
}

/// `:status` is the first field of an answer: out of the static table, or named by it with a value of its own.
fn status_of(block: &[u8]) -> u16 {
    match block[0] {
        indexed @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        0x48 | 0x08 | 0x18 => {
            let len = usize::from(block[1] & 0x7f);
            let value = &block[2..2 + len];
            let digits = if block[1] & 0x80 == 0 { String::from_utf8(value.to_vec()).unwrap() } else { digits(value) };
            digits.parse().unwrap()
        }
        other => panic!("no status: {other:#x} in {block:?}"),
    }
}

/// Three digits in Huffman's code (RFC 7541, appendix B): `0` to `2` are five bits long, the others six from 0x19 on.
fn digits(coded: &[u8]) -> String {
    let mut bits = coded.iter().flat_map(|byte| (0..8).rev().map(move |at| u32::from(byte >> at & 1)));
    let mut digit = || {
        let mut code = (0..5).fold(0, |code, _| code << 1 | bits.next().unwrap());
        if code > 2 {
            code = (code << 1 | bits.next().unwrap()) - 0x19 + 3;
        }
        char::from_digit(code, 10).unwrap()
    };
    [digit(), digit(), digit()].iter().collect()
}
