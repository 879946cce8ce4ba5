//! The signing key and the keys that verify: one consistent pair, replaced only as a pair.
//!
//! Nothing rotates keys yet: what the store holds at start is used until the end.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::policy::keys::{KeySet, SigningKey};

/// The key that signs now and the set that verifies, always from the same reading of the store.
#[derive(Debug)]
struct Keys {
    current: Arc<SigningKey>,
    set: Arc<KeySet>,
}

/// Shared by the portal (signs access tokens), authentication (verifies) and identity (signs).
#[derive(Debug)]
pub struct Keyring {
    keys: ArcSwap<Keys>,
}

impl Keyring {
    /// A keyring that signs with `current`; `set` must hold its verifying half.
    #[must_use]
    pub fn new(current: Arc<SigningKey>, set: Arc<KeySet>) -> Self {
        Self { keys: ArcSwap::from_pointee(Keys { current, set }) }
    }

    /// The key that signs now.
    #[must_use]
    pub fn current(&self) -> Arc<SigningKey> {
        Arc::clone(&self.keys.load().current)
    }

    /// The keys that verify now.
    #[must_use]
    pub fn key_set(&self) -> Arc<KeySet> {
        Arc::clone(&self.keys.load().set)
    }

    /// Whether tokens under `kid` are still good: looked at on every hit of the verified-token cache.
    #[must_use]
    pub fn verifies(&self, kid: &str) -> bool {
        self.keys.load().set.get(kid).is_some()
    }

    /// Replaces both.
    pub fn replace(&self, current: Arc<SigningKey>, set: Arc<KeySet>) {
        self.keys.store(Arc::new(Keys { current, set }));
    }
}
