//! The one place where parts are wired: settings in, a running gateway out.
//!
//! [`App::start`] reads top to bottom as the list of parts and who holds whom. It binds no port before everything
//! that can fail has been built, and the gateway it gives back stops cleanly: listeners first, then requests in
//! flight, then tasks.

mod keys;
mod readiness;
mod routes;
mod tasks;

use std::{fs::File, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    clock::{Clock, Entropy},
    config::settings::Settings,
    edge::{BindFault, Edge},
    gate::{
        authenticate::Authenticate,
        dispatch::Dispatch,
        identity::Identity,
        keyring::Keyring,
        limits::{AddressPeek, SubjectLimit},
        observe::Observer,
        snapshot::{PatternFault, Snapshot},
        stack::{Stages, pipeline},
        token_cache::TokenCache,
    },
    policy::master_key::MasterKey,
    portal::{
        PortalState,
        border::Portal,
        hash_pool::{HashPool, JobDone},
    },
    store::{SharedStore, memory::ended_sessions::EndedSessions},
    telemetry::{
        health::{self, Lifecycle},
        metrics::Metrics,
    },
    upstream::{cluster::Cluster, forward::Forward, issuers::Issuer},
};

/// Where time and randomness come from: the system's, or a test's.
#[derive(Clone)]
pub struct Rim {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

impl Rim {
    /// The operating system's.
    #[must_use]
    pub fn system() -> Self {
        Self { clock: Arc::new(crate::clock::SystemClock::new()), entropy: Arc::new(crate::clock::SystemEntropy) }
    }
}

/// Why the gateway did not start. Nothing was served.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    /// The store cannot be opened.
    #[error("store: {0}")]
    Store(#[from] crate::store::sql::OpenFault),
    /// The store does not answer.
    #[error("store: {0}")]
    Read(#[from] crate::store::StoreFault),
    /// No master key, or the wrong one.
    #[error("store.master_key: {0}")]
    MasterKey(#[from] crate::store::master_key::MasterKeyFault),
    /// No signing keys.
    #[error("signing keys: {0}")]
    Keys(#[from] keys::KeysFault),
    /// A route cannot be placed.
    #[error("routes: {0}")]
    Pattern(#[from] PatternFault),
    /// The operating system gives no thread or no address.
    #[error("operating system: {0}")]
    System(#[from] std::io::Error),
    /// A port cannot be bound.
    #[error("listeners: {0}")]
    Bind(#[from] BindFault),
}

/// How long the admin listener waits for a scrape to finish.
const ADMIN_DRAIN: Duration = Duration::from_secs(1);

/// The gateway.
pub struct App;

/// A running gateway.
pub struct Running {
    public: SocketAddr,
    admin: SocketAddr,
    stop: watch::Sender<bool>,
    admin_stop: watch::Sender<bool>,
    lifecycle: Arc<Lifecycle>,
    edge: JoinHandle<()>,
    admin_server: JoinHandle<()>,
    tasks: tasks::Tasks,
    metrics: Arc<Metrics>,
    routes: Arc<ArcSwap<Snapshot>>,
    _claim: Option<File>,
}

/// The parts that verify and mint: what the portal and the pipeline share.
struct Shared {
    /// The store is ours alone as long as this is held.
    claim: Option<File>,
    store: SharedStore,
    master: Arc<MasterKey>,
    keyring: Arc<Keyring>,
    ended: Arc<EndedSessions>,
    metrics: Arc<Metrics>,
    rim: Rim,
}

impl App {
    /// Builds everything, binds both ports, and serves until [`Running::stop`].
    pub async fn start(settings: Settings, metrics: Arc<Metrics>, rim: Rim) -> Result<Running, StartFault> {
        let shared = Shared::open(&settings, metrics, rim).await?;
        let metrics = Arc::clone(&shared.metrics);
        let hash_pool = Arc::new(shared.hash_pool(&settings)?);

        let mut clusters = Vec::new();
        for cluster in &settings.clusters {
            clusters.push(Arc::new(Cluster::start(Arc::clone(cluster), &metrics).await));
        }
        let counters = routes::counters(&settings, &metrics);
        let issuers = shared.issuers(&settings);
        let parts = routes::Parts { clusters: &clusters, issuers: &issuers, counters: &counters, metrics: &metrics };
        let snapshot = Arc::new(ArcSwap::from_pointee(routes::snapshot(&settings, parts)?));

        let (seen, seen_queue) = tasks::seen_queue();
        let stages = shared.stages(&settings, &snapshot, seen);
        let portal = Portal::new(shared.portal_state(&settings, Arc::clone(&hash_pool)));
        let gate = pipeline(stages, Dispatch::new(portal, Forward::new(Arc::clone(&shared.rim.clock))));

        let edge = Edge::bind(&settings.listeners.public, settings.listeners.drain, Arc::clone(&metrics))?;
        let readiness = readiness::Readiness::new(&shared, clusters.clone(), issuers.clone());
        let lifecycle = Arc::new(Lifecycle::default());
        let admin_gate = health::admin(Arc::clone(&metrics), Arc::clone(&lifecycle), Arc::new(readiness));
        let admin = health::listener(settings.listeners.admin);
        // Metrics of its own: the exported connection counts are the clients'.
        let admin = Edge::bind(&admin, ADMIN_DRAIN, Arc::new(Metrics::new()))?;

        let (stop, stopped) = watch::channel(false);
        let (admin_stop, admin_stopped) = watch::channel(false);
        let tasks = tasks::Tasks::start(&shared, clusters, issuers, counters, hash_pool, seen_queue);
        lifecycle.started();
        Ok(Running {
            public: edge.local_addr()?,
            admin: admin.local_addr()?,
            edge: tokio::spawn(edge.serve(gate, stopping(stopped.clone()))),
            admin_server: tokio::spawn(admin.serve(admin_gate, stopping(admin_stopped))),
            stop,
            admin_stop,
            lifecycle,
            tasks,
            metrics,
            routes: snapshot,
            _claim: shared.claim,
        })
    }
}

/// The keys a gateway with these settings signs and verifies with; the first is made if there is none. For tools that
/// mint tokens beside the gateway (load tests).
pub async fn keyring(settings: &Settings, rim: &Rim) -> Result<Keyring, StartFault> {
    let store = crate::store::sql::open(&settings.store).await?;
    let (keyring, _) = sealed(&store, settings, rim).await?;
    Ok(keyring)
}

/// Opens what lies sealed in the store.
async fn sealed(store: &SharedStore, settings: &Settings, rim: &Rim) -> Result<(Keyring, MasterKey), StartFault> {
    let sealed_rows = !store.signing_keys().await?.is_empty();
    let master = crate::store::master_key::master_key(&settings.store, sealed_rows, &*rim.entropy)?;
    let keyring = keys::open(&**store, &master, settings.tokens.algorithm, &*rim.clock, &*rim.entropy).await?;
    let keyring = match &settings.tokens.secret {
        Some(secret) => keyring.with_secret(Arc::new(keys::of_secret(secret)?)),
        None => keyring,
    };
    Ok((keyring, master))
}

/// The snapshot these settings mean, with counters of its own and without other issuers: for benchmarks of the pipeline
/// alone.
pub fn snapshot(settings: &Settings, clusters: &[Arc<Cluster>], metrics: &Metrics) -> Result<Snapshot, PatternFault> {
    let counters = routes::counters(settings, metrics);
    routes::snapshot(settings, routes::Parts { clusters, issuers: &[], counters: &counters, metrics })
}

impl Shared {
    /// Opens the store and what lies sealed in it.
    async fn open(settings: &Settings, metrics: Arc<Metrics>, rim: Rim) -> Result<Self, StartFault> {
        let claim = crate::store::sql::claim(&settings.store)?;
        let store = crate::store::sql::open(&settings.store).await?;
        let (keyring, master) = sealed(&store, settings, &rim).await?;
        let ended = EndedSessions::default();
        // Tokens of sessions that ended shortly before the start may still be unexpired.
        let life = settings.tokens.access_ttl + settings.tokens.leeway;
        for (session, at) in store.sessions_ended_since(rim.clock.now().minus(life)).await? {
            ended.insert(session, at.plus(life));
        }
        let (master, keyring, ended) = (Arc::new(master), Arc::new(keyring), Arc::new(ended));
        Ok(Self { claim, store, master, keyring, ended, metrics, rim })
    }

    fn stages(
        &self,
        settings: &Settings,
        snapshot: &Arc<ArcSwap<Snapshot>>,
        seen: tokio::sync::mpsc::Sender<crate::gate::authenticate::Seen>,
    ) -> Stages {
        let clock = || Arc::clone(&self.rim.clock);
        Stages {
            observer: Arc::new(Observer {
                snapshot: Arc::clone(snapshot),
                metrics: Arc::clone(&self.metrics),
                unrouted: self.metrics.route("-"),
                clock: clock(),
                entropy: Arc::clone(&self.rim.entropy),
                access_log: settings.telemetry.access_log,
            }),
            address_peek: AddressPeek,
            authenticate: Authenticate::new(
                Arc::clone(&self.keyring),
                TokenCache::new(settings.tokens.cache_entries),
                Arc::clone(&self.ended),
                seen,
                Arc::clone(&self.metrics),
            ),
            subject_limit: SubjectLimit,
            identity: Identity::new(Arc::clone(&self.keyring)),
        }
    }

    fn issuers(&self, settings: &Settings) -> Vec<Arc<Issuer>> {
        let (clock, entropy) = (&self.rim.clock, &self.rim.entropy);
        let made = settings.issuers.iter().map(|issuer| {
            let metrics = self.metrics.issuer(&issuer.rules.name);
            Issuer::new(Arc::clone(issuer), Arc::clone(clock), Arc::clone(entropy), metrics)
        });
        made.collect()
    }

    fn hash_pool(&self, settings: &Settings) -> Result<HashPool, StartFault> {
        let metrics = Arc::clone(&self.metrics);
        let told = Box::new(move |done: JobDone| {
            metrics.hash_wait.observe(done.waited);
            metrics.hash_duration.observe(done.worked);
        });
        let (entropy, clock) = (Arc::clone(&self.rim.entropy), Arc::clone(&self.rim.clock));
        Ok(HashPool::observed(&settings.passwords, entropy, clock, told)?)
    }

    fn portal_state(&self, settings: &Settings, hash_pool: Arc<HashPool>) -> PortalState {
        PortalState {
            portal: settings.portal.clone(),
            tokens: settings.tokens.clone(),
            store: Arc::clone(&self.store),
            keyring: Arc::clone(&self.keyring),
            master: Arc::clone(&self.master),
            ended: Arc::clone(&self.ended),
            metrics: Arc::clone(&self.metrics),
            clock: Arc::clone(&self.rim.clock),
            entropy: Arc::clone(&self.rim.entropy),
            hash_pool,
        }
    }
}

impl Running {
    /// Where clients connect.
    #[must_use]
    pub fn public_addr(&self) -> SocketAddr {
        self.public
    }

    /// Where operators connect.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// Its counters.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The configuration in force: for tests that walk every route.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.routes.load_full()
    }

    /// Tells the load balancer (`/readyz`), stops accepting, lets requests in flight finish within the drain time,
    /// then ends everything. The admin listener goes last: operators watch the drain through it.
    pub async fn stop(self) {
        self.lifecycle.draining();
        let _ = self.stop.send(true);
        let _ = self.edge.await;
        let _ = self.admin_stop.send(true);
        let _ = self.admin_server.await;
        self.tasks.stop().await;
    }
}

async fn stopping(mut stopped: watch::Receiver<bool>) {
    // An error means the sender is gone, which is a stop too.
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Waits for SIGTERM or SIGINT.
pub async fn stop_asked() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}
