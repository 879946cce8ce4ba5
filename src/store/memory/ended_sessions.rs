//! Sessions that have ended while access tokens of theirs may still be unexpired.
//!
//! Part of [`super::revocations`], which asks [`EndedSessions::contains`] for every verified token. Each entry lives
//! until the last access token of its session has expired, so the set is bounded by the sessions ended within one
//! access-token lifetime; the caller prunes it now and then. Expired by both clocks: a civil one that runs ahead for a
//! moment and is set back must not bring the tokens of those back who have logged out. Keys are our own random session
//! ids out of verified tokens, so nobody outside chooses them.

use std::{
    collections::HashMap,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    clock::{Tick, Timestamp},
    policy::ids::SessionId,
};

/// Readers never wait for each other; writers lock one in this many.
const SHARDS: usize = 64;

type Shard = RwLock<HashMap<SessionId, Expiry>>;

/// When the last access token of a session has expired.
#[derive(Debug, Clone, Copy)]
pub struct Expiry {
    /// As tokens say it.
    pub at: Timestamp,
    /// The same moment, as far as is known now, by the clock that is never set.
    pub tick: Tick,
}

impl Expiry {
    pub(super) fn is_over(self, now: Timestamp, tick: Tick) -> bool {
        self.at <= now && self.tick <= tick
    }

    pub(super) fn later(self, other: Self) -> Self {
        Self { at: self.at.max(other.at), tick: self.tick.max(other.tick) }
    }
}

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

    /// Notes that a session has ended, and `until` when it matters. The later of two times stands. Seen by every `contains` that begins after this has returned.
    pub fn insert(&self, session: SessionId, until: Expiry) {
        let mut shard = self.shard(session).write().unwrap_or_else(PoisonError::into_inner);
        let kept = shard.entry(session).or_insert_with(|| {
            self.entries.fetch_add(1, Ordering::Release);
            until
        });
        *kept = until.later(*kept);
    }

    /// Whether the session has ended and a token of it could still be unexpired.
    #[must_use]
    pub fn contains(&self, session: SessionId) -> bool {
        if self.entries.load(Ordering::Acquire) == 0 {
            return false;
        }
        let shard = self.shard(session).read().unwrap_or_else(PoisonError::into_inner);
        shard.contains_key(&session)
    }

    /// Forgets the sessions whose tokens have all expired.
    pub fn prune(&self, now: Timestamp, tick: Tick) {
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            let before = shard.len();
            shard.retain(|_, until| !until.is_over(now, tick));
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

    fn tick(seconds: u64) -> Tick {
        Tick::from_nanos(seconds * 1_000_000_000)
    }

    /// Both clocks agree.
    fn at(seconds: u32) -> Expiry {
        Expiry { at: Timestamp::from_seconds(seconds.into()), tick: tick(seconds.into()) }
    }

    fn prune(ended: &EndedSessions, seconds: u32) {
        ended.prune(at(seconds).at, at(seconds).tick);
    }

    #[test]
    fn an_ended_session_is_known_until_its_last_token_has_expired() {
        let ended = EndedSessions::new();
        ended.insert(sid(1), at(100));
        prune(&ended, 99);
        assert!(ended.contains(sid(1)));
        prune(&ended, 100);
        assert!(!ended.contains(sid(1)));
    }

    #[test]
    fn a_clock_that_ran_ahead_or_is_set_back_brings_no_ended_session_to_life() {
        let ended = EndedSessions::new();
        ended.insert(sid(1), at(1_000));
        let ahead = Timestamp::from_seconds(100_000);
        ended.prune(ahead, tick(200));
        assert!(ended.contains(sid(1)), "by the other clock its tokens have not expired");
        // Set back an hour: its tokens expire an hour later than was thought.
        ended.prune(Timestamp::from_seconds(-2_000), tick(1_600));
        assert!(ended.contains(sid(1)));
        ended.prune(Timestamp::from_seconds(1_000), tick(4_600));
        assert!(ended.is_empty());
    }

    #[test]
    fn a_neighbour_in_the_same_shard_is_not_ended() {
        let ended = EndedSessions::new();
        ended.insert(sid(1), at(100));
        assert!(!ended.contains(sid(1 + 256)));
    }

    #[test]
    fn the_later_end_stands_in_either_order() {
        let ended = EndedSessions::new();
        for (session, first, second) in [(sid(1), 100, 200), (sid(2), 200, 100)] {
            ended.insert(session, at(first));
            ended.insert(session, at(second));
            prune(&ended, 199);
            assert!(ended.contains(session));
        }
        assert_eq!(ended.len(), 2);
    }

    #[test]
    fn pruning_keeps_the_living_and_counts_down_to_empty() {
        let ended = EndedSessions::new();
        for number in 0..1_000 {
            ended.insert(sid(number), at(if number % 2 == 0 { 10 } else { 20 }));
        }
        prune(&ended, 10);
        assert_eq!(ended.len(), 500);
        assert!(ended.contains(sid(1)) && !ended.contains(sid(0)));
        prune(&ended, 20);
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
                        assert!(ended.contains(id) || number % 5 == 0);
                    }
                    prune(ended, 1);
                });
            }
        });
        prune(&ended, 1);
        assert_eq!(ended.len(), 4 * 400);
        let held: usize = ended.shards.iter().map(|shard| shard.read().unwrap().len()).sum();
        assert_eq!(held, ended.len());
    }
}
