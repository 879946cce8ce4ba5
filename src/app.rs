//! Where the gateway's parts are wired: settings in, a running gateway out. (`main.rs` wires what is around it: the
//! log, the runtime, the file that is followed.)
//!
//! [`App::start`] reads top to bottom as the list of parts and who holds whom. It binds no port before everything that
//! can fail has been built, and the gateway it gives back stops cleanly: the public listener first, then requests in
//! flight, then the admin listener, tasks last. Without a store (`store.url: none`) there are no `Facts`: the keys are
//! given or made (`unkept`), and the portal only publishes (`Portal::without_accounts`).

mod admin_door;
pub mod commands;
mod denials;
mod feed;
mod follow;
mod force;
mod keys;
mod pressure;
mod quotas;
mod readiness;
mod reload;
mod routes;
mod sealing;
mod shared;
mod shared_state;
mod stop;
mod streams;
mod tasks;
mod webhooks;

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use self::{
    admin_door::AdminDoor,
    force::Force,
    reload::Reloader,
    shared::{Shared, unkept},
};
pub use self::{follow::Follow, stop::Stop};
use crate::{
    clock::{Clock, Entropy},
    config::{
        ConfigErrors,
        settings::{Compat, Settings},
    },
    edge::{BindFault, Edge},
    gate::{
        dispatch::{Dispatch, SnapshotPortal},
        floods::Floods,
        keyring::Keyring,
        route_table::PatternFault,
        snapshot::Snapshot,
        stack::pipeline,
    },
    telemetry::{
        health::{self, Lifecycle},
        metrics::{Metrics, ReloadResult},
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
    /// The Redis cannot be used at all. One that is merely not there starts no fault.
    #[error(transparent)]
    SharedState(#[from] crate::store::redis::UrlFault),
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
    reloader: Arc<Reloader>,
    followers: JoinSet<()>,
}

impl App {
    /// Builds everything, binds both ports, and serves until [`Running::stop`].
    pub async fn start(settings: Settings, metrics: Arc<Metrics>, rim: Rim) -> Result<Running, StartFault> {
        warn_of_weaker_rules(&settings);
        // Boxed: large, and needed once.
        let shared = Box::pin(Shared::open(&settings, metrics, rim)).await?;
        let metrics = Arc::clone(&shared.metrics);
        let hash_pool = shared.hash_pool(&settings)?;

        let force = Box::pin(Force::first(settings, shared.counting(), &metrics)).await;
        let (settings, clusters) = (force.settings.clone(), force.clusters());
        let accounts = shared.accounts(&settings, hash_pool.as_ref());
        let snapshot = routes::snapshot(&settings, shared.parts(&clusters, &force), Some(accounts))?;
        let (snapshot, force) = (Arc::new(ArcSwap::from_pointee(snapshot)), Arc::new(ArcSwap::from_pointee(force)));

        let (senders, queues) = tasks::queues();
        let floods = &settings.listeners.public.flood;
        let floods = Floods::new(floods, Arc::clone(&snapshot), Arc::clone(&shared.rim.clock), Arc::clone(&metrics));
        let floods = Arc::new(floods);
        let (traces, spans) = tasks::spans(&settings.telemetry, &metrics, &shared.rim);
        let layers = shared.layers(&settings, &snapshot, Arc::clone(&floods), senders, traces);
        let end = Dispatch::new(SnapshotPortal, Forward::new(Arc::clone(&shared.rim.clock)));
        let admin_api = pipeline(admin_door::layers(&layers), end.clone());
        let gate = pipeline(layers, end);

        let (public, drain) = (&settings.listeners.public, settings.listeners.drain);
        let edge = Edge::bind(public, drain, Arc::clone(&metrics), Some(floods))?;
        let stale = Arc::new(AtomicBool::new(false));
        let readiness = readiness::Readiness::new(&shared, Arc::clone(&force), Arc::clone(&stale));
        let lifecycle = Arc::new(Lifecycle::default());
        let health = health::admin(Arc::clone(&metrics), Arc::clone(&lifecycle), Arc::new(readiness));
        let admin_gate = AdminDoor::new(admin_api, health);
        let admin = health::listener(settings.listeners.admin);
        // Metrics of its own: the exported connection counts are the clients'.
        let admin = Edge::bind(&admin, ADMIN_DRAIN, Arc::new(Metrics::new()), None)?;

        let (stop, stopped) = watch::channel(false);
        let (admin_stop, admin_stopped) = watch::channel(false);
        let tasks = tasks::Tasks::start(&shared, &settings, &force, hash_pool.clone(), (queues, spans));
        shared.took(&settings);
        metrics.config_last_reload_successful.set(1);
        lifecycle.started();
        let certificates = edge.certificates();
        let reloader =
            Reloader { shared, hash_pool, snapshot, force, certificates, stale, last: tokio::sync::Mutex::default() };
        Ok(Running {
            public: edge.local_addr()?,
            admin: admin.local_addr()?,
            edge: tokio::spawn(edge.serve(gate, stopping(stopped.clone()))),
            admin_server: tokio::spawn(admin.serve(admin_gate, stopping(admin_stopped))),
            stop,
            admin_stop,
            lifecycle,
            tasks,
            reloader: Arc::new(reloader),
            followers: JoinSet::new(),
        })
    }
}

/// A profile that weakens rules must not be forgotten: each start says so.
fn warn_of_weaker_rules(settings: &Settings) {
    if settings.portal.compat == Compat::FastApi {
        let rules = &settings.passwords.rules;
        tracing::warn!(
            min_length = rules.min_chars,
            blocklist = rules.blocklist,
            "portal.compat: fastapi is on: weaker defaults for passwords, and FastAPI's statuses on every route"
        );
    }
}

/// The keys a gateway with these settings signs and verifies with; those that are missing are made. For tools that
/// mint tokens beside the gateway (load tests).
pub async fn keyring(settings: &Settings, rim: &Rim) -> Result<Arc<Keyring>, StartFault> {
    let Some(kept) = &settings.store else { return Ok(Arc::new(unkept(settings)?)) };
    let store = crate::store::sql::open(kept).await?;
    let vault = keys::Vault::open(store, kept, settings, rim).await?;
    let keeper = keys::KeyKeeper::open(vault, settings, Arc::default()).await?;
    Ok(keeper.keyring)
}

/// The snapshot these settings mean, with counters of its own: for benchmarks of the pipeline alone.
pub fn snapshot(
    settings: &Settings,
    clusters: &[Arc<Cluster>],
    issuers: &[Arc<Issuer>],
    metrics: &Metrics,
) -> Result<Snapshot, PatternFault> {
    let counters = routes::counters(settings, None, metrics, None);
    let open_streams = &streams::open(&settings.tokens, &Arc::default(), None, &Arc::default());
    let ledgers = &quotas::Ledgers::default();
    let parts = routes::Parts { clusters, issuers, counters: &counters, ledgers, open_streams, metrics };
    routes::snapshot(settings, parts, None)
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
        &self.reloader.shared.metrics
    }

    /// The configuration in force: for tests that walk every route.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.reloader.snapshot.load_full()
    }

    /// Follows a configuration file until the gateway stops: SIGHUP, or a change of it or of what it includes, reloads.
    pub fn follow(&mut self, file: Follow) {
        let files = self.reloader.force.load().settings.written.files();
        self.followers.spawn(file.run(Arc::clone(&self.reloader), files));
    }

    /// Brings another configuration into force, if it can be; else the last good one stays.
    pub async fn reload(&self, read: Result<Settings, ConfigErrors>) -> ReloadResult {
        // Boxed: large, and seldom needed.
        Box::pin(self.reloader.reload(read, true)).await
    }

    /// Tells the load balancer (`/readyz`), stops accepting, lets requests in flight finish within the drain time,
    /// then ends everything. The admin listener goes last: operators watch the drain through it.
    pub async fn stop(mut self) {
        self.followers.shutdown().await;
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
