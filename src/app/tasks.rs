//! What runs beside the requests: looking after a lost Redis, issuers' keys, the revocation feed, signing keys, open
//! streams (those that have lost their right, or whose token has run out), notes for the refresh protocol, the audit
//! (refusals, seals, webhooks), quotas (what is owed, held for nobody, or of old periods), failed logins to forget,
//! memory ([`pressure`]), housekeeping, gauges that nobody moves, the export of spans. Each cluster has a task of its
//! own, which lives and ends with it.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::MissedTickBehavior,
};

use crate::{
    app::{
        Rim,
        denials::{self, Denials},
        feed::Feed,
        force::Force,
        pressure, quotas,
        sealing::Sealer,
        shared::{Facts, Shared},
        streams,
        webhooks::Delivery,
    },
    clock::Clock,
    config::settings::{Otlp, Settings, Telemetry},
    gate::{api_keys::ApiKeyCheck, authenticate::Seen, authorise::Denied},
    portal::hash_pool::HashPool,
    store::{SharedStore, Use, redis::Redis},
    telemetry::{
        metrics::{Metrics, PoolState},
        traces::{Queue, Traces},
    },
    upstream::collector,
};

/// First uses of access tokens that may wait to be noted.
const SEEN_QUEUE: usize = 4_096;

/// How many of them go into one transaction.
const SEEN_AT_ONCE: usize = 256;

/// How often uses of API keys are written down.
const KEYS_NOTED: Duration = Duration::from_secs(1);

/// How often expired entries are dropped.
const HOUSEKEEPING: Duration = Duration::from_secs(10);

/// How often gauges that nobody moves are read: often enough for any scrape.
const GAUGES: Duration = Duration::from_secs(1);

/// How often counts of failed logins that are over are dropped, and how many of a kind in one transaction.
const FORGETTING: Duration = Duration::from_mins(1);
const FORGOTTEN_AT_ONCE: u32 = 1_000;

/// Where the pipeline tells what is to be written down: first uses, refusals.
pub(super) type Senders = (mpsc::Sender<Seen>, mpsc::Sender<Denied>);

/// Where that is read.
pub(super) type Queues = (mpsc::Receiver<Seen>, mpsc::Receiver<Denied>);

/// What the pipeline tells without waiting.
pub(super) fn queues() -> (Senders, Queues) {
    let (seen, seen_queue) = mpsc::channel(SEEN_QUEUE);
    let (denied, denied_queue) = mpsc::channel(denials::QUEUE);
    ((seen, denied), (seen_queue, denied_queue))
}

/// The tasks; they end when stopped or dropped.
pub(super) struct Tasks {
    running: JoinSet<()>,
    /// Gives back what quotas hold here once told to stop, and ends.
    keeper: Option<(watch::Sender<bool>, JoinHandle<()>)>,
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
        settings: &Settings,
        force: &Arc<ArcSwap<Force>>,
        hash_pool: Option<Arc<HashPool>>,
        ((seen, denied), spans): (Queues, Spans),
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
            tasks.spawn(note_seen(store, Arc::clone(&shared.rim.clock), seen));
        }
        if let (Some(store), Some(api_keys)) = (store.clone(), shared.api_keys.clone()) {
            tasks.spawn(note_keys(store, api_keys));
        }
        tasks.spawn(streams::look_again(Arc::clone(&shared.streams), Arc::clone(&shared.rim.clock)));
        let (streams, clock) = (Arc::clone(&shared.streams), Arc::clone(&shared.rim.clock));
        tasks.spawn(streams::ask_after(streams, store.clone(), tokens.clone(), clock));
        let (load, clock, told) =
            (Arc::clone(&shared.load), Arc::clone(&shared.rim.clock), Arc::clone(&shared.metrics));
        tasks.spawn(pressure::watch(load, Arc::clone(force), clock, told));
        let (known, clock) = (Arc::clone(&shared.known), Arc::clone(&shared.rim.clock));
        tasks.spawn(async move {
            let mut every = tokio::time::interval(HOUSEKEEPING);
            loop {
                every.tick().await;
                known.prune(clock.now(), clock.tick());
            }
        });
        if let Some(facts) = &shared.facts {
            let (keys, feed, force) = (Arc::clone(&facts.keys), Arc::clone(&facts.feed), Arc::clone(force));
            tasks.spawn(async move { keys.follow(&force, &feed.keys).await });
        }
        let keeper = shared.facts.as_ref().map(|facts| {
            let keeper = quotas::Keeper { force: Arc::clone(force), book: Arc::clone(&facts.book) };
            let (stop, stopped) = watch::channel(false);
            (stop, tokio::spawn(keeper.run(stopped)))
        });
        if let Some(facts) = &shared.facts {
            tasks.spawn(quotas::prune(Arc::clone(&facts.store), Arc::clone(&shared.rim.clock)));
        }
        if let Some(store) = store.clone() {
            tasks.spawn(forget_failures(store, Arc::clone(&shared.rim.clock), Arc::clone(force)));
        }
        let feed = shared.facts.as_ref().map(|facts| Arc::clone(&facts.feed));
        if let Some(feed) = &feed {
            follow(feed, shared.redis.as_ref(), &mut tasks);
        }
        if let Some(facts) = &shared.facts {
            audit(&mut tasks, shared, facts, settings, denied);
        }
        let (metrics, counted) = (Arc::clone(&shared.metrics), Arc::clone(force));
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
                counted.load().counters.publish();
            }
        });
        let export = spans.map(|(queue, otlp)| {
            let (stop, stopped) = watch::channel(false);
            (stop, tokio::spawn(collector::export(queue, otlp, Arc::clone(&shared.metrics), stopped)))
        });
        Self { running: tasks, keeper, export }
    }

    pub(super) async fn stop(mut self) {
        self.running.shutdown().await;
        for (stop, task) in [self.keeper, self.export].into_iter().flatten() {
            let _ = stop.send(true);
            let _ = task.await;
        }
    }
}

