//! What this gateway knows of limits that several share: requests taken ahead, and refusals that still hold.
//!
//! A key that is busy takes a *lease*: a few requests paid for in Redis beforehand, spent here without asking. So in
//! any window the gateways together admit no more than the limit and one lease for each of them, and a lease that is
//! not spent within the limit's window is given up. A refusal is remembered until the next request could be admitted,
//! so that a flood asks Redis once, and a peek sees it without asking at all.

use std::time::Duration;

use super::{
    bounded::{Bounded, Fades},
    limits::{CounterKey, Decision},
};
use crate::{
    clock::{Tick, nanos},
    config::settings,
};

/// A key is busy when two of its requests had to ask within this time. A rarer one gains nothing from a lease, and
/// what it took ahead would lie idle here while another gateway refuses it.
const BUSY: Duration = Duration::from_secs(1);

/// What Redis says to one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Requests granted; none: refused.
    pub(crate) given: u32,
    /// Requests that may still come at once, wherever they are counted.
    pub(crate) remaining: u32,
    /// When the whole burst will be there again.
    pub(crate) full_in: Duration,
    /// When the next request would be admitted; zero when one would be now.
    pub(crate) retry_after: Duration,
}

/// Whether a request can be decided here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spend {
    /// It can.
    Decided {
        /// How.
        decision: Decision,
        /// Requests to take ahead now; [`Leases::granted`] must be told what came of it.
        take: Option<u32>,
    },
    /// Nothing is at hand: Redis must be asked.
    Ask,
}

/// The leases of one limit.
#[derive(Debug)]
pub(crate) struct Leases {
    held: Bounded<Held>,
    /// Requests a key may hold; 0: none are taken ahead.
    size: u32,
    /// How long they may lie, nanoseconds: the time in which an empty bucket fills.
    window: u64,
}

/// What is known of one key. Moments are ticks in nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    /// Requests at hand, until `expires`.
    left: u32,
    expires: u64,
    /// A question for more is on its way.
    taking: bool,
    /// Requests left in Redis when it was last asked.
    rest: u32,
    full_at: u64,
    refused_until: u64,
    /// When a request last had to ask.
    asked_at: Option<u64>,
}

impl Fades for Held {
    fn faded_at(&self) -> u64 {
        let lease = if self.left > 0 { self.expires } else { 0 };
        let busy = self.asked_at.map_or(0, |at| at.saturating_add(nanos(BUSY)));
        lease.max(self.refused_until).max(busy)
    }
}

impl Held {
    fn reset(&self, now: u64) -> Duration {
        Duration::from_nanos(self.full_at.saturating_sub(now))
    }

    fn refusal(&self, now: u64) -> Option<Decision> {
        let wait = self.refused_until.saturating_sub(now);
        let retry_after = Duration::from_nanos(wait);
        let at_hand = self.left > 0 && now < self.expires;
        (wait > 0 && !at_hand).then(|| Decision::Refused { retry_after, reset: self.reset(now).max(retry_after) })
    }

    fn learn(&mut self, now: u64, grant: &Grant) {
        self.rest = grant.remaining;
        self.full_at = now.saturating_add(nanos(grant.full_in));
        // Requests come here out of the order of their moments: one that is a little older than this one must not take
        // "the next one may come now" for a refusal.
        self.refused_until = match nanos(grant.retry_after) {
            0 => 0,
            wait => now.saturating_add(wait),
        };
    }

    /// How many to take ahead; the question is then on its way. A lease is no use when nothing is left to take.
    fn take(&mut self, size: u32) -> Option<u32> {
        let worth_it = size > 0 && !self.taking && self.rest >= 2 && self.left <= size / 2;
        worth_it.then(|| {
            self.taking = true;
            size - self.left
        })
    }
}

impl Leases {
    pub(crate) fn new(limit: &settings::Limit, size: u32, max_keys: usize) -> Self {
        let window = (limit.period / limit.requests.get()).saturating_mul(limit.burst.get());
        Self { held: Bounded::new(max_keys), size, window: nanos(window) }
    }

    /// Keys held.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// The refusal that still holds, if there is one.
    pub(crate) fn refusal(&self, key: &CounterKey, now: Tick) -> Option<Decision> {
        self.held.place(key).get()?.refusal(now.nanos())
    }

