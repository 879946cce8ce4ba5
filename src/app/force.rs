//! What is in force: the settings, the clusters that run for them, the counters of their limits.
//!
//! A cluster that the next configuration leaves alone is handed on with its pool, its health and its task; so is a
//! limit with its counts. What is not handed on ends here: its task at once, its connections as their requests do.

use std::{collections::HashSet, sync::Arc};

use futures_util::future::join_all;
use tokio::task::JoinSet;

use crate::{
    app::{
        quotas::{self, Ledgers},
        routes::{self, Counters},
    },
    config::settings::{self, Settings},
    store::{quotas::Book, redis::Redis},
    telemetry::metrics::Metrics,
    upstream::cluster::Cluster,
};

/// A cluster and the task that looks after it, for as long as a configuration wants it.
pub(super) struct Kept {
    cluster: Arc<Cluster>,
    /// Ends when dropped.
    _maintained: JoinSet<()>,
}

impl Kept {
    async fn start(settings: &Arc<settings::Cluster>, metrics: &Arc<Metrics>) -> Arc<Self> {
        let cluster = Arc::new(Cluster::start(Arc::clone(settings), metrics).await);
        let mut maintained = JoinSet::new();
        let looked_after = Arc::clone(&cluster);
        maintained.spawn(async move { looked_after.maintain().await });
        Arc::new(Self { cluster, _maintained: maintained })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.cluster.retire();
    }
}

/// One configuration in force.
pub(super) struct Force {
    pub(super) settings: Settings,
    kept: Vec<Arc<Kept>>,
    pub(super) counters: Counters,
    pub(super) ledgers: Ledgers,
}

impl Force {
    /// Everything made: at the start.
    pub(super) async fn first(
        settings: Settings,
        (redis, book): (Option<&Arc<Redis>>, Option<&Arc<Book>>),
        metrics: &Arc<Metrics>,
    ) -> Self {
        let kept = join_all(settings.clusters.iter().map(|cluster| Kept::start(cluster, metrics))).await;
        let counters = routes::counters(&settings, redis, metrics, None);
        let ledgers = quotas::ledgers(&settings, book, metrics, |_| None);
        Self { settings, kept, counters, ledgers }
    }

    /// The next one: what has changed is made, looked up and checked, the rest handed on.
    pub(super) async fn next(
        &self,
        settings: Settings,
        (redis, book): (Option<&Arc<Redis>>, Option<&Arc<Book>>),
        metrics: &Arc<Metrics>,
    ) -> Self {
        let kept = join_all(settings.clusters.iter().map(|cluster| async {
            match self.unchanged(cluster, &settings) {
                Some(kept) => kept,
                None => Kept::start(cluster, metrics).await,
            }
        }));
        let kept = kept.await;
        let counters = routes::counters(&settings, redis, metrics, Some((&self.settings, &self.counters)));
        let ledgers = quotas::ledgers(&settings, book, metrics, |quota| {
            self.ledgers.get(&quota.name).filter(|held| held.ledger.quota() == quota).cloned()
        });
        Self { settings, kept, counters, ledgers }
    }

    fn unchanged(&self, cluster: &settings::Cluster, next: &Settings) -> Option<Arc<Kept>> {
        let kept = self.kept.iter().find(|kept| *kept.cluster.name() == cluster.name)?;
        self.settings.written.same_cluster(&next.written, &cluster.name).then(|| Arc::clone(kept))
    }

    /// Its clusters.
    pub(super) fn clusters(&self) -> Vec<Arc<Cluster>> {
        self.kept.iter().map(|kept| Arc::clone(&kept.cluster)).collect()
    }

    /// Forgets the metrics of what this configuration does not name, lest each reload leave some behind.
    pub(super) fn prune(&self, routes: &HashSet<&str>, metrics: &Metrics) {
        let clusters: HashSet<&str> = self.settings.clusters.iter().map(|cluster| &*cluster.name).collect();
        let names = self.counters.rates.keys().chain(self.counters.caps.keys());
        let limits: HashSet<&str> = names.map(AsRef::as_ref).collect();
        metrics.retain(routes, &clusters, &limits);
        metrics.retain_quotas(&self.settings.quotas.iter().map(|quota| &*quota.name).collect());
        for kept in &self.kept {
            kept.cluster.publish_health();
        }
    }
}
