//! The verified-token cache: one signature check per token and minute, then a look-up.
//!
//! Keyed by the token's SHA-256, so that the cache holds no usable token. `quick_cache` bounds its size, in bytes
//! rather than in entries, since other issuers' tokens may have a thousand roles; what is looked at often stays
//! (S3-FIFO). An entry counts for at most 60 seconds, by our clock; the token's `exp` and all else that time or a route
//! decides is looked at on each use, by [`crate::gate::authenticate`].

use std::{
    hash::{BuildHasher, Hasher},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::digest;
use quick_cache::{
    Weighter,
    sync::{Cache, DefaultLifecycle},
};

use crate::{clock::Timestamp, gate::caller::Caller};

/// How long a checked signature is trusted at most.
pub const LONGEST: Duration = Duration::from_mins(1);

/// The key of an entry: SHA-256 of what was shown.
pub type TokenDigest = [u8; 32];

/// A digest is already uniformly random: its first eight bytes are the hash.
#[derive(Debug, Clone, Default)]
pub(in crate::gate) struct FirstBytes(u64);

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

/// Digests need no hashing.
#[derive(Debug, Clone, Default)]
pub(in crate::gate) struct ByDigest;

impl BuildHasher for ByDigest {
    type Hasher = FirstBytes;

    fn build_hasher(&self) -> FirstBytes {
        FirstBytes::default()
    }
}

/// As large as it is.
#[derive(Debug, Clone)]
struct BySize;

impl Weighter<TokenDigest, Arc<Caller>> for BySize {
    fn weight(&self, _: &TokenDigest, caller: &Arc<Caller>) -> u64 {
        caller.size_kib()
    }
}

/// The verified-token cache.
#[derive(Debug)]
pub struct TokenCache {
    entries: Cache<TokenDigest, Arc<Caller>, BySize, ByDigest>,
}

impl TokenCache {
    /// A cache of at most `capacity` tokens of the usual size, about 1 KiB.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        let items = usize::try_from(capacity).unwrap_or(usize::MAX);
        Self { entries: Cache::with(items, capacity, BySize, ByDigest, DefaultLifecycle::default()) }
    }

    /// The key of a token.
    #[must_use]
    pub fn digest(token: &str) -> TokenDigest {
        let mut key = [0; 32];
        key.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        key
    }

    /// The caller a token was verified for, unless that was too long ago; or later than now, by a clock that has been set
    /// back since.
    #[must_use]
    pub fn get(&self, digest: &TokenDigest, now: Timestamp) -> Option<Arc<Caller>> {
        let good = |until: Timestamp| now < until && until <= now.plus(LONGEST);
        self.entries.get(digest).filter(|caller| good(caller.cached_until()))
    }

    /// Keeps a verified token until [`Caller::cached_until`].
    pub fn put(&self, digest: TokenDigest, caller: Arc<Caller>) {
        self.entries.insert(digest, caller);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gate::caller::Signer,
        policy::{
            claims::{Claims, tests::claims},
            ids::SessionId,
            token::Verified,
        },
    };

    const NOW: Timestamp = Timestamp::from_seconds(1_000);

    fn caller(roles: usize) -> Arc<Caller> {
        let roles = (0..roles).map(|number| format!("role-{number}").into()).collect();
        let verified = Verified { claims: Arc::new(Claims { roles, ..claims() }), kid: "k".into() };
        Arc::new(Caller::new(verified, Signer::Own(SessionId(uuid::Uuid::nil())), NOW.plus(LONGEST)))
    }

    fn kept(roles: usize) -> usize {
        let cache = TokenCache::new(10_000);
        let digests: Vec<_> = (0..10_000).map(|number| TokenCache::digest(&format!("token {number}"))).collect();
        for digest in &digests {
            cache.put(*digest, caller(roles));
        }
        digests.iter().filter(|digest| cache.get(digest, NOW).is_some()).count()
    }

    #[test]
    fn tokens_of_the_usual_size_count_as_one_and_huge_ones_as_many() {
        // Shards fill unevenly.
        assert!(kept(3) > 8_000);
        let huge = kept(500);
        assert!((50..400).contains(&huge), "{huge} of about 50 KiB each");
    }

    #[test]
    fn an_entry_counts_for_a_minute_whatever_is_done_to_the_clock() {
        let cache = TokenCache::new(100);
        let digest = TokenCache::digest("token");
        cache.put(digest, caller(1));
        for (seconds, good) in [(0, true), (59, true), (60, false), (-1, false), (-3_600, false)] {
            let now = Timestamp::from_seconds(NOW.seconds() + seconds);
            assert_eq!(cache.get(&digest, now).is_some(), good, "{seconds}");
        }
    }
}
