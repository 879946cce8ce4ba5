//! A clock that only the test moves: civil and monotonic time, together, but that only civil time can be set back.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use portcullis::clock::{Clock, Tick, Timestamp};

/// 2026-03-01T12:00:00Z: where every test begins.
pub(crate) const BEGIN: Timestamp = Timestamp::from_seconds(1_772_366_400);

/// Stands still until [`ManualClock::advance`].
#[derive(Debug, Default)]
pub(crate) struct ManualClock {
    passed_nanos: AtomicU64,
    set_back_nanos: AtomicU64,
}

impl ManualClock {
    /// Lets time pass.
    pub(crate) fn advance(&self, by: Duration) {
        self.passed_nanos.fetch_add(u64::try_from(by.as_nanos()).unwrap(), Ordering::SeqCst);
    }

    /// Somebody sets the clock back: no time passes.
    pub(crate) fn set_back(&self, by: Duration) {
        self.set_back_nanos.fetch_add(u64::try_from(by.as_nanos()).unwrap(), Ordering::SeqCst);
    }

    fn passed(&self) -> Duration {
        Duration::from_nanos(self.passed_nanos.load(Ordering::SeqCst))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        BEGIN.plus(self.passed()).minus(Duration::from_nanos(self.set_back_nanos.load(Ordering::SeqCst)))
    }

    fn tick(&self) -> Tick {
        // Not zero, so that nothing takes the beginning for "never".
        Tick::from_nanos(u64::try_from((self.passed() + Duration::from_hours(1)).as_nanos()).unwrap())
    }
}
