//! What `/readyz` asks: whether the file that is there could be taken, the signing keys, the store and Redis where
//! there are any, that every cluster has endpoints and all of them are healthy, that every issuer has keys.
//!
//! What is missing is *degraded*, never failed: with a lost store tokens still verify and requests still flow
//! (docs/operations.md), and taking every gateway out of rotation for it would turn a login outage into a full one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;

use crate::{
    app::{Shared, force::Force},
    clock::Clock,
    store::{SharedStore, StoreFault, redis::Redis},
    telemetry::health::{self, Check, CheckState},
    upstream::issuers::Issuer,
};

/// How long the store may take to answer. Well below what the endpoint gives the whole check, so that a store which
/// only hangs is as degraded as one that is gone.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// What `/readyz` asks.
pub(super) struct Readiness {
    store: Option<SharedStore>,
    redis: Option<Arc<Redis>>,
    force: Arc<ArcSwap<Force>>,
    issuers: Vec<Arc<Issuer>>,
    clock: Arc<dyn Clock>,
    /// Whether the file says something that could not be taken.
    stale: Arc<AtomicBool>,
}

impl Readiness {
    pub(super) fn new(shared: &Shared, force: Arc<ArcSwap<Force>>, stale: Arc<AtomicBool>) -> Self {
        Self {
            store: shared.facts.as_ref().map(|facts| Arc::clone(&facts.store)),
            redis: shared.redis.clone(),
            force,
            issuers: shared.issuers.clone(),
            clock: Arc::clone(&shared.rim.clock),
            stale,
        }
    }
}

impl Readiness {
    fn configuration(&self) -> Check {
        let (state, detail) = if self.stale.load(Ordering::Acquire) {
            let told = "the file could not be taken; the last good configuration serves (see the log)";
            (CheckState::Degraded, Some(told.to_owned()))
        } else {
            (CheckState::Ok, None)
        };
        Check { name: "configuration", state, detail }
    }

    async fn store(&self) -> Option<Check> {
        Some(answers(self.store.as_ref()?.ping()).await)
    }

    /// Asked in earnest, so a Redis that is back is used from the moment this says so.
    async fn shared_state(&self) -> Option<Check> {
        let asked = self.redis.as_ref()?.check().await;
        let (state, detail) = match asked {
            Ok(()) => (CheckState::Ok, None),
            Err(why) => (CheckState::Degraded, Some(format!("shared limits are counted per gateway: {why}"))),
        };
        Some(Check { name: "shared_state", state, detail })
    }

    fn upstreams(&self) -> Check {
        let clusters = self.force.load().clusters();
        let missing = clusters.iter().filter_map(|cluster| {
            let (all, healthy) = cluster.healthy();
            (healthy < all || all == 0).then(|| format!("{}: {healthy} of {all} endpoints healthy", cluster.name()))
        });
        complete("upstreams", &missing.collect::<Vec<_>>())
    }

    fn issuers(&self) -> Check {
        let now = self.clock.tick();
        let without = self.issuers.iter().filter(|issuer| issuer.keys(now).is_none_or(|keys| keys.is_empty()));
        complete("issuers", &without.map(|issuer| format!("{}: no keys", issuer.rules().name)).collect::<Vec<_>>())
    }
}

#[async_trait]
impl health::Readiness for Readiness {
    async fn check(&self) -> Vec<Check> {
        // Reached at all, the signing keys are unsealed: nothing starts without them.
        let keys = Check { name: "signing_keys", state: CheckState::Ok, detail: None };
        let (store, shared_state) = tokio::join!(self.store(), self.shared_state());
        let mut checks = vec![self.configuration(), keys];
        checks.extend(store);
        checks.extend(shared_state);
        checks.push(self.upstreams());
        checks.push(self.issuers());
        checks
    }
}

/// Ok when nothing is missing.
fn complete(name: &'static str, missing: &[String]) -> Check {
    let state = if missing.is_empty() { CheckState::Ok } else { CheckState::Degraded };
    Check { name, state, detail: (!missing.is_empty()).then(|| missing.join("; ")) }
}

async fn answers(ping: impl Future<Output = Result<(), StoreFault>>) -> Check {
    let detail = match tokio::time::timeout(PING_TIMEOUT, ping).await {
        Ok(Ok(())) => return Check { name: "store", state: CheckState::Ok, detail: None },
        Ok(Err(fault)) => fault.to_string(),
        Err(_) => format!("no answer within {PING_TIMEOUT:?}"),
    };
    Check { name: "store", state: CheckState::Degraded, detail: Some(detail) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_store_that_hangs_is_as_degraded_as_one_that_is_gone() {
        let hung = answers(std::future::pending()).await;
        assert_eq!((hung.state, hung.detail.as_deref()), (CheckState::Degraded, Some("no answer within 2s")));
        let gone = answers(async { Err(StoreFault::Unavailable("refused".into())) }).await;
        assert_eq!(gone.state, CheckState::Degraded);
        assert!(gone.detail.is_some_and(|detail| detail.contains("refused")));
    }

    #[tokio::test]
    async fn a_store_that_answers_is_ok() {
        assert_eq!(answers(async { Ok(()) }).await.state, CheckState::Ok);
    }
}
