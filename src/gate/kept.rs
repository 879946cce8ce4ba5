//! What was made for a caller and serves its requests for a while: identities, references to claims, the headers of
//! other gateways' formats.
//!
//! Each is good from one moment until another: once the clock has been set back, one that says it was made later is
//! believed nowhere.

use std::sync::{Mutex, PoisonError};

use crate::clock::Timestamp;

/// How many of a kind are kept for one caller: a configuration may name thousands of services and hosts, and all callers
/// together may not take that times the memory that the token cache counts for them. One more pushes out the oldest.
pub(super) const MOST: usize = 16;

/// Things of one kind, each made for a `K`.
pub struct Kept<K, V>(Mutex<Vec<Made<K, V>>>);

struct Made<K, V> {
    to: K,
    value: V,
    from: Timestamp,
    until: Timestamp,
}

impl<K, V> Made<K, V> {
    fn is_good(&self, now: Timestamp) -> bool {
        self.from <= now && now < self.until
    }
}

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K, V> std::fmt::Debug for Kept<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kept(…)")
    }
}

impl<K: PartialEq, V: Clone> Kept<K, V> {
    /// The one that was made for whom `is_for` knows, if it is good at `now`.
    #[must_use]
    pub fn get(&self, is_for: impl Fn(&K) -> bool, now: Timestamp) -> Option<V> {
        let made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        made.iter().find(|one| is_for(&one.to) && one.is_good(now)).map(|one| one.value.clone())
    }

    /// Keeps one that was made `now`, in place of another for the same and of those whose time it is not.
    pub fn put(&self, to: K, value: V, now: Timestamp, until: Timestamp) {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        made.retain(|one| one.is_good(now) && one.to != to);
        if made.len() >= MOST {
            made.remove(0);
        }
        made.push(Made { to, value, from: now, until });
    }

    /// How many are held.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_of_many_services_keeps_the_latest_identities_only() {
        let kept = Kept::default();
        let (now, until) = (Timestamp::from_seconds(1_000), Timestamp::from_seconds(1_030));
        for service in 0..1_000 {
            kept.put(service, "t", now, until);
        }
        let is_kept = |service: usize| kept.get(|to| *to == service, now).is_some();
        assert!((0..1_000).rev().take(MOST).all(is_kept));
        assert_eq!((0..1_000).filter(|service| is_kept(*service)).count(), MOST);
    }

    #[test]
    fn what_was_made_later_or_is_over_is_not_given() {
        let kept = Kept::default();
        let at = Timestamp::from_seconds;
        kept.put((), "t", at(1_000), at(1_030));
        let good = [999, 1_000, 1_029, 1_030].map(|now| kept.get(|()| true, at(now)).is_some());
        assert_eq!(good, [false, true, true, false]);
    }
}
