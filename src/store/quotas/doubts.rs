//! Accounts that were set to nothing in the store, gathered so that each ledger is gone through once for all of them.

use std::collections::{HashMap, HashSet};

use crate::store::quota_lists::QuotaReset;

/// Of whose units it is not known whether they are still good, by quota.
#[derive(Debug, Default)]
pub struct Doubts(HashMap<String, Doubted>);

/// Accounts of one quota.
#[derive(Debug)]
pub(super) enum Doubted {
    All,
    Some(HashSet<[u8; 16]>),
}

impl Doubts {
    /// These too.
    pub fn add(&mut self, what: &QuotaReset) {
        let doubted = self.0.entry(what.quota.clone()).or_insert_with(|| Doubted::Some(HashSet::new()));
        match (&mut *doubted, what.key) {
            (_, None) => *doubted = Doubted::All,
            (Doubted::Some(keys), Some(key)) => {
                keys.insert(key);
            }
            (Doubted::All, Some(_)) => {}
        }
    }

    /// Those of a quota, if there are any.
    pub(super) fn of(&self, quota: &str) -> Option<&Doubted> {
        self.0.get(quota)
    }
}

impl Doubted {
    /// Whether an account is among them. Its key is computed once, and only if it matters.
    pub(super) fn holds(&self, key: impl FnOnce() -> [u8; 16]) -> bool {
        match self {
            Self::All => true,
            Self::Some(keys) => keys.contains(&key()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn reset(quota: &str, key: Option<u8>) -> QuotaReset {
        QuotaReset { quota: quota.into(), key: key.map(|key| [key; 16]) }
    }

    #[test]
    fn however_many_were_reset_a_key_is_hashed_once() {
        let mut doubts = Doubts::default();
        for key in 0..100 {
            doubts.add(&reset("daily", Some(key)));
        }
        let daily = doubts.of("daily").unwrap();
        for (key, doubted) in [(0, true), (50, true), (99, true), (100, false)] {
            let hashed = Cell::new(0);
            let key = || {
                hashed.set(hashed.get() + 1);
                [key; 16]
            };
            assert_eq!((daily.holds(key), hashed.get()), (doubted, 1));
        }
        assert!(doubts.of("other").is_none());
    }

    #[test]
    fn after_all_were_reset_each_is_doubted_and_none_hashed() {
        for order in [[Some(1), None], [None, Some(1)]] {
            let mut doubts = Doubts::default();
            for key in order {
                doubts.add(&reset("daily", key));
            }
            assert!(doubts.of("daily").unwrap().holds(|| panic!("it does not matter whose it is")));
        }
    }
}
