//! Sessions that have ended while access tokens of theirs may still be unexpired.
//!
//! A gateway asks [`EndedSessions::contains`] for every verified token. Each entry lives until the last access token
//! of its session has expired, so the set is bounded by the sessions ended within one access-token lifetime; the
//! caller prunes it now and then. Keys are our own random session ids out of verified tokens, so nobody outside
//! chooses them.

use std::{
    collections::HashMap,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{clock::Timestamp, policy::ids::SessionId};

/// Readers never wait for each other; writers lock one in this many.
const SHARDS: usize = 64;

type Shard = RwLock<HashMap<SessionId, Timestamp>>;

/// The set of ended sessions.
#[derive(Debug)]
pub struct EndedSessions {
    /// Entries in all shards; zero answers every question without a lock. Never smaller than the number of entries
    /// that an `insert` which has returned made.
    entries: AtomicUsize,
    shards: [Shard; SHARDS],
}

impl Default for EndedSessions {
    fn default() -> Self {
        Self { entries: AtomicUsize::new(0), shards: std::array::from_fn(|_| Shard::default()) }
    }
}

impl EndedSessions {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that a session has ended; `until` is when the last of its access tokens has expired. The later of two
    /// times stands. Seen by every `contains` that begins after this has returned.
    pub fn insert(&self, session: SessionId, until: Timestamp) {
        let mut shard = self.shard(session).write().unwrap_or_else(PoisonError::into_inner);
        let kept = shard.entry(session).or_insert_with(|| {
            self.entries.fetch_add(1, Ordering::Release);
            until
        });
        *kept = until.max(*kept);
    }

    /// Whether the session has ended and a token of it could still be unexpired.
    #[must_use]
    pub fn contains(&self, session: SessionId, now: Timestamp) -> bool {
        if self.entries.load(Ordering::Acquire) == 0 {
            return false;
        }
        let shard = self.shard(session).read().unwrap_or_else(PoisonError::into_inner);
        shard.get(&session).is_some_and(|until| *until > now)
    }

    /// Forgets the sessions whose tokens have all expired.
    pub fn prune(&self, now: Timestamp) {
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            let before = shard.len();
            shard.retain(|_, until| *until > now);
            self.entries.fetch_sub(before - shard.len(), Ordering::Release);
            // After a wave of logouts the memory goes back.
            if shard.capacity() > 4 * shard.len().max(16) {
                shard.shrink_to_fit();
            }
        }
    }

    /// Entries held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.load(Ordering::Acquire)
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// By the id's last byte, which is random in a version 7 UUID.
    fn shard(&self, session: SessionId) -> &Shard {
        let [.., last] = *session.0.as_bytes();
        &self.shards[usize::from(last) % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use uuid::Uuid;

    use super::*;

    fn sid(number: u128) -> SessionId {
        SessionId(Uuid::from_u128(number))
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    #[test]
    fn an_ended_session_is_known_until_its_last_token_has_expired() {
        let ended = EndedSessions::new();
        ended.insert(sid(1), at(100));
        assert!(ended.contains(sid(1), at(99)));
        assert!(!ended.contains(sid(1), at(100)));
    }

    #[test]
    fn a_neighbour_in_the_same_shard_is_not_ended() {
        let ended = EndedSessions::new();
        ended.insert(sid(1), at(100));
        assert!(!ended.contains(sid(1 + 256), at(0)));
    }

    #[test]
    fn the_later_end_stands_in_either_order() {
        let ended = EndedSessions::new();
        for (session, first, second) in [(sid(1), 100, 200), (sid(2), 200, 100)] {
            ended.insert(session, at(first));
            ended.insert(session, at(second));
            assert!(ended.contains(session, at(199)));
        }
        assert_eq!(ended.len(), 2);
    }

    #[test]
    fn pruning_keeps_the_living_and_counts_down_to_empty() {
        let ended = EndedSessions::new();
        for number in 0..1_000 {
            ended.insert(sid(number), at(if number % 2 == 0 { 10 } else { 20 }));
        }
        ended.prune(at(10));
        assert_eq!(ended.len(), 500);
        assert!(ended.contains(sid(1), at(10)) && !ended.contains(sid(0), at(0)));
        ended.prune(at(20));
        assert!(ended.is_empty());
    }

    #[test]
    fn what_many_threads_insert_and_prune_is_counted_exactly() {
        let ended = EndedSessions::new();
        thread::scope(|scope| {
            for worker in 0_u128..4 {
                let ended = &ended;
                scope.spawn(move || {
                    for number in 0..500 {
                        let id = sid(worker * 10_000 + number);
                        ended.insert(id, at(if number % 5 == 0 { 1 } else { 100 }));
                        assert!(ended.contains(id, at(0)) || number % 5 == 0);
                    }
                    ended.prune(at(1));
                });
            }
        });
        ended.prune(at(1));
        assert_eq!(ended.len(), 4 * 400);
        let held: usize = ended.shards.iter().map(|shard| shard.read().unwrap().len()).sum();
        assert_eq!(held, ended.len());
    }
}
