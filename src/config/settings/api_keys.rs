//! `portal.api_keys:` as `config/api_keys.rs` leaves it.

use std::{sync::Arc, time::Duration};

use crate::policy::lockout::Pace;

/// What API keys users may make.
#[derive(Debug, Clone)]
pub struct ApiKeys {
    /// Keys a user may have.
    pub max_per_user: u32,
    /// How often a user may make one.
    pub made_per_user: Pace,
    /// Longest life of a key; `None`: until it is revoked.
    pub max_life: Option<Duration>,
    /// Scopes that a user may give to a key.
    pub scopes: Vec<Arc<str>>,
}
