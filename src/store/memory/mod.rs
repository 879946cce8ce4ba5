//! What may be lost with the process: what was revoked, limit counters, leases of shared limits, counts of floods, who
//! tries many people's passwords; all bounded.
//!
//! They are asked on every request, so none allocates or takes a process-wide lock to answer. A restarted gateway
//! reads what was revoked back from the store; the rest simply begins anew.

pub(in crate::store) mod bounded;
pub mod ended_sessions;
pub mod floods;
mod gcra_state;
pub mod in_flight;
pub(super) mod leases;
pub mod limits;
pub mod revocations;
pub mod stuffing;
