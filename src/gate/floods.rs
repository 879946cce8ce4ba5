//! What an address may do before anybody is known: new connections, requests that are none, tokens that are garbage.
//!
//! Addresses are unknown and as many as an attacker likes, so what is counted for all of them has a fixed size
//! (`store/memory/floods.rs`). Only failed tokens are counted exactly, in bounded memory, since honest users may share
//! the address: see [`crate::gate::bad_tokens`]. A trusted proxy is never refused; its clients are, by their own
//! addresses. The edge asks at accept, the pipeline once it knows the client.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::Request;

use crate::{
    clock::{Clock, Tick},
    config::settings::Flood,
    gate::{
        body::GateBody,
        exchange::Exchange,
        refusal::{Detail, Refusal},
        snapshot::Snapshot,
        stage::Stage,
    },
    policy::{
        forwarded::{is_trusted, limit_prefix},
        reason::Reason,
    },
    store::memory::floods::FloodCounter,
    telemetry::metrics::{FloodKind, Metrics},
};

/// The counters, and who is exempt.
pub struct Floods {
    window: Duration,
    connections: Option<FloodCounter>,
    bad: Option<FloodCounter>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for Floods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Floods").field("connections", &self.connections).field("bad", &self.bad).finish_non_exhaustive()
    }
}

/// What becomes of a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arriving {
    /// A trusted proxy.
    Trusted,
    /// Counted under this address.
    Welcome(IpAddr),
    /// Closed unread.
    Refused(FloodKind),
}

impl Floods {
    /// Counters for these settings. `snapshot` says whom to trust.
    #[must_use]
    pub fn new(flood: &Flood, snapshot: Arc<ArcSwap<Snapshot>>, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        let counter = |most| Some(FloodCounter::new(most?, flood.window));
        let (connections, bad) = (counter(flood.connections), counter(flood.bad_requests));
        Self { window: flood.window, connections, bad, snapshot, clock, metrics }
    }

    /// Judges a new connection by its peer, and counts it if it is let in: an address that floods gets what it may have
    /// and no more, and is not locked out by trying on.
    #[must_use]
    pub fn arriving(&self, peer: IpAddr) -> Arriving {
        if self.trusts(peer) {
            return Arriving::Trusted;
        }
        let now = self.clock.tick();
        if let Some(connections) = &self.connections {
            if connections.is_over(peer, now) {
                return Arriving::Refused(FloodKind::Connections);
            }
            connections.count(peer, now);
        }
        if self.is_flooding(peer, now) {
            return Arriving::Refused(FloodKind::BadConnections);
        }
        Arriving::Welcome(limit_prefix(peer))
    }

    /// What came over a connection of this peer is no request. A trusted proxy's is nobody's: whose it was is not known.
    pub fn bad_connection(&self, peer: IpAddr) {
        if let Some(bad) = self.bad.as_ref().filter(|_| !self.trusts(peer)) {
            bad.count(peer, self.clock.tick());
        }
    }

    fn trusts(&self, peer: IpAddr) -> bool {
        is_trusted(peer.to_canonical(), &self.snapshot.load().trusted_proxies)
    }

    fn is_flooding(&self, address: IpAddr, now: Tick) -> bool {
        self.bad.as_ref().is_some_and(|bad| bad.is_over(address, now))
    }

    fn bad_request(&self, exchange: &Exchange) {
        // Without a client the trouble is in what a proxy says of it: the proxy's own, if it is trusted.
        let client = exchange.client().unwrap_or_else(|_| exchange.arrival().peer.to_canonical());
        if let Some(bad) = self.bad.as_ref().filter(|_| !is_trusted(client, &exchange.snapshot().trusted_proxies)) {
            bad.count(client, exchange.tick());
        }
    }
}

/// Refuses whatever comes of an address that has sent too much that is no good request.
#[derive(Debug, Clone)]
pub struct EarlyRefusal(pub Arc<Floods>);

impl Stage for EarlyRefusal {
    fn apply(&self, request: &mut Request<GateBody>) -> Result<(), Refusal> {
        let exchange = Exchange::of(request)?;
        let client = exchange.client()?;
        if !self.0.is_flooding(client, exchange.tick()) || is_trusted(client, &exchange.snapshot().trusted_proxies) {
            return Ok(());
        }
        self.0.metrics.floods_refused.of(FloodKind::BadRequests).inc();
        // Half of what was counted has faded by then.
        Err(Refusal::with(Reason::AddressFlooding, Detail::RetryAfter(self.0.window)))
    }
}

/// A stage whose refusals are counted: what it refuses is no good request, whoever sent it.
#[derive(Debug, Clone)]
pub struct Counted<T>(pub T, pub Arc<Floods>);

impl<T: Stage> Stage for Counted<T> {
    fn apply(&self, request: &mut Request<GateBody>) -> Result<(), Refusal> {
        let outcome = self.0.apply(request);
        if outcome.is_err()
            && let Ok(exchange) = Exchange::of(request)
        {
            self.1.bad_request(exchange);
        }
        outcome
    }
}
