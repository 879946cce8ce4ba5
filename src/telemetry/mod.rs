//! What operators see: metrics, the log, health, the record of each request, and of sampled ones the spans.
//!
//! Spans are made in [`traces`] and told from elsewhere: the request's own when it ends, what it waited for by
//! `gate/watch.rs` (databases), `portal/caller.rs` (hashing) and `upstream/told.rs` (the service).
//! `upstream/collector.rs` exports them.

pub mod health;
pub mod logging;
pub mod metrics;
pub mod record;
pub mod traces;