    /// Spends a request that is at hand.
    pub(crate) fn spend(&self, key: &CounterKey, now: Tick) -> Spend {
        let now = now.nanos();
        let mut place = self.held.place(key);
        let Some(held) = place.get() else { return Spend::Ask };
        if now >= held.expires {
            held.left = 0;
        }
        if held.left == 0 {
            let refusal = held.refusal(now);
            return refusal.map_or(Spend::Ask, |decision| Spend::Decided { decision, take: None });
        }
        held.left -= 1;
        let remaining = held.left.saturating_add(held.rest);
        let decision = Decision::Admitted { remaining, reset: held.reset(now) };
        Spend::Decided { decision, take: held.take(self.size) }
    }

    /// A request had to ask, and this is what Redis said. Gives how many to take ahead now; [`Self::granted`] must be
    /// told what came of it.
    pub(crate) fn asked(&self, key: &CounterKey, now: Tick, grant: &Grant) -> Option<u32> {
        let now = now.nanos();
        let mut place = self.held.place(key);
        let mut held = place.get().copied().unwrap_or_default();
        let busy = held.asked_at.is_some_and(|at| now < at.saturating_add(nanos(BUSY)));
        held.asked_at = Some(now);
        held.learn(now, grant);
        let take = if busy { held.take(self.size) } else { None };
        place.put(held);
        take
    }

