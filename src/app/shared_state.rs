//! The Redis that has the counters of shared limits and the calls to read the feed, and what metrics tell of it.

use std::sync::Arc;

use crate::{
    config::settings,
    store::redis::{CallResult, Observer, Purpose, Redis, UrlFault},
    telemetry::metrics::{Metrics, SharedStateCall, SharedStateResult},
};

/// Connects, when the configuration names one; a Redis that is not there holds up no start.
pub(super) async fn open(
    settings: Option<&settings::Redis>,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<Redis>>, UrlFault> {
    let Some(settings) = settings else { return Ok(None) };
    let redis = Redis::open(settings, Box::new(Told(Arc::clone(metrics)))).await?;
    Ok(Some(Arc::new(redis)))
}

struct Told(Arc<Metrics>);

impl Observer for Told {
    fn called(&self, purpose: Purpose, result: CallResult) {
        let call = match purpose {
            Purpose::Charge => SharedStateCall::Charge,
            Purpose::Lease => SharedStateCall::Lease,
            Purpose::Probe => SharedStateCall::Probe,
        };
        let result = match result {
            CallResult::Answered => SharedStateResult::Answered,
            CallResult::Failed => SharedStateResult::Failed,
            CallResult::Timeout => SharedStateResult::Timeout,
        };
        self.0.shared_state_calls.of(call).of(result).inc();
    }

    fn lost(&self, lost: bool) {
        self.0.shared_state_lost.set(i64::from(lost));
    }

    fn counted_alone(&self) {
        self.0.shared_state_fallbacks.inc();
    }
}
