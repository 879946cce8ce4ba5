//! Where the limit counters keep one number a key: when its bucket is full again (GCRA's theoretical arrival time).
//!
//! A bucket that is full loses nothing by being forgotten; the one-request keys of a flood are always fuller than a
//! busy key's.

use std::cell::Cell;

use governor::{nanos::Nanos, state::StateStore};

use super::{
    bounded::{Bounded, Fades},
    limits::CounterKey,
};
use crate::clock::Tick;

/// The tick, in nanoseconds, at which a bucket is full again.
#[derive(Debug, Clone, Copy)]
pub(super) struct FullAt(u64);

impl Fades for FullAt {
    fn faded_at(&self) -> u64 {
        self.0
    }
}

/// Every key's number.
pub(super) type Buckets = Bounded<FullAt>;

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
        let mut place = self.buckets.place(key);
        let full_in = place.get().map(|full_at| full_at.0.saturating_sub(self.now));
        self.full_in.set(full_in.unwrap_or(0));
        let (admitted, next) = decide(full_in.map(Nanos::new))?;
        if self.charge {
            self.full_in.set(next.as_u64());
            place.put(FullAt(self.now.saturating_add(next.as_u64())));
        }
        Ok(admitted)
    }
}
