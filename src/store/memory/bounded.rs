//! A map by counter key that a flood of fresh keys can neither grow nor empty of what matters.
//!
//! Bounded and sharded. A full shard makes room with a clock hand: each newcomer looks at the next few entries and
//! takes the place of the one that fades first. An entry that has faded loses nothing by being forgotten, and the
//! one-request keys of a flood fade sooner than a busy key, so they replace each other while the busy key, honest or
//! not, keeps its place. The work for a newcomer is constant.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
};

use indexmap::IndexMap;

use super::limits::CounterKey;

/// Shards, when there are keys enough to fill them.
const SHARDS: usize = 64;
/// Fewest keys in a shard: the clock hand needs something to choose from.
const SHARD_MIN: usize = 64;
/// Entries a newcomer looks at in a full shard.
const SAMPLE: usize = 8;

/// What is worth keeping only for a time.
pub(in crate::store) trait Fades {
    /// The tick, in nanoseconds, from which on nothing is lost by forgetting it.
    fn faded_at(&self) -> u64;
}

/// The map.
#[derive(Debug)]
pub(in crate::store) struct Bounded<V> {
    shards: Box<[Mutex<Shard<V>>]>,
    /// Keys a shard may hold.
    shard_max: usize,
    /// Seeded at random, so that nobody outside can compute which keys share a shard.
    hasher: RandomState,
}

#[derive(Debug)]
struct Shard<V> {
    entries: IndexMap<CounterKey, V>,
    /// Where the next newcomer begins to look.
    hand: usize,
}

impl<V> Default for Shard<V> {
    fn default() -> Self {
        Self { entries: IndexMap::new(), hand: 0 }
    }
}

/// One key's entry, or its vacant place, with its shard held still.
pub(in crate::store) struct Place<'b, V> {
    shard: MutexGuard<'b, Shard<V>>,
    key: CounterKey,
    /// Where the key was found, so that it need not be hashed again.
    index: Option<usize>,
    max: usize,
}

impl<V: Fades> Bounded<V> {
    /// For at most `max_keys` keys (at least one).
    pub(in crate::store) fn new(max_keys: usize) -> Self {
        let shards = (max_keys / SHARD_MIN).clamp(1, SHARDS);
        Self {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            shard_max: (max_keys / shards).max(1),
            hasher: RandomState::new(),
        }
    }

    pub(in crate::store) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).entries.len()).sum()
    }

    /// Looks at every entry, one shard after the other, and forgets those that are not to be kept.
    pub(in crate::store) fn retain(&self, mut keep: impl FnMut(&CounterKey, &mut V) -> bool) {
        for shard in &self.shards {
            lock(shard).entries.retain(&mut keep);
        }
    }

    pub(in crate::store) fn place(&self, key: &CounterKey) -> Place<'_, V> {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash choose a shard equally well")]
        let hash = self.hasher.hash_one(key) as usize;
        let shard = lock(&self.shards[hash % self.shards.len()]);
        let index = shard.entries.get_index_of(key);
        Place { shard, key: *key, index, max: self.shard_max }
    }
}

/// No panic can leave a half-written entry behind, so a poisoned lock is as good as another.
fn lock<V>(shard: &Mutex<Shard<V>>) -> MutexGuard<'_, Shard<V>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<V: Fades> Place<'_, V> {
    pub(in crate::store) fn get(&mut self) -> Option<&mut V> {
        let (_, entry) = self.shard.entries.get_index_mut(self.index?)?;
        Some(entry)
    }

    /// Sets the entry; in a full shard another may have to go.
    pub(in crate::store) fn put(self, value: V) {
        self.replace(value);
    }

    /// The same; gives the one that had to go.
    pub(in crate::store) fn replace(mut self, value: V) -> Option<(CounterKey, V)> {
        if let Some(entry) = self.get() {
            *entry = value;
            return None;
        }
        let mut gone = None;
        while self.shard.entries.len() >= self.max {
            gone = self.shard.make_room();
        }
        self.shard.entries.insert(self.key, value);
        gone
    }
}

impl<V: Fades> Shard<V> {
    /// Forgets the entry that fades first among the next few.
    fn make_room(&mut self) -> Option<(CounterKey, V)> {
        let mut first = (u64::MAX, 0);
        for _ in 0..SAMPLE {
            let index = self.hand % self.entries.len();
            self.hand = index + 1;
            if let Some((_, entry)) = self.entries.get_index(index) {
                first = first.min((entry.faded_at(), index));
            }
        }
        self.entries.swap_remove_index(first.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Fades for u64 {
        fn faded_at(&self) -> u64 {
            *self
        }
    }

    fn key(number: u128) -> CounterKey {
        CounterKey::Subject(number)
    }

    /// Few enough keys for a single shard.
    fn one_shard(max: usize, entries: impl IntoIterator<Item = (u128, u64)>) -> Bounded<u64> {
        let map = Bounded::new(max);
        entries.into_iter().for_each(|(number, faded_at)| map.place(&key(number)).put(faded_at));
        map
    }

    fn holds(map: &Bounded<u64>, number: u128) -> bool {
        map.place(&key(number)).get().is_some()
    }

    #[test]
    fn the_shards_together_never_hold_more_than_was_allowed() {
        for max in [1, 2, 63, 64, 65, 1_000, 4_096, 10_000] {
            let map = Bounded::new(max);
            (0..20_000).for_each(|number| map.place(&key(number)).put(1));
            assert!(map.len() <= max, "{} of {max}", map.len());
            assert!(map.len() > max / 2, "{} of {max}", map.len());
        }
    }

    #[test]
    fn the_first_of_the_sample_to_fade_makes_room() {
        let map = one_shard(3, [(0, 50), (1, 10), (2, 90), (3, 60)]);
        assert!(!holds(&map, 1));
        assert!(holds(&map, 2) && holds(&map, 3));
    }

    #[test]
    fn the_hand_moves_on_so_that_every_entry_is_looked_at() {
        let map = one_shard(64, (0..64).map(|number| (number, if number >= 56 { 1 } else { 1_000 })));
        // Eight looks at eight entries each go once around.
        (100..108).for_each(|number| map.place(&key(number)).put(2_000));
        let stale = (56..64).filter(|number| holds(&map, *number)).count();
        assert!(stale < 8, "{stale} faded entries were never looked at");
    }

    #[test]
    fn a_known_key_is_changed_in_place_even_when_full() {
        let map = one_shard(2, [(1, 10), (2, 20), (1, 30)]);
        assert_eq!(map.place(&key(1)).get(), Some(&mut 30));
        assert_eq!(map.len(), 2);
    }
}