    /// What came of taking ahead; `None`: nothing, Redis is lost.
    pub(crate) fn granted(&self, key: &CounterKey, now: Tick, grant: Option<&Grant>) {
        let now = now.nanos();
        let mut place = self.held.place(key);
        // Forgotten meanwhile: what was granted is lost, which admits too few, never too many.
        let Some(held) = place.get() else { return };
        held.taking = false;
        if let Some(grant) = grant {
            held.learn(now, grant);
            held.left = held.left.saturating_add(grant.given).min(self.size);
            held.expires = now.saturating_add(self.window);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const KEY: CounterKey = CounterKey::Subject(7);

    fn tick(nanos: u64) -> Tick {
        Tick::from_nanos(nanos)
    }

    /// Ten a second, a hundred at once: a window of ten seconds.
    fn leases(size: u32) -> Leases {
        let limit = settings::Limit {
            name: "test".into(),
            key: settings::LimitKey::one(settings::KeyPart::Subject),
            requests: NonZeroU32::new(10).unwrap(),
            period: Duration::from_secs(1),
            burst: NonZeroU32::new(100).unwrap(),
            scope: settings::LimitScope::Shared { lease: size },
            shadow: false,
            max_keys: 100,
        };
        Leases::new(&limit, size, 100)
    }

    fn given(given: u32, remaining: u32) -> Grant {
        let full_in = Duration::from_millis(100) * (100 - remaining);
        Grant { given, remaining, full_in, retry_after: Duration::ZERO }
    }

    fn refused(retry_after: Duration) -> Grant {
        Grant { given: 0, remaining: 0, full_in: Duration::from_secs(10), retry_after }
    }

    fn take(spend: Spend) -> Option<u32> {
        match spend {
            Spend::Decided { decision: Decision::Admitted { .. }, take } => take,
            other => panic!("{other:?}"),
        }
    }

    /// A key that holds a lease of ten.
    fn busy(at: u64) -> Leases {
        let leases = leases(10);
        assert_eq!(leases.asked(&KEY, tick(at), &given(1, 99)), None);
        assert_eq!(leases.asked(&KEY, tick(at), &given(1, 98)), Some(10));
        leases.granted(&KEY, tick(at), Some(&given(10, 88)));
        leases
    }

    #[test]
    fn a_rare_key_takes_nothing_ahead() {
        let leases = leases(10);
        for at in 0..5 {
            assert_eq!(leases.spend(&KEY, tick(at * SECOND)), Spend::Ask);
            assert_eq!(leases.asked(&KEY, tick(at * SECOND), &given(1, 99)), None);
        }
    }

    #[test]
    fn a_lease_is_spent_without_asking_and_topped_up_at_its_half_once() {
        let leases = busy(SECOND);
        for left in (6..10).rev() {
            let expected = Decision::Admitted { remaining: 88 + left, reset: Duration::from_millis(1_200) };
            let spent = leases.spend(&KEY, tick(SECOND));
            assert_eq!(spent, Spend::Decided { decision: expected, take: None });
        }
        assert_eq!(take(leases.spend(&KEY, tick(SECOND))), Some(5), "half of it is left");
        assert_eq!(take(leases.spend(&KEY, tick(SECOND))), None, "one question at a time");
        leases.granted(&KEY, tick(SECOND), Some(&given(5, 83)));
        for _ in 0..9 {
            let _ = take(leases.spend(&KEY, tick(SECOND)));
        }
        assert_eq!(leases.spend(&KEY, tick(SECOND)), Spend::Ask, "and never more than was granted");
    }

    #[test]
    fn no_more_is_held_than_one_lease() {
        let leases = busy(SECOND);
        leases.granted(&KEY, tick(SECOND), Some(&given(10, 78)));
        let spent = (0..100).take_while(|_| leases.spend(&KEY, tick(SECOND)) != Spend::Ask).count();
        assert_eq!(spent, 10);
    }

    #[test]
    fn a_lease_that_lies_for_a_window_is_given_up() {
        let leases = busy(SECOND);
        assert_eq!(take(leases.spend(&KEY, tick(11 * SECOND - 1))), None);
        assert_eq!(leases.spend(&KEY, tick(11 * SECOND)), Spend::Ask);
    }

    #[test]
    fn a_lost_redis_ends_the_question_and_gives_nothing() {
        let leases = leases(10);
        leases.asked(&KEY, tick(0), &given(1, 99));
        assert_eq!(leases.asked(&KEY, tick(0), &given(1, 98)), Some(10));
        leases.granted(&KEY, tick(0), None);
        assert_eq!(leases.spend(&KEY, tick(0)), Spend::Ask);
        assert_eq!(leases.asked(&KEY, tick(0), &given(1, 97)), Some(10), "it may be asked for again");
    }

    #[test]
    fn a_refusal_holds_until_its_time_and_not_a_nanosecond_longer() {
        let leases = leases(0);
        let wait = Duration::from_millis(100);
        assert_eq!(leases.asked(&KEY, tick(SECOND), &refused(wait)), None);
        let expected = Decision::Refused { retry_after: wait, reset: Duration::from_secs(10) };
        assert_eq!(leases.spend(&KEY, tick(SECOND)), Spend::Decided { decision: expected, take: None });
        assert_eq!(leases.refusal(&KEY, tick(SECOND)), Some(expected));
        let then = SECOND + nanos(wait);
        assert!(leases.refusal(&KEY, tick(then - 1)).is_some());
        assert_eq!(leases.refusal(&KEY, tick(then)), None);
        assert_eq!(leases.spend(&KEY, tick(then)), Spend::Ask);
    }

    #[test]
    fn a_request_older_than_the_last_grant_is_not_refused_for_it() {
        let leases = leases(0);
        leases.asked(&KEY, tick(SECOND), &given(1, 99));
        assert_eq!(leases.refusal(&KEY, tick(SECOND - 1)), None);
        assert_eq!(leases.spend(&KEY, tick(SECOND - 1)), Spend::Ask);
    }

    #[test]
    fn what_is_at_hand_is_spent_before_a_refusal_counts() {
        let leases = busy(SECOND);
        leases.asked(&KEY, tick(SECOND), &refused(Duration::from_secs(1)));
        assert_eq!(leases.refusal(&KEY, tick(SECOND)), None);
        for _ in 0..10 {
            assert_eq!(take(leases.spend(&KEY, tick(SECOND))), None, "nothing is left to take");
        }
        assert!(leases.refusal(&KEY, tick(SECOND)).is_some());
    }

    #[test]
    fn nothing_is_taken_ahead_when_nothing_is_left_or_the_limit_is_exact() {
        for (size, remaining) in [(10, 1), (0, 99)] {
            let leases = leases(size);
            leases.asked(&KEY, tick(0), &given(1, remaining));
            assert_eq!(leases.asked(&KEY, tick(0), &given(1, remaining)), None);
        }
    }
}
