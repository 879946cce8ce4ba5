//! The one body type of the pipeline, both ways: a client's, one made here, an answer that flows from an upstream.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;

use crate::{
    gate::{guard::ResponseGuard, tunnel::Tunnel},
    policy::reason::Reason,
    upstream::line::Flowing,
};

/// A body that came in, was made here, or wraps another.
#[derive(Default)]
pub enum GateBody {
    /// Nothing.
    #[default]
    Empty,
    /// A client's, straight from its connection; the edge learns when it is over.
    Received(Received),
    /// Straight from an upstream's connection.
    Flowing(Flowing),
    /// Made here, whole.
    Full(Full<Bytes>),
    /// Anything that wraps or generates.
    Boxed(UnsyncBoxBody<Bytes, BodyFault>),
    /// An answer's body under watch; can be cut at any moment.
    Guarded(Box<ResponseGuard>),
    /// None: the connection becomes a tunnel after this answer (101).
    Tunnel(Box<Tunnel>),
}

/// Why a body stopped before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyFault {
    /// The connection it came from failed.
    #[error("the connection failed in the body: {0}")]
    Connection(#[from] hyper::Error),
    /// A layer of ours cut it.
    #[error("cut: {}", .0.as_str())]
    Cut(Reason),
}

/// Who must know when a request's body is read or given up: the connection's time-outs depend on it.
pub trait BodyWatch: std::fmt::Debug + Send + Sync {
    /// The body is over.
    fn over(&self);
}

/// A client's request body.
#[derive(Debug)]
pub struct Received {
    body: Incoming,
    watch: Arc<dyn BodyWatch>,
}

impl Received {
    pub(crate) fn new(body: Incoming, watch: Arc<dyn BodyWatch>) -> Self {
        Self { body, watch }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        // Before the body itself goes, which wakes the connection.
        self.watch.over();
    }
}

impl GateBody {
    /// A whole body.
    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::Full(Full::new(bytes.into()))
    }

    /// A body that wraps or generates.
    pub fn boxed(body: impl Body<Data = Bytes, Error = BodyFault> + Send + 'static) -> Self {
        Self::Boxed(body.boxed_unsync())
    }
}

impl std::fmt::Debug for GateBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Received(_) => "Received",
            Self::Flowing(_) => "Flowing",
            Self::Full(_) => "Full",
            Self::Boxed(_) => "Boxed",
            Self::Guarded(_) => "Guarded",
            Self::Tunnel(_) => "Tunnel",
        })
    }
}

impl Body for GateBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            Self::Empty | Self::Tunnel(_) => Poll::Ready(None),
            Self::Received(received) => Pin::new(&mut received.body).poll_frame(cx).map_err(BodyFault::Connection),
            Self::Flowing(body) => Pin::new(body).poll_frame(cx).map_err(BodyFault::Connection),
            Self::Full(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Boxed(body) => Pin::new(body).poll_frame(cx),
            Self::Guarded(body) => Pin::new(&mut **body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Tunnel(_) => true,
            Self::Received(received) => received.body.is_end_stream(),
            Self::Flowing(body) => body.is_end_stream(),
            Self::Full(body) => body.is_end_stream(),
            Self::Boxed(body) => body.is_end_stream(),
            Self::Guarded(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Tunnel(_) => SizeHint::with_exact(0),
            Self::Received(received) => received.body.size_hint(),
            Self::Flowing(body) => body.size_hint(),
            Self::Full(body) => body.size_hint(),
            Self::Boxed(body) => body.size_hint(),
            Self::Guarded(body) => body.size_hint(),
        }
    }
}
