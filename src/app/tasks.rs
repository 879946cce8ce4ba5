//! What runs beside the requests: looking after a lost Redis, issuers' keys, sessions that other gateways end, notes
//! for the refresh protocol, housekeeping, gauges that nobody moves, the export of spans. Each cluster has a task of
//! its own, which lives and ends with it.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
};

use crate::{
    app::{Rim, Shared, force::Force, streams},
    config::settings::{Otlp, Telemetry},
    gate::authenticate::Seen,
    portal::hash_pool::HashPool,
    store::SharedStore,
    telemetry::{
        metrics::{Metrics, PoolState},
        traces::{Queue, Traces},
    },
    upstream::collector,
};

/// First uses of access tokens that may wait to be noted.
const SEEN_QUEUE: usize = 4_096;

/// How often expired entries are dropped.
const HOUSEKEEPING: Duration = Duration::from_secs(10);

/// How often gauges that nobody moves are read: often enough for any scrape.
const GAUGES: Duration = Duration::from_secs(1);

/// The queue of first uses.
pub(super) fn seen_queue() -> (mpsc::Sender<Seen>, mpsc::Receiver<Seen>) {
    mpsc::channel(SEEN_QUEUE)
}

/// The tasks; they end when stopped or dropped.
pub(super) struct Tasks {
    tasks: JoinSet<()>,
    /// Ends by itself once told to stop and everything has been handed over.
    export: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

/// Spans on their way to a collector; `None` when none is configured.
pub(super) type Spans = Option<(Queue, Otlp)>;

/// The queue of spans.
pub(super) fn spans(settings: &Telemetry, metrics: &Arc<Metrics>, rim: &Rim) -> (Option<Arc<Traces>>, Spans) {
    let Some(otlp) = &settings.otlp else { return (None, None) };
    let (clock, entropy) = (Arc::clone(&rim.clock), Arc::clone(&rim.entropy));
    let (traces, queue) = Traces::new(otlp.sampling, Arc::clone(metrics), clock, entropy);
    (Some(Arc::new(traces)), Some((queue, otlp.clone())))
}

impl Tasks {
    pub(super) fn start(
        shared: &Shared,
        force: Arc<ArcSwap<Force>>,
        hash_pool: Option<Arc<HashPool>>,
        (seen, spans): (mpsc::Receiver<Seen>, Spans),
    ) -> Self {
        let mut tasks = JoinSet::new();
        if let Some(redis) = shared.redis.clone() {
            tasks.spawn(async move { redis.maintain().await });
        }
        for issuer in &shared.issuers {
            issuer.begin();
            tasks.spawn(Arc::clone(issuer).maintain());
        }
        let tokens = &force.load().settings.tokens;
        let store = shared.facts.as_ref().map(|facts| Arc::clone(&facts.store));
        if let Some(store) = store.clone() {
            tasks.spawn(note_seen(store, seen));
        }
        tasks.spawn(streams::look_again(Arc::clone(&shared.streams)));
        let (streams, clock) = (Arc::clone(&shared.streams), Arc::clone(&shared.rim.clock));
        tasks.spawn(streams::ask_after(streams, store.clone(), tokens.clone(), clock));
        let (ended, clock) = (Arc::clone(&shared.ended), Arc::clone(&shared.rim.clock));
        tasks.spawn(async move {
            let mut every = tokio::time::interval(HOUSEKEEPING);
            loop {
                every.tick().await;
                ended.prune(clock.now(), clock.tick());
            }
        });
        let feed = shared.facts.as_ref().map(|facts| Arc::clone(&facts.ended));
        if let Some(feed) = feed.clone().filter(|feed| feed.is_shared()) {
            tasks.spawn(async move { feed.follow().await });
        }
        let metrics = Arc::clone(&shared.metrics);
        tasks.spawn(async move {
            let mut every = tokio::time::interval(GAUGES);
            loop {
                every.tick().await;
                if let Some(feed) = &feed {
                    feed.publish();
                }
                if let Some(hash_pool) = &hash_pool {
                    metrics.hash_queue_length.set_count(hash_pool.stats().queued);
                }
                if let Some(store) = &store {
                    let pool = store.pool();
                    metrics.store_pool_connections.of(PoolState::Idle).set_count(pool.idle);
                    metrics.store_pool_connections.of(PoolState::Busy).set_count(pool.busy);
                }
                for limit in force.load().counters.values() {
                    limit.metrics.keys.set_count(limit.limiter.len());
                }
            }
        });
        let export = spans.map(|(queue, otlp)| {
            let (stop, stopped) = watch::channel(false);
            (stop, tokio::spawn(collector::export(queue, otlp, Arc::clone(&shared.metrics), stopped)))
        });
        Self { tasks, export }
    }

    pub(super) async fn stop(mut self) {
        self.tasks.shutdown().await;
        if let Some((stop, export)) = self.export {
            let _ = stop.send(true);
            let _ = export.await;
        }
    }
}

/// Writes down which generations were used, so that the refresh before them cannot be repeated past its grace.
async fn note_seen(store: SharedStore, mut seen: mpsc::Receiver<Seen>) {
    while let Some(Seen { session, generation }) = seen.recv().await {
        if let Err(error) = store.note_generation_seen(session, generation).await {
            // Lost: the worst is that the same successor can be asked for a little longer.
            tracing::debug!(%session, generation, %error, "a first use was not noted");
        }
    }
}
