//! Where clients connect: accept, TLS, HTTP limits and time-outs, graceful drain. No policy.
//!
//! `listener` binds, accepts and drains; `conn` is one connection's life, and after an upgrade polls the tunnel
//! (`gate/tunnel.rs`) in hyper's place; `wire` is its bytes; `service` is where a request leaves for the gate; `frames`
//! measures an HTTP/2 client's heads; `vitals` is what those tell `watch`, which knows how long each phase may last;
//! `drain` carries the listener's last word to the connections; `crowd` says who may hold how many, and who goes when
//! there is no place. hyper's `http1` or `http2` is chosen by ALPN (cleartext is HTTP/1.1, or HTTP/2 with prior
//! knowledge by configuration), never its `auto` builder, which has no time-out for the first bytes. HTTP by RFC 9110,
//! 9112 and 9113.

mod conn;
mod crowd;
mod drain;
pub mod frames;
mod listener;
mod service;
mod vitals;
mod watch;
mod wire;

use std::{convert::Infallible, future::Future, net::SocketAddr};

use http::{Request, Response};
use tower::Service;

pub use self::listener::{BindFault, Certificates, Edge};
use crate::gate::body::GateBody;

/// What the edge knows of the connection a request came on. It lies in the request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Who connected: the client, or the last proxy before us.
    pub peer: SocketAddr,
    /// Whether the connection is TLS.
    pub tls: bool,
}

/// What the edge serves: the whole pipeline as one service. Cloned once per connection; it should be always ready.
pub trait Gate:
    Service<Request<GateBody>, Response = Response<GateBody>, Error = Infallible, Future: Future + Send>
    + Clone
    + Send
    + 'static
{
}

impl<S> Gate for S where
    S: Service<Request<GateBody>, Response = Response<GateBody>, Error = Infallible, Future: Future + Send>
        + Clone
        + Send
        + 'static
{
}

#[cfg(test)]
mod tests;
