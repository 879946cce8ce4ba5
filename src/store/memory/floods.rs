//! How often an address did something lately, for any number of addresses in the same memory: `pingora-limits`'
//! count-min sketch over two windows, of which the older one fades.
//!
//! The crate's own `Rate` reads the system's clock, so it could not be tested with one of ours, and two threads that
//! meet at the end of a window can subtract a later time from an earlier one there. Its `Estimator` knows no time: the
//! windows are turned here, by the tick that is passed in. A sketch never counts too little. It counts too much for an
//! address that shares a slot with others in every row, by about the events of a window over [`SLOTS`].

use std::{
    fmt,
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use pingora_limits::estimator::Estimator;

use crate::{
    clock::{Tick, nanos},
    policy::forwarded::limit_prefix,
};

/// Rows of a sketch, each with a hash of its own, seeded at random.
const ROWS: usize = 4;

/// Counters in a row. A million events in a window make an innocent address look like one with about sixty.
const SLOTS: usize = 16 * 1024;

/// Events by address over a sliding window: 1 MiB, whoever comes.
pub struct FloodCounter {
    most: u64,
    window: u64,
    /// The window counted now and the one before it, by the window's number being even or odd.
    sketches: [Estimator; 2],
    /// Events in each, of all addresses together.
    totals: [AtomicU64; 2],
    /// Number of the window that is counted now.
    turn: AtomicU64,
    turning: Mutex<()>,
}

impl fmt::Debug for FloodCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FloodCounter").field("most", &self.most).field("window", &self.window).finish_non_exhaustive()
    }
}

impl FloodCounter {
    /// An address may do it `most` times in any `window`.
    #[must_use]
    pub fn new(most: NonZeroU32, window: Duration) -> Self {
        Self {
            most: most.get().into(),
            window: nanos(window).max(1),
            sketches: [Estimator::new(ROWS, SLOTS), Estimator::new(ROWS, SLOTS)],
            totals: [AtomicU64::new(0), AtomicU64::new(0)],
            turn: AtomicU64::new(0),
            turning: Mutex::default(),
        }
    }

    /// Counts one event of this address, of an IPv6 address of its /64.
    pub fn count(&self, address: IpAddr, now: Tick) {
        let current = self.turn_to(now);
        self.totals[current].fetch_add(1, Ordering::Relaxed);
        self.sketches[current].incr(limit_prefix(address), 1);
    }

    /// Whether it has used up what it may do. While nobody can have, that costs two loads.
    #[must_use]
    pub fn is_over(&self, address: IpAddr, now: Tick) -> bool {
        let current = self.turn_to(now);
        let (before, total) = (1 - current, |one: usize| self.totals[one].load(Ordering::Relaxed));
        if total(0) + total(1) < self.most {
            return false;
        }
        let key = limit_prefix(address);
        let seen = |one: usize| u64::try_from(self.sketches[one].get(key)).unwrap_or(0);
        // What of the window before this one still lies within the last `window`, as if it had come evenly.
        let left = self.window - now.nanos() % self.window;
        let faded = u128::from(seen(before)) * u128::from(left) / u128::from(self.window);
        u128::from(seen(current)) + faded >= u128::from(self.most)
    }

    /// Which sketch counts now. Whoever comes first in a new window clears what is over; others wait for that.
    fn turn_to(&self, now: Tick) -> usize {
        let turn = now.nanos() / self.window;
        if self.turn.load(Ordering::Acquire) < turn {
            let _turning = self.turning.lock().unwrap_or_else(PoisonError::into_inner);
            let last = self.turn.load(Ordering::Acquire);
            if last < turn {
                self.clear(half(turn));
                if last + 1 < turn {
                    self.clear(half(turn + 1));
                }
                self.turn.store(turn, Ordering::Release);
            }
        }
        // Who read the clock just before somebody else turned the window counts in the new one.
        half(self.turn.load(Ordering::Acquire))
    }

    fn clear(&self, one: usize) {
        self.sketches[one].reset();
        self.totals[one].store(0, Ordering::Relaxed);
    }
}

fn half(turn: u64) -> usize {
    usize::from(turn % 2 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Ten in ten seconds.
    fn counter() -> FloodCounter {
        FloodCounter::new(NonZeroU32::new(10).unwrap(), Duration::from_secs(10))
    }

    fn at(seconds: u64) -> Tick {
        Tick::from_nanos(seconds * SECOND)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn count(counter: &FloodCounter, address: &str, times: u32, now: Tick) {
        (0..times).for_each(|_| counter.count(ip(address), now));
    }

    #[test]
    fn an_address_is_over_with_its_last_event_and_nobody_else_is() {
        let counter = counter();
        count(&counter, "192.0.2.1", 9, at(101));
        assert!(!counter.is_over(ip("192.0.2.1"), at(101)));
        count(&counter, "192.0.2.1", 1, at(101));
        assert!(counter.is_over(ip("192.0.2.1"), at(101)));
        assert!(!counter.is_over(ip("192.0.2.2"), at(101)));
    }

    #[test]
    fn a_flood_fades_over_the_next_window_and_is_forgotten_after_two() {
        let counter = counter();
        count(&counter, "192.0.2.1", 20, at(100));
        assert!(counter.is_over(ip("192.0.2.1"), at(109)));
        assert!(counter.is_over(ip("192.0.2.1"), at(115)), "half of twenty");
        assert!(!counter.is_over(ip("192.0.2.1"), at(116)));
        count(&counter, "192.0.2.1", 20, at(120));
        assert!(!counter.is_over(ip("192.0.2.1"), at(145)), "nothing was counted for two windows");
        assert!(!counter.is_over(ip("192.0.2.1"), at(100_000)));
    }

    #[test]
    fn the_two_sides_of_a_window_s_end_are_counted_together() {
        let counter = counter();
        count(&counter, "192.0.2.1", 8, at(109));
        count(&counter, "192.0.2.1", 8, at(110));
        assert!(counter.is_over(ip("192.0.2.1"), at(110)), "sixteen within two seconds");
    }

    #[test]
    fn one_ipv6_customer_is_one_address() {
        let counter = counter();
        for host in 0..10_u128 {
            counter.count(IpAddr::V6((0x2001_0db8_u128 << 96 | host).into()), at(1));
        }
        assert!(counter.is_over(ip("2001:db8::ffff"), at(1)));
        assert!(!counter.is_over(ip("2001:db8:0:1::"), at(1)));
    }

    #[test]
    fn a_hundred_thousand_addresses_do_not_make_an_innocent_one_guilty() {
        let counter = counter();
        for number in 0_u32..100_000 {
            counter.count(IpAddr::from((0x0a00_0000 | number).to_be_bytes()), at(1));
        }
        // About six of each slot; over ten in all four rows by chance is rare.
        let wronged = (0..1_000_u32).filter(|n| counter.is_over(IpAddr::from((0xc000_0000 | n).to_be_bytes()), at(1)));
        assert!(wronged.count() < 20);
    }

    #[test]
    fn threads_that_turn_the_window_together_lose_nothing() {
        let counter = FloodCounter::new(NonZeroU32::new(400).unwrap(), Duration::from_secs(10));
        count(&counter, "192.0.2.9", 100, at(5));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| count(&counter, "192.0.2.1", 100, at(35)));
            }
        });
        assert!(counter.is_over(ip("192.0.2.1"), at(35)));
    }
}
