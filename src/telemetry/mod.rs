//! What operators see: metrics, the access log, spans, health.

pub mod health;
pub mod logging;
pub mod metrics;
pub mod record;
