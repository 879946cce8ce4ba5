//! Ledgers of quotas: made of settings, handed on from one configuration to the next, looked after while the gateway
//! runs.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{sync::watch, time::MissedTickBehavior};

use super::{Rim, force::Force};
use crate::{
    clock::Clock,
    config::settings::{Quota, Route, Settings, Usage},
    gate::quotas::{RouteQuota, RouteQuotas},
    policy::limit_headers::quoted,
    store::{
        SharedStore,
        quotas::{Book, Ledger},
    },
    telemetry::metrics::Metrics,
};

/// Keys of one quota in memory at most; what more have at hand goes back to the store early. About 150 bytes each.
const MAX_KEYS: usize = 200_000;

/// How often ledgers are looked after.
const EVERY: Duration = Duration::from_secs(1);

/// How often periods that are over are forgotten.
const PRUNE: Duration = Duration::from_mins(10);

/// How long after its end a period may still be looked at.
const KEPT: Duration = Duration::from_hours(48);

/// The ledgers of every configured quota, by name: one for all routes that name it.
pub(super) type Ledgers = HashMap<Arc<str>, RouteQuota>;

/// What all ledgers share.
pub(super) fn book(store: &SharedStore, rim: &Rim, metrics: &Arc<Metrics>) -> Arc<Book> {
    let metrics = Arc::clone(metrics);
    let told = Box::new(move |lost| metrics.quota_store_lost.set(i64::from(lost)));
    Arc::new(Book::new(Arc::clone(store), Arc::clone(&rim.clock), told))
}

/// Makes the ledgers, but for those that are `kept`. Without a store there are none: the configuration's checks have
/// seen to it that there are no quotas.
pub(super) fn ledgers(
    settings: &Settings,
    book: Option<&Arc<Book>>,
    metrics: &Metrics,
    kept: impl Fn(&Arc<Quota>) -> Option<RouteQuota>,
) -> Ledgers {
    let ledger = |quota: &Arc<Quota>| {
        let made = || {
            let book = book?;
            let ledger = Arc::new(Ledger::new(quota, book, MAX_KEYS));
            book.enrol(Arc::clone(&ledger));
            Some(RouteQuota { ledger, quoted_name: quoted(&quota.name).into(), metrics: metrics.quota(&quota.name) })
        };
        Some((Arc::clone(&quota.name), kept(quota).or_else(made)?))
    };
    settings.quotas.iter().filter_map(ledger).collect()
}

/// The quotas that a route names.
pub(super) fn of_route(route: &Route, ledgers: &Ledgers) -> RouteQuotas {
    let all = route.quotas.iter().filter_map(|quota| ledgers.get(&quota.name).cloned()).collect();
    let estimate = route.usage.as_ref().map(Usage::estimated).unwrap_or_default();
    RouteQuotas { all, estimate }
}

/// Looks after the ledgers in force, and after those that no longer are until they hold nothing.
pub(super) struct Keeper {
    pub(super) force: Arc<ArcSwap<Force>>,
    pub(super) book: Arc<Book>,
}

impl Keeper {
    /// Until the gateway ends; then gives back what is at hand, of ledgers that a reload has replaced too. It is not ended
    /// in the middle: what it is just giving back would be lost.
    pub(super) async fn run(self, mut stopped: watch::Receiver<bool>) {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = every.tick() => {}
                _ = stopped.changed() => return self.book.dismiss(|_| false).await,
            }
            self.book.look().await;
            let force = self.force.load_full();
            for quota in force.ledgers.values() {
                quota.ledger.tend().await;
                quota.metrics.keys.set_count(quota.ledger.len());
            }
            self.book.dismiss(|ledger| is_in_force(ledger, &force)).await;
        }
    }
}

fn is_in_force(ledger: &Arc<Ledger>, force: &Force) -> bool {
    force.ledgers.values().any(|quota| Arc::ptr_eq(&quota.ledger, ledger))
}

/// Forgets periods that are over, for ever.
pub(super) async fn prune(store: SharedStore, clock: Arc<dyn Clock>) {
    let mut every = tokio::time::interval(PRUNE);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let before = clock.now().minus(KEPT);
        loop {
            match store.prune_quotas(before).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(fault) => {
                    tracing::debug!(%fault, "periods of quotas that are over were not forgotten");
                    break;
                }
            }
        }
    }
}
