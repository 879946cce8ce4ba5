//! A scripted service behind the gateway. It records exactly what it was sent and does exactly what the test says:
//! answers by itself, or hands a request over to the test, which then writes, reads, waits or breaks off.

use std::{
    collections::HashMap,
    fmt::Write,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::harness::{
    soon,
    tls::Certified,
    wire::{Body, Bytes, Conn, Framing, Head, Piece},
};

/// Every answer of an upstream carries this, so that the client can tell it from an answer of the gateway's own.
pub(crate) const MARK: &str = "x-test-upstream";

/// One request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) head: Head,
    pub(crate) body: Body,
    /// Which connection of this upstream it came over, counted from 1.
    pub(crate) connection: usize,
    /// The name asked for in the TLS handshake.
    pub(crate) sni: Option<String>,
}

impl Received {
    pub(crate) fn method(&self) -> &str {
        self.head.word(0)
    }

    pub(crate) fn target(&self) -> &str {
        self.head.word(1)
    }
}

/// What happens to requests for a path.
#[derive(Debug, Clone)]
enum Script {
    /// Read the body, answer, keep the connection.
    Reply(Reply),
    /// Hand it to the test.
    Hold,
}

/// An answer of fixed length.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: &str) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn render(&self, method: &str) -> Vec<u8> {
        let mut head = head(self.status, &self.headers);
        let _ = write!(head, "content-length: {}\r\n\r\n", self.body.len());
        let mut bytes = head.into_bytes();
        if method != "HEAD" {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

fn head(status: u16, headers: &[(String, String)]) -> String {
    let mut text = format!("HTTP/1.1 {status} Whatever\r\n{MARK}: yes\r\n");
    for (name, value) in headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text
}

struct Shared {
    scripts: Mutex<HashMap<String, Script>>,
    received: watch::Sender<Vec<Received>>,
    held: mpsc::UnboundedSender<Held>,
    connections: AtomicUsize,
    bytes: Mutex<Vec<Bytes>>,
}

/// The service.
pub(crate) struct Upstream {
    address: SocketAddr,
    https: bool,
    shared: Arc<Shared>,
    held: tokio::sync::Mutex<mpsc::UnboundedReceiver<Held>>,
    _serving: JoinSet<()>,
}

impl Upstream {
    /// Answers 200 to everything until told otherwise.
    pub(crate) async fn start() -> Self {
        Self::serve("127.0.0.1:0", None).await
    }

    /// The same on another loopback address, such as 127.0.0.2.
    pub(crate) async fn start_at(address: &str) -> Self {
        Self::serve(&format!("{address}:0"), None).await
    }

    /// The same over TLS.
    pub(crate) async fn start_tls(certified: &Certified) -> Self {
        Self::serve("127.0.0.1:0", Some(TlsAcceptor::from(certified.server_config()))).await
    }

    async fn serve(address: &str, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (held, held_by_test) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            scripts: Mutex::default(),
            received: watch::Sender::new(Vec::new()),
            held,
            connections: AtomicUsize::new(0),
            bytes: Mutex::default(),
        });
        let mut serving = JoinSet::new();
        let https = tls.is_some();
        serving.spawn(accept(listener, tls, Arc::clone(&shared)));
        Self { address, https, shared, held: tokio::sync::Mutex::new(held_by_test), _serving: serving }
    }

    /// `http://…` or `https://…`, for the configuration.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", if self.https { "https" } else { "http" }, self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests for `path` (without query) are answered so from now on.
    pub(crate) fn reply(&self, path: &str, reply: Reply) {
        self.shared.scripts.lock().unwrap().insert(path.to_owned(), Script::Reply(reply));
    }

    /// Requests for `path` go to the test: see [`Self::held`].
    pub(crate) fn hold(&self, path: &str) {
        self.shared.scripts.lock().unwrap().insert(path.to_owned(), Script::Hold);
    }

    /// The next request for a path that is held.
    pub(crate) async fn held(&self) -> Held {
        soon("a request at the upstream", async { self.held.lock().await.recv().await }).await.unwrap()
    }

    /// The same, however long it takes; `None`: there will be none.
    pub(crate) async fn next_held(&self) -> Option<Held> {
        self.held.lock().await.recv().await
    }

    /// Everything so far, in order of arrival.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.shared.received.borrow().clone()
    }

    /// The last request; there must be one.
    pub(crate) fn last(&self) -> Received {
        self.received().pop().expect("the upstream received nothing")
    }

    /// What came over each connection, byte for byte.
    pub(crate) fn bytes(&self) -> Vec<Vec<u8>> {
        self.shared.bytes.lock().unwrap().iter().map(|bytes| bytes.lock().unwrap().clone()).collect()
    }

    /// Nothing came through. Only after the client has its answer does this prove anything.
    #[track_caller]
    pub(crate) fn assert_untouched(&self) {
        let received = self.received();
        assert!(received.is_empty(), "it reached the upstream: {received:#?}");
    }

    /// Waits until `enough` of the requests so far fit.
    pub(crate) async fn wait_for(&self, what: &str, enough: usize, fits: impl Fn(&Received) -> bool) {
        let mut received = self.shared.received.subscribe();
        soon(what, received.wait_for(|all| all.iter().filter(|one| fits(one)).count() >= enough)).await.unwrap();
    }
}

