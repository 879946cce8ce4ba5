//! One resolved address of a cluster: the requests in flight there, which balancing compares, and its idle connections.
//!
//! The connection used last is taken first, so that the others age and go; one that the service has closed meanwhile is
//! dropped when it is about to be taken. Ages are counted in sweeps rather than read from a clock: the cluster calls
//! [`Endpoint::sweep`] [`SWEEPS`] times in the idle time-out, and it closes what has seen that many.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{HeaderValue, uri::Authority};
use rustls::pki_types::ServerName;

use crate::upstream::line::Line;

/// How often idle connections are looked at within the idle time-out.
pub const SWEEPS: u32 = 4;

/// One resolved address of a cluster.
#[derive(Debug)]
pub struct Endpoint {
    /// Where to connect.
    pub address: SocketAddr,
    /// `Host` when the cluster sends the endpoint's own: the authority as configured.
    pub host: HeaderValue,
    /// SNI and the name checked in the certificate.
    pub server_name: Option<ServerName<'static>>,
    in_flight: AtomicUsize,
    idle: Mutex<Vec<Idle>>,
    max_idle: AtomicUsize,
}

/// A connection nobody uses.
#[derive(Debug)]
struct Idle {
    line: Box<Line>,
    sweeps: u32,
}

impl Endpoint {
    /// An endpoint at `address`, configured as `configured`, which keeps up to `max_idle` connections; `None` if
    /// `configured` is not a legal header value (it is: it was parsed as an authority).
    #[must_use]
    pub fn new(
        address: SocketAddr,
        configured: &Authority,
        server_name: Option<ServerName<'static>>,
        max_idle: usize,
    ) -> Option<Self> {
        Some(Self {
            address,
            host: HeaderValue::from_str(configured.as_str()).ok()?,
            server_name,
            in_flight: AtomicUsize::new(0),
            idle: Mutex::default(),
            max_idle: AtomicUsize::new(max_idle),
        })
    }

    /// An idle connection that the endpoint has not closed, as far as is known.
    #[must_use]
    pub fn take_idle(&self) -> Option<Box<Line>> {
        loop {
            let Idle { mut line, .. } = self.idle().pop()?;
            if line.rests() {
                return Some(line);
            }
        }
    }

    /// Closes what the endpoint has closed and what has been idle for [`SWEEPS`] sweeps.
    pub fn sweep(&self) {
        let mut idle = std::mem::take(&mut *self.idle());
        idle.retain_mut(|idle| {
            idle.sweeps += 1;
            idle.sweeps < SWEEPS && idle.line.rests()
        });
        let mut meanwhile = self.idle();
        // The swept ones were used before those that have come back meanwhile.
        std::mem::swap(&mut *meanwhile, &mut idle);
        meanwhile.append(&mut idle);
        let surplus = meanwhile.len().saturating_sub(self.max_idle());
        meanwhile.drain(..surplus);
    }

    /// Keeps no connection from now on.
    pub fn retire(&self) {
        self.max_idle.store(0, Ordering::Relaxed);
        let closed = std::mem::take(&mut *self.idle());
        // Outside the lock.
        drop(closed);
    }

    fn max_idle(&self) -> usize {
        self.max_idle.load(Ordering::Relaxed)
    }

    fn give_back(&self, mut line: Box<Line>) {
        if !line.rests() {
            return;
        }
        let mut idle = self.idle();
        if idle.len() < self.max_idle() {
            idle.push(Idle { line, sweeps: 0 });
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        // Nothing that can panic runs under the lock.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.0
    }

    /// The request is over, and its connection is free for another one if it can take one.
    pub fn give_back(self, line: Box<Line>) {
        self.0.give_back(line);
    }
}

impl Drop for EndpointUse {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
