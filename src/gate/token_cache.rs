//! The verified-token cache: one signature check per token and minute, then a look-up.
//!
//! Keyed by the token's SHA-256, so that the cache holds no usable token. `quick_cache` bounds its size; what is looked
//! at often stays (S3-FIFO). An entry counts for at most 60 seconds, by our clock; the token's `exp` and all
//! else that time or a route decides is looked at on each use, by [`crate::gate::authenticate`].

use std::{
    hash::{BuildHasher, Hasher},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::digest;
use quick_cache::{
    UnitWeighter,
    sync::{Cache, DefaultLifecycle},
};

use crate::{clock::Timestamp, gate::caller::Caller};

/// How long a checked signature is trusted at most.
pub const LONGEST: Duration = Duration::from_mins(1);

type Digest = [u8; 32];

/// A digest is already uniformly random: its first eight bytes are the hash.
#[derive(Debug, Clone, Default)]
struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_ne_bytes(*first);
        }
    }

    fn write_usize(&mut self, _length_prefix: usize) {}
}

#[derive(Debug, Clone, Default)]
struct ByDigest;

impl BuildHasher for ByDigest {
    type Hasher = FirstBytes;

    fn build_hasher(&self) -> FirstBytes {
        FirstBytes::default()
    }
}

/// The verified-token cache.
#[derive(Debug)]
pub struct TokenCache {
    entries: Cache<Digest, Arc<Caller>, UnitWeighter, ByDigest>,
}

impl TokenCache {
    /// A cache of at most `capacity` tokens.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        let items = usize::try_from(capacity).unwrap_or(usize::MAX);
        Self { entries: Cache::with(items, capacity, UnitWeighter, ByDigest, DefaultLifecycle::default()) }
    }

    /// The key of a token.
    #[must_use]
    pub fn digest(token: &str) -> Digest {
        let mut key = [0; 32];
        key.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        key
    }

    /// The caller a token was verified for, unless that was too long ago.
    #[must_use]
    pub fn get(&self, digest: &Digest, now: Timestamp) -> Option<Arc<Caller>> {
        self.entries.get(digest).filter(|caller| now < caller.cached_until())
    }

    /// Keeps a verified token until [`Caller::cached_until`].
    pub fn put(&self, digest: Digest, caller: Arc<Caller>) {
        self.entries.insert(digest, caller);
    }
}
