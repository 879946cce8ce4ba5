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
    /// The secret that signs access tokens instead of the current key, if there is one. Never published.
    secret: Option<Arc<SigningKey>>,
}

impl Keyring {
    /// A keyring that signs with `current`; `set` must hold its verifying half.
    #[must_use]
    pub fn new(current: Arc<SigningKey>, set: Arc<KeySet>) -> Self {
        Self { keys: ArcSwap::from_pointee(Keys { current, set }), secret: None }
    }

    /// The same, but access tokens are signed with `secret`. The identity is not: upstreams verify it by published keys.
    #[must_use]
    pub fn with_secret(self, secret: Arc<SigningKey>) -> Self {
        let keys = self.keys.load_full();
        let keyring = Self { secret: Some(secret), ..self };
        keyring.replace(Arc::clone(&keys.current), Arc::clone(&keys.set));
        keyring
    }

    /// The key that access tokens are signed with now.
    #[must_use]
    pub fn access(&self) -> Arc<SigningKey> {
        self.secret.clone().unwrap_or_else(|| self.current())
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
        let set = match &self.secret {
            Some(secret) => Arc::new(KeySet::new(set.iter().cloned().chain([secret.verifying()]))),
            None => set,
        };
        self.keys.store(Arc::new(Keys { current, set }));
    }
}
