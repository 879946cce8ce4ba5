//! What runs beside the requests: health checks, notes for the refresh protocol, housekeeping.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    app::{Shared, routes::Counters},
    gate::authenticate::Seen,
    store::SharedStore,
    upstream::cluster::Cluster,
};

/// First uses of access tokens that may wait to be noted.
const SEEN_QUEUE: usize = 4_096;

/// How often expired entries are dropped and gauges set.
const HOUSEKEEPING: Duration = Duration::from_secs(10);

/// The queue of first uses.
pub(super) fn seen_queue() -> (mpsc::Sender<Seen>, mpsc::Receiver<Seen>) {
    mpsc::channel(SEEN_QUEUE)
}

/// The tasks; they end when stopped or dropped.
pub(super) struct Tasks(JoinSet<()>);

impl Tasks {
    pub(super) fn start(
        shared: &Shared,
        clusters: impl Iterator<Item = Arc<Cluster>>,
        counters: Counters,
        seen: mpsc::Receiver<Seen>,
    ) -> Self {
        let mut tasks = JoinSet::new();
        for cluster in clusters {
            tasks.spawn(async move { cluster.maintain().await });
        }
        tasks.spawn(note_seen(Arc::clone(&shared.store), seen));
        let (ended, clock) = (Arc::clone(&shared.ended), Arc::clone(&shared.rim.clock));
        tasks.spawn(async move {
            let mut every = tokio::time::interval(HOUSEKEEPING);
            loop {
                every.tick().await;
                ended.prune(clock.now());
                for limit in counters.values() {
                    limit.metrics.keys.set(i64::try_from(limit.counter.len()).unwrap_or(i64::MAX));
                }
            }
        });
        Self(tasks)
    }

    pub(super) async fn stop(mut self) {
        self.0.shutdown().await;
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
