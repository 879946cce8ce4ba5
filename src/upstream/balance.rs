//! Which endpoint takes a request: Pingora's selections, and least-requests by our own counters on top.

use std::net::SocketAddr;

use pingora_load_balancing::{
    Backend, Backends, LoadBalancer,
    health_check::HealthCheck,
    selection::{Consistent, Random, RoundRobin},
};

use crate::{config::settings::Balance, upstream::discovery::Endpoints};

/// How many steps a selection may take to find a healthy endpoint.
const MAX_STEPS: usize = 256;

/// A selection over the endpoints of one cluster.
pub enum Balancer {
    /// In turn.
    RoundRobin(LoadBalancer<RoundRobin>),
    /// The less busy of two random ones ("power of two choices", Mitzenmacher 2001).
    LeastRequests(LoadBalancer<Random>),
    /// The same key, the same endpoint (ketama).
    ConsistentHash(LoadBalancer<Consistent>),
}

impl Balancer {
    /// A balancer of this kind; `check` decides an endpoint's health.
    #[must_use]
    pub fn new(balance: Balance, backends: Backends, check: Option<Box<dyn HealthCheck + Send + Sync>>) -> Self {
        let mut backends = backends;
        if let Some(check) = check {
            backends.set_health_check(check);
        }
        match balance {
            Balance::RoundRobin => Self::RoundRobin(LoadBalancer::from_backends(backends)),
            Balance::LeastRequests => Self::LeastRequests(LoadBalancer::from_backends(backends)),
            Balance::ConsistentHash => Self::ConsistentHash(LoadBalancer::from_backends(backends)),
        }
    }

    /// The address of a healthy endpoint, if there is one. `key` matters to consistent hashing only.
    pub fn pick(&self, key: &[u8], endpoints: &Endpoints) -> Option<SocketAddr> {
        match self {
            Self::RoundRobin(balancer) => address(&balancer.select(key, MAX_STEPS)?),
            Self::ConsistentHash(balancer) => address(&balancer.select(key, MAX_STEPS)?),
            Self::LeastRequests(balancer) => {
                let first = address(&balancer.select(key, MAX_STEPS)?)?;
                let second = balancer.select(key, MAX_STEPS).as_ref().and_then(address).unwrap_or(first);
                let busy = |one: &SocketAddr| endpoints.get(one).map_or(usize::MAX, |endpoint| endpoint.in_flight());
                Some(if busy(&second) < busy(&first) { second } else { first })
            }
        }
    }

    /// Looks the endpoints up again.
    pub async fn update(&self) {
        let outcome = match self {
            Self::RoundRobin(balancer) => balancer.update().await,
            Self::LeastRequests(balancer) => balancer.update().await,
            Self::ConsistentHash(balancer) => balancer.update().await,
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "the endpoints could not be looked up");
        }
    }

    /// Checks every endpoint once, side by side.
    pub async fn check(&self) {
        self.backends().run_health_check(true).await;
    }

    /// Every endpoint and whether it counts as healthy.
    #[must_use]
    pub fn health(&self) -> Vec<(SocketAddr, bool)> {
        let backends = self.backends();
        let all = backends.get_backend();
        all.iter().filter_map(|one| Some((address(one)?, backends.ready(one)))).collect()
    }

    /// How many endpoints there are and how many of them count as healthy.
    #[must_use]
    pub fn healthy(&self) -> (usize, usize) {
        let all = self.health();
        (all.len(), all.iter().filter(|(_, healthy)| *healthy).count())
    }

    fn backends(&self) -> &Backends {
        match self {
            Self::RoundRobin(balancer) => balancer.backends(),
            Self::LeastRequests(balancer) => balancer.backends(),
            Self::ConsistentHash(balancer) => balancer.backends(),
        }
    }
}

fn address(backend: &Backend) -> Option<SocketAddr> {
    backend.addr.as_inet().copied()
}
