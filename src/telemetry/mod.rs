//! What operators see: metrics, the log, health, the record of each request, and the span it becomes.

pub mod health;
pub mod logging;
pub mod metrics;
pub mod record;
pub mod traces;
