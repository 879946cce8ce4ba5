//! Where the limit counters keep one number a key: when its bucket is full again (GCRA's theoretical arrival time).
//!
//! Bounded and sharded. A flood of fresh keys must neither grow memory nor push out the counters that matter, so a
//! full shard makes room with a clock hand: each newcomer looks at the next few entries and takes the place of the
//! one that is, or will be, full first. A bucket that is full already loses nothing by being forgotten, and the
//! one-request keys of a flood are always fuller than a busy key, so they replace each other while the busy key,
//! honest or not, keeps its count. The work for a newcomer is constant.

use std::{
    cell::Cell,
    hash::{BuildHasher, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
};

use governor::{nanos::Nanos, state::StateStore};
use indexmap::IndexMap;

use super::limits::CounterKey;
use crate::clock::Tick;

/// Shards, when there are keys enough to fill them.
const SHARDS: usize = 64;
/// Fewest keys in a shard: the clock hand needs something to choose from.
const SHARD_MIN: usize = 64;
/// Entries a newcomer looks at in a full shard.
const SAMPLE: usize = 8;

/// Every key's number.
#[derive(Debug)]
pub(super) struct Buckets {
    shards: Box<[Mutex<Shard>]>,
    /// Keys a shard may hold.
    shard_max: usize,
    /// Seeded at random, so that nobody outside can compute which keys share a shard.
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Shard {
    /// Key → the tick, in nanoseconds, at which its bucket is full again.
    full_at: IndexMap<CounterKey, u64>,
    /// Where the next newcomer begins to look.
    hand: usize,
}

impl Buckets {
    pub(super) fn new(max_keys: usize) -> Self {
        let shards = (max_keys / SHARD_MIN).clamp(1, SHARDS);
        Self {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            shard_max: (max_keys / shards).max(1),
            hasher: RandomState::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).full_at.len()).sum()
    }

    fn shard(&self, key: &CounterKey) -> MutexGuard<'_, Shard> {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash choose a shard equally well")]
        let hash = self.hasher.hash_one(key) as usize;
        lock(&self.shards[hash % self.shards.len()])
    }
}

/// No panic can leave a half-written number behind, so a poisoned lock is as good as another.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    /// `at`: where the key was found, if it was, so that it need not be hashed again.
    fn put(&mut self, at: Option<usize>, key: CounterKey, full_at: u64, max: usize) {
        if let Some((_, held)) = at.and_then(|index| self.full_at.get_index_mut(index)) {
            *held = full_at;
            return;
        }
        while self.full_at.len() >= max {
            self.make_room();
        }
        self.full_at.insert(key, full_at);
    }

    /// Forgets the fullest bucket among the next few.
    fn make_room(&mut self) {
        let mut fullest = (u64::MAX, 0);
        for _ in 0..SAMPLE {
            let index = self.hand % self.full_at.len();
            self.hand = index + 1;
            if let Some((_, full_at)) = self.full_at.get_index(index) {
                fullest = fullest.min((*full_at, index));
            }
        }
        self.full_at.swap_remove_index(fullest.1);
    }
}

/// One question to the buckets, at one moment, as governor's state store.
///
/// Governor reads its clock itself and measures from its own start. GCRA does not mind where zero lies, so the clock
/// stands still at zero and this store counts from `now`: what it hands to governor is "full again in …".
pub(super) struct Slot<'b> {
    buckets: &'b Buckets,
    now: u64,
    /// Whether an admitted request is paid for.
    charge: bool,
    /// Nanoseconds after `now` at which the bucket is full again, as the decision left it.
    full_in: Cell<u64>,
}

impl<'b> Slot<'b> {
    pub(super) fn new(buckets: &'b Buckets, now: Tick, charge: bool) -> Self {
        Self { buckets, now: now.nanos(), charge, full_in: Cell::new(0) }
    }

    pub(super) fn full_in(&self) -> u64 {
        self.full_in.get()
    }
}

impl StateStore for Slot<'_> {
    type Key = CounterKey;

    fn measure_and_replace<T, F, E>(&self, key: &Self::Key, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut shard = self.buckets.shard(key);
        let found = shard.full_at.get_full(key).map(|(index, _, full_at)| (index, full_at.saturating_sub(self.now)));
        let full_in = found.map(|(_, full_in)| full_in);
        self.full_in.set(full_in.unwrap_or(0));
        let (admitted, next) = decide(full_in.map(Nanos::new))?;
        if self.charge {
            self.full_in.set(next.as_u64());
            let full_at = self.now.saturating_add(next.as_u64());
            shard.put(found.map(|(index, _)| index), *key, full_at, self.buckets.shard_max);
        }
        Ok(admitted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u128) -> CounterKey {
        CounterKey::Subject(number)
    }

    fn put(shard: &mut Shard, number: u128, full_at: u64, max: usize) {
        let at = shard.full_at.get_index_of(&key(number));
        shard.put(at, key(number), full_at, max);
    }

    #[test]
    fn the_shards_together_never_hold_more_than_was_allowed() {
        for max in [1, 2, 63, 64, 65, 1_000, 4_096, 10_000] {
            let buckets = Buckets::new(max);
            for number in 0..20_000 {
                put(&mut buckets.shard(&key(number)), number, 1, buckets.shard_max);
            }
            assert!(buckets.len() <= max, "{} of {max}", buckets.len());
            assert!(buckets.len() > max / 2, "{} of {max}", buckets.len());
        }
    }

    #[test]
    fn the_fullest_of_the_sample_makes_room() {
        let mut shard = Shard::default();
        for (number, full_at) in [(0, 50), (1, 10), (2, 90)] {
            put(&mut shard, number, full_at, 3);
        }
        put(&mut shard, 3, 60, 3);
        assert!(!shard.full_at.contains_key(&key(1)));
        assert!(shard.full_at.contains_key(&key(2)) && shard.full_at.contains_key(&key(3)));
    }

    #[test]
    fn the_hand_moves_on_so_that_every_entry_is_looked_at() {
        let mut shard = Shard::default();
        for number in 0..64 {
            put(&mut shard, number, if number >= 56 { 1 } else { 1_000 }, 64);
        }
        // Eight looks at eight entries each go once around.
        for number in 100..108 {
            put(&mut shard, number, 2_000, 64);
        }
        let stale = (56..64).filter(|number| shard.full_at.contains_key(&key(*number))).count();
        assert!(stale < 8, "{stale} recovered entries were never looked at");
    }

    #[test]
    fn a_known_key_is_changed_in_place_even_when_full() {
        let mut shard = Shard::default();
        put(&mut shard, 1, 10, 2);
        put(&mut shard, 2, 20, 2);
        put(&mut shard, 1, 30, 2);
        assert_eq!(shard.full_at.get(&key(1)), Some(&30));
        assert_eq!(shard.full_at.len(), 2);
    }
}
