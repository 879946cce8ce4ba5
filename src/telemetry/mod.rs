//! What operators see: metrics, the log, health, and the record of each request. Trace ids are passed on and logged;
//! no spans are exported yet.

pub mod health;
pub mod logging;
pub mod metrics;
pub mod record;
