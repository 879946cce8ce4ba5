//! Ready to serve: the store answers and every checked cluster has a healthy endpoint, or we say what is degraded.
//!
//! A lost store is *degraded*, not failed: tokens still verify and requests still flow (design §3), and taking every
//! gateway out of rotation for it would turn a login outage into a full one.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    store::SharedStore,
    telemetry::health::{self, Check, Status},
    upstream::cluster::Cluster,
};

/// What `/readyz` asks.
pub(super) struct Readiness {
    store: SharedStore,
    clusters: Vec<Arc<Cluster>>,
}

impl Readiness {
    pub(super) fn new(store: SharedStore, clusters: Vec<Arc<Cluster>>) -> Self {
        Self { store, clusters }
    }
}

#[async_trait]
impl health::Readiness for Readiness {
    async fn checks(&self) -> Vec<Check> {
        let mut checks = vec![Check::new("configuration", Status::Ok), Check::new("signing_keys", Status::Ok)];
        let store = if self.store.ping().await.is_ok() { Status::Ok } else { Status::Degraded };
        checks.push(Check::new("store", store));
        for cluster in &self.clusters {
            let (all, healthy) = cluster.healthy();
            let status = match healthy {
                0 => Status::Degraded,
                some if some < all => Status::Degraded,
                _ => Status::Ok,
            };
            checks.push(Check::new(format!("cluster:{}", cluster.name()), status));
        }
        checks
    }
}
