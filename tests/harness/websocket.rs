//! WebSockets as others speak them: a client and a service on tungstenite, which shares no reading of RFC 6455 with us.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Request};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async, client_async,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        handshake::server::{ErrorResponse, Response},
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use crate::harness::{soon, tls::Certified, wire::Io};

/// A service that says everything again; to `/…/refused` it says 403.
pub(crate) struct Echo {
    address: SocketAddr,
    https: bool,
    heads: Arc<Mutex<Vec<HeaderMap>>>,
    serving: AbortHandle,
    _all: JoinSet<()>,
}

impl Echo {
    pub(crate) async fn start() -> Self {
        Self::serve(None).await
    }

    /// The same over TLS.
    pub(crate) async fn start_tls(certified: &Certified) -> Self {
        Self::serve(Some(TlsAcceptor::from(certified.server_config()))).await
    }

    async fn serve(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::<Mutex<Vec<HeaderMap>>>::default();
        let (mut all, https, told) = (JoinSet::new(), tls.is_some(), Arc::clone(&heads));
        let serving = all.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                tcp.set_nodelay(true).unwrap();
                let (tls, told) = (tls.clone(), Arc::clone(&told));
                connections.spawn(async move {
                    match tls {
                        None => echo(tcp, told).await,
                        Some(tls) => echo(tls.accept(tcp).await.unwrap(), told).await,
                    }
                });
            }
        });
        Self { address, https, heads, serving, _all: all }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}", if self.https { "https" } else { "http" }, self.address)
    }

    /// The heads of every handshake so far.
    pub(crate) fn heads(&self) -> Vec<HeaderMap> {
        self.heads.lock().unwrap().clone()
    }

    /// Ends it with all its connections, without a word.
    pub(crate) fn kill(&self) {
        self.serving.abort();
    }
}

#[expect(clippy::result_large_err, reason = "tungstenite's own type of a refusal")]
async fn echo(io: impl Io + 'static, heads: Arc<Mutex<Vec<HeaderMap>>>) {
    let look = |request: &Request<()>, response: Response| -> Result<Response, ErrorResponse> {
        heads.lock().unwrap().push(request.headers().clone());
        if request.uri().path().ends_with("/refused") {
            return Err(http::Response::builder().status(403).body(Some("not here".to_owned())).unwrap());
        }
        Ok(response)
    };
    let Ok(mut socket) = accept_hdr_async(io, look).await else { return };
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}

/// A client's end.
pub(crate) struct Socket(WebSocketStream<Box<dyn Io>>);

/// A handshake: `path` may have a query.
pub(crate) fn handshake(path: &str, headers: &[(&'static str, &str)]) -> Request<()> {
    let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, HeaderValue::from_str(value).unwrap());
    }
    request
}

/// `Authorization` with a token.
pub(crate) fn bearer(token: &str) -> (&'static str, String) {
    ("authorization", format!("Bearer {token}"))
}

impl Socket {
    /// Opens one over plain TCP with a bearer token.
    pub(crate) async fn open(gateway: SocketAddr, path: &str, token: &str) -> Self {
        let (name, value) = bearer(token);
        Self::ask(gateway, &[(name, &value)], path).await.unwrap_or_else(|status| panic!("{status}"))
    }

    /// The same with any headers; `Err` is the status of a refusal.
    pub(crate) async fn ask(gateway: SocketAddr, headers: &[(&'static str, &str)], path: &str) -> Result<Self, u16> {
        let tcp = TcpStream::connect(gateway).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        Self::over(Box::new(tcp), handshake(path, headers)).await
    }

    /// Over a connection of the test's own.
    pub(crate) async fn over(io: Box<dyn Io>, request: Request<()>) -> Result<Self, u16> {
        match soon("the handshake's answer", client_async(request, io)).await {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// The same; `None` when the connection is closed instead.
    pub(crate) async fn try_over(io: Box<dyn Io>, request: Request<()>) -> Option<Self> {
        soon("the handshake's answer", client_async(request, io)).await.ok().map(|(socket, _)| Self(socket))
    }

    pub(crate) async fn send(&mut self, message: Message) {
        soon("a message to be taken", self.0.send(message)).await.unwrap();
    }

    /// The next message that is no control frame's; `Err` when the other end is gone, with the close frame if one came.
    pub(crate) async fn next(&mut self) -> Result<Message, Option<(u16, String)>> {
        let mut closed = None;
        loop {
            match soon("a message", self.0.next()).await {
                Some(Ok(Message::Close(frame))) => {
                    closed = frame.map(|CloseFrame { code, reason }| (u16::from(code), reason.to_string()));
                }
                Some(Ok(message)) if message.is_text() || message.is_binary() => return Ok(message),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(closed),
            }
        }
    }

    /// Waits for the end and gives the close frame.
    pub(crate) async fn closed(&mut self) -> Option<(u16, String)> {
        loop {
            if let Err(frame) = self.next().await {
                return frame;
            }
        }
    }

    /// Says something and hears it again.
    pub(crate) async fn echoed(&mut self, text: &str) {
        self.send(Message::text(text)).await;
        assert_eq!(self.next().await, Ok(Message::text(text)));
    }

    /// Says goodbye and waits for the other side's.
    pub(crate) async fn close(&mut self) {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "bye".into() };
        soon("the close to be taken", self.0.close(Some(frame))).await.unwrap();
        assert_eq!(self.closed().await, Some((1000, "bye".to_owned())));
    }
}
