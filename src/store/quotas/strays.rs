//! Keys that had something to lose when they were forgotten, until that is given back or written down.

use std::mem;

use super::held::Held;
use crate::{clock::Timestamp, store::memory::limits::CounterKey};

/// How many there may be.
const MOST: usize = 4_096;

/// Bounded. What is owed is kept before what lies idle: a lost unit at hand counts as used, a lost debt as not.
#[derive(Debug, Default)]
pub(super) struct Strays {
    owing: Vec<(CounterKey, Held)>,
    idle: Vec<(CounterKey, Held)>,
}

impl Strays {
    /// One more, if there is room.
    pub(super) fn add(&mut self, key: CounterKey, held: Held) {
        let full = self.owing.len() + self.idle.len() >= MOST;
        if held.debt > 0 {
            if !full || self.idle.pop().is_some() {
                self.owing.push((key, held));
            }
        } else if held.left > 0 && !full {
            self.idle.push((key, held));
        }
    }

    /// Whether there are any of this period.
    pub(super) fn hold_any(&self, period: Timestamp) -> bool {
        self.owing.iter().chain(&self.idle).any(|(_, held)| held.period == period)
    }

    /// All there are.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (CounterKey, Held)> + use<> {
        let Self { owing, idle } = mem::take(self);
        owing.into_iter().chain(idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Tick;

    #[test]
    fn what_is_owed_is_kept_before_what_lies_idle() {
        let held = |left, debt| {
            let mut held = Held::new(Timestamp::from_seconds(0), 100, Tick::from_nanos(1));
            (held.left, held.debt) = (left, debt);
            held
        };
        let mut strays = Strays::default();
        strays.add(CounterKey::Subject(0), held(0, 0));
        assert!(!strays.hold_any(Timestamp::from_seconds(0)));
        for number in 0..5_000 {
            strays.add(CounterKey::Subject(number), held(1, 0));
        }
        for number in 5_000..5_010 {
            strays.add(CounterKey::Subject(number), held(0, 1));
        }
        assert!(strays.hold_any(Timestamp::from_seconds(0)) && !strays.hold_any(Timestamp::from_seconds(9)));
        let all: Vec<_> = strays.take().collect();
        assert_eq!((all.len(), all.iter().filter(|(_, held)| held.debt > 0).count()), (4_096, 10));
    }
}