/// An address where connecting is refused: bound, so that nobody else gets it, and never listening.
pub(crate) struct Refusing {
    _socket: TcpSocket,
    address: SocketAddr,
}

impl Refusing {
    pub(crate) fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        Self { _socket: socket, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((tcp, _)) = listener.accept().await else { return };
        let number = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
        connections.spawn(connection(tcp, tls.clone(), number, Arc::clone(&shared)));
    }
}

async fn connection(tcp: TcpStream, tls: Option<TlsAcceptor>, number: usize, shared: Arc<Shared>) {
    let _ = tcp.set_nodelay(true);
    let record = Bytes::default();
    shared.bytes.lock().unwrap().push(Arc::clone(&record));
    let (conn, sni) = match tls {
        None => (Conn::recorded(tcp, record), None),
        Some(acceptor) => {
            // A client that does not trust us ends the handshake; the test sees that at the other end.
            let Ok(stream) = acceptor.accept(tcp).await else { return };
            let sni = stream.get_ref().1.server_name().map(str::to_owned);
            (Conn::recorded(stream, record), sni)
        }
    };
    serve(conn, sni, number, shared).await;
}

async fn serve(mut conn: Conn, sni: Option<String>, number: usize, shared: Arc<Shared>) {
    while let Some(head) = conn.head().await {
        let path = head.word(1).split('?').next().unwrap_or_default().to_owned();
        let method = head.word(0).to_owned();
        let mut framing = framing(&head);
        let mut index = 0;
        shared.received.send_modify(|all| {
            index = all.len();
            all.push(Received { head: head.clone(), body: Body::default(), connection: number, sni: sni.clone() });
        });
        let script = shared.scripts.lock().unwrap().get(&path).cloned();
        match script.unwrap_or_else(|| Script::Reply(Reply::new(200, "from the upstream"))) {
            Script::Hold => {
                let held = Held { conn, framing, index, shared: Arc::clone(&shared) };
                let _ = shared.held.send(held);
                return;
            }
            Script::Reply(reply) => {
                if !read_body(&mut conn, &mut framing, index, &shared).await {
                    return;
                }
                if conn.write(&reply.render(&method)).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn framing(head: &Head) -> Framing {
    if head.header("transfer-encoding").is_some() {
        return Framing::Chunked;
    }
    Framing::Length(head.header("content-length").map_or(0, |length| length.parse().unwrap()))
}

/// Reads a body to its end, recording as it comes; false when the sender broke off.
async fn read_body(conn: &mut Conn, framing: &mut Framing, index: usize, shared: &Shared) -> bool {
    loop {
        let mut trailers = Vec::new();
        let piece = conn.piece(framing, &mut trailers).await;
        let body = |change: &dyn Fn(&mut Body)| shared.received.send_modify(|all| change(&mut all[index].body));
        match piece {
            Piece::Data(bytes) => body(&|body| body.push(&bytes)),
            Piece::End => {
                body(&|body| {
                    body.whole = true;
                    body.trailers.clone_from(&trailers);
                });
                return true;
            }
            Piece::BrokenOff => return false,
        }
    }
}

/// A request in the test's hands. Dropping it closes the connection.
pub(crate) struct Held {
    conn: Conn,
    framing: Framing,
    index: usize,
    shared: Arc<Shared>,
}

impl Held {
    /// The request, with what was read of its body so far.
    pub(crate) fn request(&self) -> Received {
        self.shared.received.borrow()[self.index].clone()
    }

    /// Reads the whole body; false when the sender broke off.
    pub(crate) async fn read_body(&mut self) -> bool {
        soon("the request body", read_body(&mut self.conn, &mut self.framing, self.index, &self.shared)).await
    }

    /// The next piece of the body.
    pub(crate) async fn piece(&mut self) -> Piece {
        soon("a piece of the request body", self.conn.piece(&mut self.framing, &mut Vec::new())).await
    }

    /// Writes anything at all.
    pub(crate) async fn write(&mut self, bytes: &str) {
        self.conn.write(bytes.as_bytes()).await.unwrap();
    }

    /// The same, no text.
    pub(crate) async fn write_bytes(&mut self, bytes: &[u8]) {
        self.conn.write(bytes).await.unwrap();
    }

    /// The next bytes, whatever they are.
    pub(crate) async fn bytes(&mut self, many: usize) -> Vec<u8> {
        soon("bytes at the upstream", self.conn.exactly(many)).await
    }

    /// Agrees to a WebSocket.
    pub(crate) async fn switch(&mut self, accept: &str) {
        let head = "HTTP/1.1 101 Fine\r\nConnection: upgrade\r\nUpgrade: websocket\r\n";
        self.write(&format!("{head}Sec-WebSocket-Accept: {accept}\r\n\r\n")).await;
    }

    /// Writes as much as the other side takes, in pieces of 64 KiB, until `enough`; gives how much.
    pub(crate) async fn pour(&mut self, enough: usize) -> std::io::Result<usize> {
        let piece = vec![b'x'; 64 * 1024];
        let mut written = 0;
        while written < enough {
            self.conn.write(&piece).await?;
            written += piece.len();
        }
        Ok(written)
    }

    /// The head of an answer in chunks.
    pub(crate) async fn begin(&mut self, status: u16, headers: &[(&str, &str)]) {
        let headers: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let text = format!("{}transfer-encoding: chunked\r\n\r\n", head(status, &headers));
        self.write(&text).await;
    }

    /// One chunk.
    pub(crate) async fn chunk(&mut self, data: &str) {
        self.write(&format!("{:x}\r\n{data}\r\n", data.len())).await;
    }

    /// One chunk, for whoever still listens.
    pub(crate) async fn offer_chunk(&mut self, data: &str) -> std::io::Result<()> {
        self.conn.write(format!("{:x}\r\n{data}\r\n", data.len()).as_bytes()).await
    }

    /// The last chunk, with trailers.
    pub(crate) async fn end(&mut self, trailers: &[(&str, &str)]) {
        let mut text = "0\r\n".to_owned();
        for (name, value) in trailers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        self.write(&format!("{text}\r\n")).await;
    }

    /// A whole answer.
    pub(crate) async fn answer(&mut self, reply: &Reply) {
        let bytes = reply.render(self.request().method());
        self.conn.write(&bytes).await.unwrap();
    }

    /// Gives the connection back, for its next request.
    pub(crate) fn serve_on(self) {
        let Received { connection, sni, .. } = self.request();
        tokio::spawn(serve(self.conn, sni, connection, self.shared));
    }

    /// Waits until the gateway gives this call up; gives how many bytes still came.
    pub(crate) async fn given_up(mut self) -> usize {
        soon("the gateway to close the upstream connection", self.conn.closed()).await.len()
    }
}
