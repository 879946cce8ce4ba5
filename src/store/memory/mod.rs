//! TEMP memory.
pub mod ended_sessions;
