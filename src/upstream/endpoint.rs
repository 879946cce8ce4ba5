//! One resolved address of a cluster.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{HeaderValue, uri::Authority};
use rustls::pki_types::ServerName;

/// One resolved address of a cluster.
#[derive(Debug)]
pub struct Endpoint {
    /// Where to connect.
    pub address: SocketAddr,
    /// The same as a URI authority: the pool's key.
    pub authority: Authority,
    /// `Host` when the cluster sends the endpoint's own: the authority as configured.
    pub host: HeaderValue,
    /// SNI and the name checked in the certificate.
    pub server_name: Option<ServerName<'static>>,
    in_flight: AtomicUsize,
}

impl Endpoint {
    /// An endpoint at `address`, configured as `configured`; `None` if either is not a legal header or authority
    /// (it is: an address prints as one, and the configuration's authority was parsed as one).
    #[must_use]
    pub fn new(address: SocketAddr, configured: &Authority, server_name: Option<ServerName<'static>>) -> Option<Self> {
        Some(Self {
            address,
            authority: address.to_string().parse().ok()?,
            host: HeaderValue::from_str(configured.as_str()).ok()?,
            server_name,
            in_flight: AtomicUsize::new(0),
        })
    }

    /// Requests sent and not yet answered to their last byte.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// Counts one request as in flight at an endpoint until dropped.
#[derive(Debug)]
pub struct EndpointUse(Arc<Endpoint>);

impl EndpointUse {
    /// From now on.
    #[must_use]
    pub fn begin(endpoint: Arc<Endpoint>) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(endpoint)
    }
}

impl Drop for EndpointUse {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
