//! What may be lost with the process: ended sessions and limit counters, both bounded.
//!
//! Both are asked on every request, so neither allocates or takes a process-wide lock to answer. A restarted gateway
//! reads its ended sessions back from the store; limit counters simply begin anew.

pub mod ended_sessions;
mod gcra_state;
pub mod limits;
