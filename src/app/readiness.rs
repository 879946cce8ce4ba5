//! Ready to serve: the store answers, every checked cluster has a healthy endpoint and every issuer's keys are known, or
//! we say what is degraded.
//!
//! A lost store is *degraded*, not failed: tokens still verify and requests still flow (docs/operations.md), and taking
//! every gateway out of rotation for it would turn a login outage into a full one.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    app::Shared,
    clock::Clock,
    store::{SharedStore, StoreFault},
    telemetry::health::{self, Check, CheckState},
    upstream::{cluster::Cluster, issuers::Issuer},
};

/// How long the store may take to answer. Well below what the endpoint gives the whole check, so that a store which
/// only hangs is as degraded as one that is gone.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// What `/readyz` asks.
pub(super) struct Readiness {
    store: SharedStore,
    clusters: Vec<Arc<Cluster>>,
    issuers: Vec<Arc<Issuer>>,
    clock: Arc<dyn Clock>,
}

impl Readiness {
    pub(super) fn new(shared: &Shared, clusters: Vec<Arc<Cluster>>, issuers: Vec<Arc<Issuer>>) -> Self {
        Self { store: Arc::clone(&shared.store), clusters, issuers, clock: Arc::clone(&shared.rim.clock) }
    }
}

impl Readiness {
    fn upstreams(&self) -> Check {
        let missing = self.clusters.iter().filter_map(|cluster| {
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
        // Reached at all, the configuration is loaded and the signing keys are unsealed: nothing starts without them.
        let ok = |name| Check { name, state: CheckState::Ok, detail: None };
        vec![
            ok("configuration"),
            ok("signing_keys"),
            answers(self.store.ping()).await,
            self.upstreams(),
            self.issuers(),
        ]
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
