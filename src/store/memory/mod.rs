//! What may be lost with the process: what was revoked, limit counters and leases of shared limits, who tries
//! many people's passwords; all bounded.
//!
//! They are asked on every request, so none allocates or takes a process-wide lock to answer. A restarted gateway
//! reads what was revoked back from the store; the rest simply begins anew.

mod bounded;
pub mod ended_sessions;
mod gcra_state;
pub(super) mod leases;
pub mod limits;
pub mod revocations;
pub mod stuffing;
