//! The signing keys, one for each algorithm that is needed, and the keys that verify: replaced only together.
//!
//! Access tokens are signed by the key of `tokens.algorithm`, or by `tokens.secret` where there is one (HS256; ES256 is
//! then the algorithm of the identity). What verifies them are all keys of that one algorithm, or the secret and
//! nothing else; keys of other algorithms, which sign for presets of a format that asks for them, verify none. All keys
//! are published, the secret never.
//!
//! A key verifies, and is published, from before it signs until no token of it is left. So a gateway that learns late
//! of a change still takes what the others sign with the new key, and they what it signs with the old one. A key that
//! is gone from the next reading neither signs nor verifies.

use std::{
    iter,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;

use crate::policy::keys::{Algorithm, KeySet, SigningKey, VerifyingKey};

/// What is held at one moment, always from the same reading of the store.
#[derive(Debug)]
struct Keys {
    /// Signs access tokens, unless a secret does, and the identity.
    own: Arc<SigningKey>,
    /// Those of other algorithms.
    others: Vec<Arc<SigningKey>>,
    /// What verifies access tokens.
    access: Arc<KeySet>,
    published: Arc<KeySet>,
}

/// Shared by the portal (signs access tokens), authentication (verifies) and identity (signs).
#[derive(Debug)]
pub struct Keyring {
    keys: ArcSwap<Keys>,
    /// The secret that signs access tokens instead of the key, if there is one. Never published.
    secret: Option<Arc<SigningKey>>,
    /// Whether there may be keys that are not known here.
    cut_off: AtomicBool,
}

impl Keyring {
    /// A keyring that signs access tokens with `own` and holds `others` for what needs another algorithm. `verifying`:
    /// keys that sign no longer, or not yet.
    #[must_use]
    pub fn new(own: Arc<SigningKey>, others: Vec<Arc<SigningKey>>, verifying: &[VerifyingKey]) -> Self {
        Self { keys: ArcSwap::new(keys(own, others, verifying, None)), secret: None, cut_off: AtomicBool::new(false) }
    }

    /// The same, but access tokens are signed with `secret`. The identity is not: upstreams verify it by published keys.
    #[must_use]
    pub fn with_secret(self, secret: Arc<SigningKey>) -> Self {
        let held = self.keys.load_full();
        let verifying: Vec<_> = held.published.iter().cloned().collect();
        let keys = keys(Arc::clone(&held.own), held.others.clone(), &verifying, Some(&secret));
        Self { keys: ArcSwap::new(keys), secret: Some(secret), cut_off: AtomicBool::new(false) }
    }

    /// The key that access tokens are signed with now.
    #[must_use]
    pub fn access(&self) -> Arc<SigningKey> {
        self.secret.clone().unwrap_or_else(|| self.own())
    }

    /// The key of `tokens.algorithm`, which signs now.
    #[must_use]
    pub fn own(&self) -> Arc<SigningKey> {
        Arc::clone(&self.keys.load().own)
    }

    /// The key of this very algorithm that signs now, if one is needed by anything.
    #[must_use]
    pub fn of(&self, algorithm: Algorithm) -> Option<Arc<SigningKey>> {
        let keys = self.keys.load();
        iter::once(&keys.own).chain(&keys.others).find(|key| key.algorithm() == algorithm).cloned()
    }

    /// The keys that verify access tokens now.
    #[must_use]
    pub fn access_keys(&self) -> Arc<KeySet> {
        Arc::clone(&self.keys.load().access)
    }

    /// Every key, as the world may have it.
    #[must_use]
    pub fn published(&self) -> Arc<KeySet> {
        Arc::clone(&self.keys.load().published)
    }

    /// Whether access tokens under `kid` are still good: looked at on every hit of the verified-token cache.
    #[must_use]
    pub fn verifies(&self, kid: &str) -> bool {
        self.keys.load().access.get(kid).is_some()
    }

    /// Whether the keys could not be read lately: one that is unknown here may be one that others have made since.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::Acquire)
    }

    /// Says so.
    pub fn set_cut_off(&self, cut_off: bool) {
        self.cut_off.store(cut_off, Ordering::Release);
    }

    /// Replaces all of them by those of another reading.
    pub fn replace(&self, other: &Self) {
        let other = other.keys.load();
        let verifying: Vec<_> = other.published.iter().cloned().collect();
        let (own, others) = (Arc::clone(&other.own), other.others.clone());
        self.keys.store(keys(own, others, &verifying, self.secret.as_deref()));
    }
}

