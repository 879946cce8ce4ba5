//! Our connector: TCP to the endpoint's very address, then TLS with the name that is configured for it (or its host),
//! both together within the connect time-out.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    client::conn::http1,
    rt::{Read, ReadBufCursor, Write},
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    telemetry::metrics::{ClusterMetrics, ConnectResult},
    upstream::endpoint::Endpoint,
};

/// Connects to the endpoints of one cluster.
#[derive(Clone)]
pub struct Connector {
    tls: Option<TlsConnector>,
    deadline: Duration,
    metrics: Arc<ClusterMetrics>,
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectFault {
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
    pub fn new(tls: Option<Arc<rustls::ClientConfig>>, deadline: Duration, metrics: Arc<ClusterMetrics>) -> Self {
        Self { tls: tls.map(TlsConnector::from), deadline, metrics }
    }

    /// A connection to `endpoint`.
    ///
    /// # Errors
    /// When TCP or TLS fails, or both together take too long.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Stream, ConnectFault> {
        let outcome = timeout(self.deadline, self.dial(endpoint)).await;
        let outcome = outcome.unwrap_or(Err(ConnectFault::Timeout(self.deadline)));
        let result = match outcome {
            Ok(_) => ConnectResult::Connected,
            Err(ConnectFault::Timeout(_)) => ConnectResult::Timeout,
            Err(_) => ConnectResult::Failed,
        };
        self.metrics.connects.of(result).inc();
        outcome
    }

    async fn dial(&self, endpoint: &Endpoint) -> Result<Stream, ConnectFault> {
        let tcp = TcpStream::connect(endpoint.address).await?;
        tcp.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Stream::plain(tcp)) };
        let name = endpoint.server_name.clone().ok_or(ConnectFault::Nameless)?;
        Ok(Stream::tls(tls, name, tcp).await?)
    }
}

/// A connection's bytes. One type for both kinds, so that hyper's connection is compiled once.
pub enum Stream {
    /// TCP.
    Plain(TokioIo<TcpStream>),
    /// TLS over TCP.
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Stream {
    /// TCP as it is.
    pub(super) fn plain(tcp: TcpStream) -> Self {
        Self::Plain(TokioIo::new(tcp))
    }

    /// TLS over TCP, once the other side has proven `name`.
    pub(super) async fn tls(tls: &TlsConnector, name: ServerName<'static>, tcp: TcpStream) -> io::Result<Self> {
        Ok(Self::Tls(Box::new(TokioIo::new(tls.connect(name, tcp).await?))))
    }

    /// One request over a connection that serves no other. It lives as long as the set beside the answer: what goes
    /// wrong with it is told to whoever waits for the answer or reads it.
    pub(super) async fn ask<B>(self, request: Request<B>) -> hyper::Result<(Response<Incoming>, JoinSet<()>)>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (mut sender, connection) = http1::handshake(self).await?;
        let mut driving = JoinSet::new();
        driving.spawn(async move {
            let _ = connection.await;
        });
        Ok((sender.send_request(request).await?, driving))
    }
}

impl Read for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(&mut **io).poll_read(cx, buf),
        }
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(&mut **io).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(&mut **io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(&mut **io).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Tls(io) => Pin::new(&mut **io).poll_write_vectored(cx, bufs),
        }
    }
}
