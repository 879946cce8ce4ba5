//! TEMP keyring.
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::policy::keys::{KeySet, SigningKey};

/// Keys.
pub struct Keyring {
    current: ArcSwap<SigningKey>,
    set: ArcSwap<KeySet>,
}

impl Keyring {
    /// New.
    #[must_use]
    pub fn new(current: Arc<SigningKey>, set: Arc<KeySet>) -> Self {
        Self { current: ArcSwap::new(current), set: ArcSwap::new(set) }
    }
    /// Signing now.
    #[must_use]
    pub fn current(&self) -> Arc<SigningKey> {
        self.current.load_full()
    }
    /// Published.
    #[must_use]
    pub fn key_set(&self) -> Arc<KeySet> {
        self.set.load_full()
    }
}