/// What keeps the feed known.
fn follow(feed: &Arc<Feed>, redis: Option<&Arc<Redis>>, tasks: &mut JoinSet<()>) {
    let reading = Arc::clone(feed);
    tasks.spawn(async move { reading.follow().await });
    let called = Arc::clone(feed);
    tasks.spawn(async move { called.listen().await });
    let pruning = Arc::clone(feed);
    tasks.spawn(async move { pruning.prune().await });
    if let Some(redis) = redis.cloned() {
        let calling = Arc::clone(feed);
        tasks.spawn(async move { calling.over(&redis).await });
    }
}

/// What writes audit rows, seals them and tells of them.
fn audit(tasks: &mut JoinSet<()>, shared: &Shared, facts: &Facts, settings: &Settings, denied: mpsc::Receiver<Denied>) {
    let (store, metrics) = (|| Arc::clone(&facts.store), || Arc::clone(&shared.metrics));
    tasks.spawn(Sealer::new(store(), &facts.master, shared.rim.clone(), metrics()).run());
    let denials = Denials { store: store(), clock: Arc::clone(&shared.rim.clock), metrics: metrics() };
    tasks.spawn(denials.run(denied));
    for webhook in &settings.webhooks {
        let (webhook, rim) = (Arc::clone(webhook), shared.rim.clone());
        tasks.spawn(Delivery { webhook, store: store(), rim, metrics: metrics() }.run());
    }
}

/// Drops counts of failed logins that say nothing any more: every gateway some, and none waits for another.
async fn forget_failures(store: SharedStore, clock: Arc<dyn Clock>, force: Arc<ArcSwap<Force>>) {
    let mut every = tokio::time::interval(FORGETTING);
    // The first is at once, and a start has enough to write.
    every.tick().await;
    loop {
        every.tick().await;
        let rules = force.load().settings.lockout.rules.clone();
        loop {
            match store.prune_lockouts(&rules, clock.now(), FORGOTTEN_AT_ONCE).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "counts of failed logins were not pruned");
                    break;
                }
            }
        }
    }
}

/// Writes down when API keys were last used.
async fn note_keys(store: SharedStore, api_keys: Arc<ApiKeyCheck>) {
    let mut every = tokio::time::interval(KEYS_NOTED);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        for some in api_keys.take_uses().chunks(SEEN_AT_ONCE) {
            // Lost: the next use in a minute is noted again.
            if let Err(error) = store.note_api_key_uses(some).await {
                tracing::debug!(uses = some.len(), %error, "uses of API keys were not noted");
            }
        }
    }
}

/// Writes down which generations were used, so that the refresh before them cannot be repeated past its grace, and when
/// a session was last seen. What has come in while the last was written goes into one transaction.
async fn note_seen(store: SharedStore, clock: Arc<dyn Clock>, mut seen: mpsc::Receiver<Seen>) {
    let mut waiting = Vec::with_capacity(SEEN_AT_ONCE);
    while seen.recv_many(&mut waiting, SEEN_AT_ONCE).await > 0 {
        // Of each session the highest generation is enough.
        waiting.sort_unstable_by_key(|seen| (seen.session, std::cmp::Reverse(seen.generation)));
        waiting.dedup_by_key(|seen| seen.session);
        let uses: Vec<_> = waiting.drain(..).map(|Seen { session, generation }| Use { session, generation }).collect();
        if let Err(error) = store.note_uses(&uses, clock.now()).await {
            // Lost: the worst is that the same successor can be asked for a little longer.
            tracing::debug!(uses = uses.len(), %error, "uses of access tokens were not noted");
        }
    }
}
