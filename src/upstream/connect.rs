//! Our connector: TCP to the endpoint's very address, TLS with a fixed name, each within the connect time-out.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwap;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    telemetry::metrics::{ClusterMetrics, ConnectResult},
    upstream::{discovery::Endpoints, endpoint::Endpoint, sever::Switch},
};

/// Connects to the endpoints of one cluster.
#[derive(Clone)]
pub struct Connector {
    endpoints: Arc<ArcSwap<Endpoints>>,
    tls: Option<TlsConnector>,
    deadline: Duration,
    metrics: Arc<ClusterMetrics>,
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectFault {
    /// The endpoint left the cluster between selection and connect.
    #[error("the endpoint is no longer in the cluster")]
    Gone,
    /// TCP or TLS failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It took too long.
    #[error("connecting took longer than {0:?}")]
    Timeout(Duration),
    /// The certificate cannot be checked without a name.
    #[error("the endpoint has no name a certificate could be checked against")]
    Nameless,
}

impl Connector {
    /// A connector; `tls` for `https` endpoints.
    #[must_use]
    pub fn new(
        endpoints: Arc<ArcSwap<Endpoints>>,
        tls: Option<Arc<rustls::ClientConfig>>,
        deadline: Duration,
        metrics: Arc<ClusterMetrics>,
    ) -> Self {
        Self { endpoints, tls: tls.map(TlsConnector::from), deadline, metrics }
    }

    async fn connect(self, authority: String) -> Result<Stream, ConnectFault> {
        let endpoint = self.find(&authority).ok_or(ConnectFault::Gone)?;
        let outcome = timeout(self.deadline, self.dial(&endpoint)).await;
        let outcome = outcome.unwrap_or(Err(ConnectFault::Timeout(self.deadline)));
        let result = match outcome {
            Ok(_) => ConnectResult::Connected,
            Err(ConnectFault::Timeout(_)) => ConnectResult::Timeout,
            Err(_) => ConnectResult::Failed,
        };
        self.metrics.connects.of(result).inc();
        outcome
    }

    fn find(&self, authority: &str) -> Option<Arc<Endpoint>> {
        let address = authority.parse().ok()?;
        self.endpoints.load().get(&address).cloned()
    }

    async fn dial(&self, endpoint: &Endpoint) -> Result<Stream, ConnectFault> {
        let tcp = TcpStream::connect(endpoint.address).await?;
        tcp.set_nodelay(true)?;
        let Some(tls) = &self.tls else {
            return Ok(Stream::new(Transport::Plain(TokioIo::new(tcp))));
        };
        let name = endpoint.server_name.clone().ok_or(ConnectFault::Nameless)?;
        Ok(Stream::new(Transport::Tls(Box::new(TokioIo::new(tls.connect(name, tcp).await?)))))
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = ConnectFault;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, ConnectFault>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), ConnectFault>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        Box::pin(self.clone().connect(authority))
    }
}

/// A connection to an endpoint.
pub struct Stream {
    transport: Transport,
    switch: Switch,
}

enum Transport {
    /// TCP.
    Plain(TokioIo<TcpStream>),
    /// TLS over TCP.
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Stream {
    fn new(transport: Transport) -> Self {
        Self { transport, switch: Switch::default() }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().extra(self.switch.clone())
    }
}

impl Read for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Transport::Tls(io) => Pin::new(&mut **io).poll_read(cx, buf),
        }
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = match &mut this.transport {
            Transport::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Transport::Tls(io) => Pin::new(&mut **io).poll_write(cx, buf),
        };
        this.switch.check(polled, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = match &mut this.transport {
            Transport::Plain(io) => Pin::new(io).poll_flush(cx),
            Transport::Tls(io) => Pin::new(&mut **io).poll_flush(cx),
        };
        this.switch.check(polled, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = match &mut this.transport {
            Transport::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Transport::Tls(io) => Pin::new(&mut **io).poll_shutdown(cx),
        };
        this.switch.check(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = match &mut this.transport {
            Transport::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Transport::Tls(io) => Pin::new(&mut **io).poll_write_vectored(cx, bufs),
        };
        this.switch.check(polled, cx)
    }
}
