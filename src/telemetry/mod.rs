//! What operators see: metrics, the access log, spans, health.

pub mod metrics;
pub mod record;
