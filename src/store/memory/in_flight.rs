//! What is under way at the same time, by counter key: how caps on concurrent requests and on streams are counted, in
//! this process.
//!
//! A [`Slot`] is one request or stream under way, given back when it is dropped. A key without any is forgotten, so
//! there are never more keys than these, which the edge bounds.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::limits::CounterKey;

/// Two requests of different keys rarely wait for each other.
const SHARDS: usize = 16;

/// A shard that has become much smaller than it was gives its memory back, unless it is as small as this.
const SMALL: usize = 64;

type Shard = HashMap<CounterKey, u32>;

/// The counts of one cap.
#[derive(Debug, Default)]
pub struct InFlight {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
}

/// One request under way.
#[derive(Debug)]
pub struct Slot {
    of: Arc<InFlight>,
    key: CounterKey,
}

/// As many are under way as may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl InFlight {
    /// One more of this key, if fewer than `most` are under way; and how many there are with it.
    ///
    /// # Errors
    /// [`Full`] when there are `most` already.
    pub fn enter(self: &Arc<Self>, key: &CounterKey, most: u32) -> Result<(Slot, u32), Full> {
        let mut shard = self.shard(key);
        let under_way = match shard.entry(*key) {
            Entry::Occupied(entry) if *entry.get() >= most => return Err(Full),
            Entry::Occupied(mut entry) => {
                *entry.get_mut() += 1;
                *entry.get()
            }
            Entry::Vacant(_) if most == 0 => return Err(Full),
            Entry::Vacant(entry) => *entry.insert(1),
        };
        drop(shard);
        Ok((Slot { of: Arc::clone(self), key: *key }, under_way))
    }

    /// Keys with anything under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, key: &CounterKey) -> MutexGuard<'_, Shard> {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash choose a shard equally well")]
        let hash = self.hasher.hash_one(key) as usize;
        lock(&self.shards[hash % SHARDS])
    }
}

/// No panic can leave a count half changed, so a poisoned lock is as good as another.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut shard = self.of.shard(&self.key);
        if let Entry::Occupied(mut entry) = shard.entry(self.key) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
        if shard.capacity() > SMALL && shard.len() < shard.capacity() / 8 {
            shard.shrink_to(SMALL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u128) -> CounterKey {
        CounterKey::Subject(number)
    }

    #[test]
    fn as_many_as_may_be_are_under_way_and_one_that_ends_makes_room() {
        let cap = Arc::new(InFlight::default());
        let (first, one) = cap.enter(&key(1), 2).unwrap();
        let (_second, two) = cap.enter(&key(1), 2).unwrap();
        assert_eq!((one, two), (1, 2));
        assert_eq!(cap.enter(&key(1), 2).unwrap_err(), Full);
        assert!(cap.enter(&key(2), 2).is_ok(), "another key has its own");
        drop(first);
        assert_eq!(cap.enter(&key(1), 2).unwrap().1, 2);
    }

    #[test]
    fn a_key_with_nothing_under_way_is_forgotten_and_its_memory_given_back() {
        let cap = Arc::new(InFlight::default());
        let slots: Vec<_> = (0..100_000).map(|number| cap.enter(&key(number), 1).unwrap().0).collect();
        assert_eq!(cap.len(), 100_000);
        drop(slots);
        assert!(cap.is_empty());
        let room: usize = cap.shards.iter().map(|shard| lock(shard).capacity()).sum();
        assert!(room <= SHARDS * 4 * SMALL, "{room}");
    }

    #[test]
    fn many_threads_together_get_no_more_than_the_cap() {
        let cap = Arc::new(InFlight::default());
        let held: Vec<Slot> = std::thread::scope(|scope| {
            let enter = || (0..100).filter_map(|_| Some(cap.enter(&key(1), 50).ok()?.0)).collect::<Vec<_>>();
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(enter)).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        assert_eq!(held.len(), 50);
        drop(held);
        assert!(cap.is_empty());
    }
}
