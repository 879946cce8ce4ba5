//! What may be lost with the process: ended sessions, limit counters and leases of shared limits, all bounded.
//!
//! They are asked on every request, so none allocates or takes a process-wide lock to answer. A restarted gateway
//! reads its ended sessions back from the store; the rest simply begins anew.

mod bounded;
pub mod ended_sessions;
mod gcra_state;
pub(super) mod leases;
pub mod limits;
