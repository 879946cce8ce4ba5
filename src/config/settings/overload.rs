//! `overload:` as `config/overload.rs` leaves it: how much may be going on before requests are sent away.

/// How much may be going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overload {
    /// Requests whose answer has not begun.
    pub max_in_flight: u64,
    /// What resident memory is held against.
    pub max_memory: MaxMemory,
}

/// What resident memory is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxMemory {
    /// The lowest limit of the cgroups around the process; where there is none, nothing.
    Cgroup,
    /// Nothing.
    Nothing,
    /// So many bytes.
    Bytes(u64),
}
