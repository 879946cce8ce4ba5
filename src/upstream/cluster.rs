//! One cluster: its endpoints, how one is picked, how it is reached, and its upkeep beside the requests
//! ([`Cluster::maintain`]): look-ups, health checks, the sweep of idle connections.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use pingora_load_balancing::{Backends, health_check::HealthCheck};

use crate::{
    config::settings,
    telemetry::metrics::{ClusterMetrics, Metrics},
    upstream::{
        balance::Balancer,
        connect::Connector,
        discovery::{Discovery, Endpoints},
        endpoint::{Endpoint, SWEEPS},
        health::{HttpCheck, Known},
    },
};

/// How often names are looked up again.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(30);

/// One cluster.
pub struct Cluster {
    settings: Arc<settings::Cluster>,
    endpoints: Arc<ArcSwap<Endpoints>>,
    balancer: Balancer,
    connector: Connector,
    metrics: Arc<ClusterMetrics>,
    all_metrics: Arc<Metrics>,
    known: Arc<Known>,
    retired: AtomicBool,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Cluster {
    /// A cluster whose endpoints have been looked up and, if it is checked, checked once: the first request finds
    /// what is known, not what is hoped.
    pub async fn start(settings: Arc<settings::Cluster>, all_metrics: &Arc<Metrics>) -> Self {
        let metrics = all_metrics.cluster(&settings.name);
        let endpoints = Arc::new(ArcSwap::from_pointee(Endpoints::new()));
        let tls = settings.tls.as_ref().map(|tls| Arc::clone(&tls.config));
        let connector = Connector::new(tls, settings.connect_timeout, Arc::clone(&metrics));
        let known = Arc::new(Known::default());
        let check = settings.health.clone().map(|check| -> Box<dyn HealthCheck + Send + Sync> {
            Box::new(HttpCheck::new(
                Arc::clone(&settings),
                check,
                connector.clone(),
                Arc::clone(&endpoints),
                Arc::clone(&known),
            ))
        });
        let discovery = Discovery::new(Arc::clone(&settings), Arc::clone(&endpoints));
        let balancer = Balancer::new(settings.balance, Backends::new(Box::new(discovery)), check);
        let all_metrics = Arc::clone(all_metrics);
        let cluster = Self {
            settings,
            endpoints,
            balancer,
            connector,
            metrics,
            all_metrics,
            known,
            retired: AtomicBool::default(),
        };
        cluster.balancer.update().await;
        cluster.balancer.check().await;
        cluster.known.checked.store(true, Ordering::Relaxed);
        cluster.publish_health();
        cluster
    }

    /// Looks names up, checks endpoints and closes connections idle for too long, until the future is dropped. Run it
    /// as a task of its own.
    pub async fn maintain(&self) {
        tokio::join!(self.watch(), self.sweep());
    }

    async fn sweep(&self) {
        let every = (self.settings.pool_idle_timeout / SWEEPS).max(Duration::from_millis(1));
        let mut sweep = tokio::time::interval(every);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            sweep.tick().await;
            self.endpoints.load().values().for_each(|endpoint| endpoint.sweep());
        }
    }

    async fn watch(&self) {
        let check_every = self.settings.health.as_ref().map(|check| check.interval);
        let mut discover = tokio::time::interval(DISCOVERY_INTERVAL);
        let mut check = tokio::time::interval(check_every.unwrap_or(DISCOVERY_INTERVAL));
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = discover.tick() => self.balancer.update().await,
                _ = check.tick(), if check_every.is_some() => self.balancer.check().await,
            }
            self.publish_health();
        }
    }

    /// Sets the gauges of its endpoints, and forgets those of addresses it no longer has.
    pub fn publish_health(&self) {
        if self.retired.load(Ordering::Relaxed) {
            // Another cluster may have the name by now.
            return;
        }
        let health = self.balancer.health();
        self.all_metrics.retain_endpoints(&self.settings.name, &|name| {
            health.iter().any(|(address, _)| address.to_string() == name)
        });
        if !health.is_empty() && health.iter().all(|(_, healthy)| *healthy) {
            self.known.well.store(true, Ordering::Relaxed);
        }
        for (address, healthy) in health {
            self.all_metrics.endpoint(&self.settings.name, &address.to_string()).set(i64::from(healthy));
        }
    }

    /// No configuration wants it any more: idle connections are closed, and those in use after their request.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.endpoints.load().values().for_each(|endpoint| endpoint.retire());
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.settings.name
    }

    /// What the file says of it.
    #[must_use]
    pub fn settings(&self) -> &settings::Cluster {
        &self.settings
    }

    /// Its counters.
    #[must_use]
    pub fn metrics(&self) -> &ClusterMetrics {
        &self.metrics
    }

    /// A healthy endpoint for a client, if there is one.
    #[must_use]
    pub fn pick(&self, client: IpAddr) -> Option<Arc<Endpoint>> {
        let endpoints = self.endpoints.load();
        // A lone unchecked endpoint needs no selection; most deployments have just one.
        if let (1, None) = (endpoints.len(), &self.settings.health) {
            return endpoints.values().next().cloned();
        }
        let key = match client {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        let address = self.balancer.pick(&key, &endpoints)?;
        endpoints.get(&address).cloned()
    }

    /// How many endpoints there are and how many of them count as healthy.
    #[must_use]
    pub fn healthy(&self) -> (usize, usize) {
        self.balancer.healthy()
    }

    /// Connects to its endpoints.
    #[must_use]
    pub fn connector(&self) -> &Connector {
        &self.connector
    }
}
