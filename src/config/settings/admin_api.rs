//! Where the admin API is served.

/// Where the admin API is served. Wherever it is: to the role admin alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AdminApi {
    /// Nowhere.
    None,
    /// At the admin listener.
    #[default]
    Admin,
    /// At the admin listener and at the public one.
    Public,
}
