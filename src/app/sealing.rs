//! Seals audit rows, every few seconds, at whichever gateway comes first.

use std::{sync::Arc, time::Duration};

use tokio::time::MissedTickBehavior;

use crate::{
    app::Rim,
    policy::{audit_chain::SealingKey, master_key::MasterKey},
    store::{
        SharedStore, StoreFault,
        audit::{Sealed, Sealing},
    },
    telemetry::metrics::{Metrics, SealingResult},
};

/// How often rows are sealed.
const EVERY: Duration = Duration::from_secs(2);

/// Rows in one seal: a transaction that is over well within the store's time-out.
const BATCH: u32 = 256;

/// What seals.
pub(super) struct Sealer {
    store: SharedStore,
    key: SealingKey,
    rim: Rim,
    metrics: Arc<Metrics>,
}

impl Sealer {
    pub(super) fn new(store: SharedStore, master: &MasterKey, rim: Rim, metrics: Arc<Metrics>) -> Self {
        Self { store, key: SealingKey::of(master), rim, metrics }
    }

    /// For ever.
    pub(super) async fn run(self) {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            every.tick().await;
            match self.seal().await {
                Ok(result) => {
                    self.metrics.audit_sealings.of(result).inc();
                    if std::mem::take(&mut failing) {
                        tracing::info!("audit rows are sealed again");
                    }
                }
                Err(fault) => {
                    self.metrics.audit_sealings.of(SealingResult::Failed).inc();
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%fault, "audit rows are not sealed; they are written all the same");
                    }
                }
            }
        }
    }

    /// Whatever there is to seal.
    async fn seal(&self) -> Result<SealingResult, StoreFault> {
        let mut result = SealingResult::Idle;
        loop {
            let at = self.rim.clock.now();
            let sealing = Sealing { key: &self.key, entropy: &*self.rim.entropy, at, most: BATCH };
            let (rows, last) = match self.store.seal_audit(&sealing).await? {
                Sealed::Elsewhere => return Ok(SealingResult::Elsewhere),
                Sealed::Here { rows, last } => (rows, last),
            };
            self.metrics.audit_position.set(i64::try_from(last).unwrap_or(i64::MAX));
            if rows > 0 {
                result = SealingResult::Sealed;
                self.metrics.audit_rows_sealed.add(rows);
            }
            if rows < u64::from(BATCH) {
                return Ok(result);
            }
        }
    }
}
