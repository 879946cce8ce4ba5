//! Lockout: what counted failures say about the next attempt to log in (NIST SP 800-63B-4 §3.2.2).
//!
//! Four counters. Three of them stand for everybody: account × address ([`PairRules`]), account ([`AccountRules`]) and
//! address ([`AddressRules`]), of which the address counts accounts and not attempts, so that one forgetful user behind
//! a NAT bans nobody. A device cookie of an earlier good login has a counter of its own ([`DeviceRules`]) and is judged
//! by that alone: that is how an owner gets in while somebody hammers the account.
//!
//! An attempt is under way ([`Tally::pending`]) from before its password is hashed until it is known how that ended. It
//! is not yet a failure, but no more are under way at once than could fail without a wait: guesses side by side come no
//! further than one after the other. What its gateway never told the end of has failed ([`Tally::at`]).

use std::{num::NonZeroU32, time::Duration};

use crate::clock::Timestamp;

/// Every number of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockoutRules {
    /// Account × address.
    pub pair: PairRules,
    /// Account.
    pub account: AccountRules,
    /// Address.
    pub address: AddressRules,
    /// Failures that void a device cookie.
    pub device: DeviceRules,
    /// How long an attempt may be under way; after that it has failed.
    pub hold: Duration,
}

/// Failures with one account from one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairRules {
    /// Attempts that may fail without a wait.
    pub free: NonZeroU32,
    /// The wait after the last of those, after the next failure, and so on; the last one stays. Empty: none.
    pub waits: Vec<Duration>,
}

/// Failures in a row with one account, from wherever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountRules {
    /// Failures after which attempts are slowed down.
    pub slow_after: NonZeroU32,
    /// The wait after those; it grows by this much with each failure more.
    pub slow_by: Duration,
    /// The longest such wait.
    pub slow_most: Duration,
    /// Failures after which there is no attempt any more, until somebody lifts it.
    pub hard_stop: NonZeroU32,
    /// Failures of so long ago are forgotten, unless they led to the hard stop.
    pub forget_after: Duration,
}

/// Accounts that somebody failed to log in to from one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressRules {
    /// Failures of so long ago are forgotten.
    pub window: Duration,
    /// From few accounts to many.
    pub ladder: Vec<Rung>,
}

/// A rung of the ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rung {
    /// From so many accounts on,
    pub accounts: NonZeroU32,
    /// each more costs its address this wait.
    pub wait: Duration,
}

/// Failures with one device cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRules {
    /// So many void it.
    pub failures: NonZeroU32,
}

/// Calls of one kind that may be made so often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// So many at once,
    pub calls: NonZeroU32,
    /// and so many again in this time.
    pub period: Duration,
}

/// Which counter speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Counter {
    /// Account × address.
    Pair,
    /// Account.
    Account,
    /// Address.
    Address,
    /// Device cookie.
    Device,
}

impl Counter {
    /// Every one, in the order of declaration.
    pub const ALL: [Self; 4] = [Self::Pair, Self::Account, Self::Address, Self::Device];

    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pair => "pair",
            Self::Account => "account",
            Self::Address => "address",
            Self::Device => "device",
        }
    }
}

/// What one counter has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Attempts that failed, in a row.
    pub failures: u64,
    /// When the last of them did.
    pub last: Timestamp,
    /// Attempts under way.
    pub pending: u64,
    /// When the last of those has to have ended.
    pub pending_until: Timestamp,
}

/// What is said of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may be made.
    Admit,
    /// As many are under way as could fail without a wait. Once they have ended it may be made, or not.
    Busy(Counter),
    /// Not before then.
    Wait(Counter, Timestamp),
    /// Not before somebody lifts it.
    Stopped,
}

impl Tally {
    /// Nothing yet.
    pub const NONE: Self =
        Self { failures: 0, last: Timestamp::from_micros(0), pending: 0, pending_until: Timestamp::from_micros(0) };

    /// As it stands at `now`: attempts of which nobody has told the end in time have failed.
    #[must_use]
    pub fn at(self, now: Timestamp) -> Self {
        if self.pending == 0 || now < self.pending_until {
            return self;
        }
        Self {
            failures: self.failures.saturating_add(self.pending),
            last: self.last.max(self.pending_until),
            pending: 0,
            ..self
        }
    }

    /// Without failures of before `since`.
    #[must_use]
    pub fn since(self, since: Timestamp) -> Self {
        if self.last < since { Self { failures: 0, ..self } } else { self }
    }

    /// With one attempt more under way.
    #[must_use]
    pub fn reserved(self, now: Timestamp, hold: Duration) -> Self {
        let pending_until = self.pending_until.max(now.plus(hold));
        Self { pending: self.pending.saturating_add(1), pending_until, ..self }
    }

    /// An attempt that was under way has ended and is not counted.
    #[must_use]
    pub fn released(self) -> Self {
        Self { pending: self.pending.saturating_sub(1), ..self }
    }