fn keys(
    own: Arc<SigningKey>,
    others: Vec<Arc<SigningKey>>,
    verifying: &[VerifyingKey],
    secret: Option<&SigningKey>,
) -> Arc<Keys> {
    let signing = iter::once(&own).chain(&others).map(|key| key.verifying());
    let published = KeySet::new(signing.chain(verifying.iter().cloned()));
    let of_access = published.iter().filter(|key| secret.is_none() && key.algorithm == own.algorithm()).cloned();
    let access = KeySet::new(of_access.chain(secret.map(SigningKey::verifying)));
    Arc::new(Keys { own, others, access: Arc::new(access), published: Arc::new(published) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::keys::tests::key;

    fn shared(algorithm: Algorithm) -> Arc<SigningKey> {
        Arc::new(key(algorithm))
    }

    fn kids(set: &KeySet) -> Vec<&str> {
        set.iter().map(|key| &*key.kid).collect()
    }

    #[test]
    fn a_key_of_another_algorithm_neither_signs_nor_verifies_access_tokens() {
        let (own, rsa, old) = (shared(Algorithm::Es256), shared(Algorithm::Rs256), shared(Algorithm::Es256));
        let retired = [old.verifying(), shared(Algorithm::EdDsa).verifying()];
        let keyring = Keyring::new(Arc::clone(&own), vec![Arc::clone(&rsa)], &retired);
        assert_eq!(keyring.access().kid(), own.kid());
        assert_eq!(kids(&keyring.access_keys()), [&**own.kid(), &**old.kid()]);
        assert!(!keyring.verifies(rsa.kid()) && !keyring.verifies(&retired[1].kid));
        assert_eq!(keyring.published().len(), 4);
    }

    #[test]
    fn who_needs_an_algorithm_gets_a_key_of_it_or_none() {
        let (own, rsa) = (shared(Algorithm::EdDsa), shared(Algorithm::Rs256));
        let keyring = Keyring::new(Arc::clone(&own), vec![Arc::clone(&rsa)], &[]);
        let kid = |algorithm| keyring.of(algorithm).map(|key| Arc::clone(key.kid()));
        assert_eq!(kid(Algorithm::EdDsa).as_ref(), Some(own.kid()));
        assert_eq!(kid(Algorithm::Rs256).as_ref(), Some(rsa.kid()));
        assert_eq!(kid(Algorithm::Es256), None);
    }

    #[test]
    fn what_is_gone_from_the_next_reading_neither_signs_nor_verifies() {
        let (old, next) = (shared(Algorithm::Es256), shared(Algorithm::Es256));
        let keyring = Keyring::new(Arc::clone(&old), Vec::new(), &[next.verifying()]);
        assert!(keyring.verifies(next.kid()), "before it signs");
        keyring.replace(&Keyring::new(Arc::clone(&next), Vec::new(), &[old.verifying()]));
        assert_eq!(keyring.access().kid(), next.kid());
        assert!(keyring.verifies(old.kid()), "after it has signed");
        keyring.replace(&Keyring::new(Arc::clone(&next), Vec::new(), &[]));
        assert!(!keyring.verifies(old.kid()));
        assert_eq!(kids(&keyring.published()), [&**next.kid()]);
    }

    #[test]
    fn a_secret_signs_access_tokens_only_and_is_never_published() {
        let (own, secret) = (shared(Algorithm::Es256), shared(Algorithm::Hs256));
        let keyring = Keyring::new(Arc::clone(&own), Vec::new(), &[]).with_secret(Arc::clone(&secret));
        let other = Keyring::new(Arc::clone(&own), vec![shared(Algorithm::Rs256)], &[]);
        for published in [1, 2] {
            assert_eq!((keyring.access().kid(), keyring.own().kid()), (secret.kid(), own.kid()));
            assert!(keyring.of(Algorithm::Hs256).is_none());
            assert!(keyring.verifies(secret.kid()) && !keyring.verifies(own.kid()));
            let set = keyring.published();
            assert!(set.get(secret.kid()).is_none() && set.len() == published);
            keyring.replace(&other);
        }
    }
}
