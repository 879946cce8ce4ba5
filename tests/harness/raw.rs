//! A client that sends any bytes at all, for requests no HTTP library would write.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpStream;

use crate::harness::{
    invariants::{Invariants, Seen},
    soon,
    wire::{Body, Conn, Framing, Head, Io},
};

/// One connection to the gateway.
pub(crate) struct Raw {
    conn: Conn,
    invariants: Arc<Invariants>,
}

/// An answer as it was read.
#[derive(Debug)]
pub(crate) struct RawAnswer {
    pub(crate) status: u16,
    pub(crate) head: Head,
    pub(crate) body: Body,
}

impl RawAnswer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body.bytes).into_owned()
    }

    /// `code` of a problem document; empty when there is no body (a refusal of the HTTP library's own).
    pub(crate) fn code(&self) -> String {
        let document: serde_json::Value = serde_json::from_slice(&self.body.bytes).unwrap_or_default();
        document["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Raw {
    pub(crate) async fn connect(address: SocketAddr, invariants: &Arc<Invariants>) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream, invariants)
    }

    /// Over a connection of the test's own.
    pub(crate) fn over(io: impl Io + 'static, invariants: &Arc<Invariants>) -> Self {
        Self { conn: Conn::new(io), invariants: Arc::clone(invariants) }
    }

    pub(crate) async fn send(&mut self, bytes: &str) {
        self.send_bytes(bytes.as_bytes()).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        soon("the gateway to take the request", self.conn.write(bytes)).await.unwrap();
    }

    /// The same, when the gateway may have closed meanwhile.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        soon("the gateway to take the request", self.conn.write(bytes)).await
    }

    /// The next answer, or `None` when the connection closed without one.
    pub(crate) async fn answer(&mut self) -> Option<RawAnswer> {
        self.answer_to("GET").await
    }

    /// The same; the answer to HEAD has no body.
    pub(crate) async fn answer_to(&mut self, method: &str) -> Option<RawAnswer> {
        let head = soon("an answer's head", self.conn.head()).await?;
        let status: u16 = head.word(1).parse().expect("a status line");
        let framing = match head.header("content-length") {
            _ if method == "HEAD" || matches!(status, 204 | 304 | 100..200) => Framing::Length(0),
            Some(length) => Framing::Length(length.parse().unwrap()),
            None if head.header("transfer-encoding").is_some() => Framing::Chunked,
            None => Framing::UntilClose,
        };
        let body = soon("an answer's body", self.conn.body(framing)).await;
        let answer = RawAnswer { status, head, body };
        // What hyper's parser refuses by itself knows neither id nor body.
        let bare = answer.head.header("x-request-id").is_none() && answer.body.len == 0;
        if !(bare && matches!(status, 400 | 414 | 431)) && status != 100 {
            self.invariants.check(&Seen {
                status,
                headers: answer.head.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
                body: Some(&answer.body.bytes),
                head_only: method == "HEAD",
            });
        }
        Some(answer)
    }

    /// The next answer's head alone.
    pub(crate) async fn head_only(&mut self) -> Head {
        soon("an answer's head", self.conn.head()).await.expect("the connection closed without an answer")
    }

    /// The next bytes, whatever they are.
    pub(crate) async fn bytes(&mut self, many: usize) -> Vec<u8> {
        soon("bytes of the gateway", self.conn.exactly(many)).await
    }

    /// Waits until the gateway closes; gives what it still sent.
    pub(crate) async fn closed(&mut self) -> Vec<u8> {
        soon("the gateway to close", self.conn.closed()).await
    }
}