    /// An attempt that was under way has failed.
    #[must_use]
    pub fn failed(self, now: Timestamp) -> Self {
        Self { failures: self.failures.saturating_add(1), last: self.last.max(now), ..self.released() }
    }

    /// An attempt that was under way has succeeded.
    #[must_use]
    pub fn succeeded(self) -> Self {
        Self { failures: 0, ..self.released() }
    }

    /// Whether it says nothing that no counter at all would not.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.failures == 0 && self.pending == 0
    }

    /// Whether one attempt more may be under way, if `free` may fail without a wait.
    fn has_room(&self, free: u64) -> bool {
        self.pending < free.saturating_sub(self.failures).max(1)
    }

    fn judged(&self, counter: Counter, wait: Duration, free: u64, now: Timestamp) -> Verdict {
        let until = self.last.plus(wait);
        if !wait.is_zero() && now < until {
            Verdict::Wait(counter, until)
        } else if self.has_room(free) {
            Verdict::Admit
        } else {
            Verdict::Busy(counter)
        }
    }
}

impl Verdict {
    /// Both must let it pass; of two refusals the harder one.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if other.hardness() > self.hardness() { other } else { self }
    }

    const fn hardness(self) -> (u8, i64) {
        match self {
            Self::Admit => (0, 0),
            Self::Busy(_) => (1, 0),
            Self::Wait(_, until) => (2, until.micros()),
            Self::Stopped => (3, 0),
        }
    }
}

impl PairRules {
    /// The wait after so many failures.
    #[must_use]
    pub fn wait(&self, failures: u64) -> Duration {
        let Some(step) = failures.checked_sub(self.free.get().into()) else { return Duration::ZERO };
        let step = usize::try_from(step).unwrap_or(usize::MAX);
        self.waits.get(step).or(self.waits.last()).copied().unwrap_or_default()
    }

    /// What the counter says.
    #[must_use]
    pub fn judge(&self, tally: &Tally, now: Timestamp) -> Verdict {
        tally.judged(Counter::Pair, self.wait(tally.failures), self.free.get().into(), now)
    }
}

impl AccountRules {
    /// The wait after so many failures, the hard stop aside.
    #[must_use]
    pub fn wait(&self, failures: u64) -> Duration {
        let Some(step) = failures.checked_sub(self.slow_after.get().into()) else { return Duration::ZERO };
        let times = u32::try_from(step.saturating_add(1)).unwrap_or(u32::MAX);
        self.slow_by.saturating_mul(times).min(self.slow_most)
    }

    /// Whether so many failures are the end.
    #[must_use]
    pub fn stops(&self, failures: u64) -> bool {
        failures >= self.hard_stop.get().into()
    }

    /// A tally without what is forgotten by now.
    #[must_use]
    pub fn remembered(&self, tally: Tally, now: Timestamp) -> Tally {
        if self.stops(tally.failures) { tally } else { tally.since(now.minus(self.forget_after)) }
    }

    /// What the counter says.
    #[must_use]
    pub fn judge(&self, tally: &Tally, now: Timestamp) -> Verdict {
        if self.stops(tally.failures) {
            return Verdict::Stopped;
        }
        let free = self.slow_after.min(self.hard_stop).get().into();
        tally.judged(Counter::Account, self.wait(tally.failures), free, now)
    }
}

impl AddressRules {
    /// The wait for the failure that made it so many accounts.
    #[must_use]
    pub fn wait(&self, accounts: u64) -> Duration {
        let reached = self.ladder.iter().rev().find(|rung| u64::from(rung.accounts.get()) <= accounts);
        reached.map_or(Duration::ZERO, |rung| rung.wait)
    }

    /// Whether so many accounts are a rung.
    #[must_use]
    pub fn is_rung(&self, accounts: u64) -> bool {
        self.ladder.iter().any(|rung| u64::from(rung.accounts.get()) == accounts)
    }

    /// What the counter says: [`Tally::failures`] are accounts, `until` the wait that the last of them has cost. An
    /// attempt with an account that is counted already (`known`) adds none, and so only waits.
    #[must_use]
    pub fn judge(&self, tally: &Tally, until: Timestamp, known: bool, now: Timestamp) -> Verdict {
        if now < until {
            return Verdict::Wait(Counter::Address, until);
        }
        match self.ladder.first() {
            Some(first) if !known && !tally.has_room(first.accounts.get().into()) => Verdict::Busy(Counter::Address),
            _ => Verdict::Admit,
        }
    }
}

impl DeviceRules {
    /// Whether so many failures have voided it.
    #[must_use]
    pub fn voids(&self, failures: u64) -> bool {
        failures >= self.failures.get().into()
    }

    /// What the counter says; `None`: the cookie is void, and no better than none.
    #[must_use]
    pub fn judge(&self, tally: &Tally, now: Timestamp) -> Option<Verdict> {
        let verdict = || tally.judged(Counter::Device, Duration::ZERO, self.failures.get().into(), now);
        (!self.voids(tally.failures)).then(verdict)
    }
}

#[cfg(test)]
mod tests;
