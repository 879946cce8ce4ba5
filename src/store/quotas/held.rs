//! What a gateway knows of one key of a quota: units at hand, units owed, what is left in the store.
//!
//! Nothing here waits, locks or asks: [`super::ledger`] does, by what is decided here.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::QuotaGrant;
use crate::{
    clock::{Tick, Timestamp, nanos},
    policy::quota::share,
    store::memory::bounded::Fades,
};

/// How long the store's no is believed: units may be given back at any time.
const DRY: Duration = Duration::from_secs(1);

/// How long a key is kept in memory after its last request, and its units lie here.
pub(super) const IDLE: Duration = Duration::from_secs(10);

/// Something to lose: not forgotten before others that have nothing.
const KEPT: Duration = Duration::from_hours(24);

/// Whether units can be spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spend {
    /// They are.
    Spent,
    /// They are, by this gateway alone: the store is lost.
    Alone,
    /// They are not there.
    Refused,
    /// The store must be asked for so many more; 0: whether what is at hand is still good.
    Ask(u64),
}

/// A question on its way to the store; closed when it is over.
pub(super) type Flight = Arc<Semaphore>;

/// What is asked of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asking {
    pub(super) owed: u64,
    pub(super) least: u64,
    pub(super) wanted: u64,
    /// The answer tells whether what is at hand is still good.
    pub(super) settles_doubt: bool,
    /// Of what is at hand here.
    pub(super) epoch: u64,
}

/// Where units are from: they are good for nothing in another period, nor after a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    /// The period's first moment.
    pub(super) period: Timestamp,
    pub(super) epoch: u64,
}

/// One key in one period.
#[derive(Debug, Clone)]
pub(super) struct Held {
    /// The period's first moment.
    pub(super) period: Timestamp,
    pub(super) epoch: u64,
    /// Units at hand.
    pub(super) left: u64,
    /// Left in the store when it was last asked; all there is, before that.
    rest: u64,
    /// Units spent here that the store does not know of.
    pub(super) debt: u64,
    /// Units that requests wait for.
    waiting: u64,
    /// The least that the store refused; while `dry_until` is not over, so is anything as much.
    dry_from: u64,
    dry_until: u64,
    /// When units were last spent. Asking for more than there is keeps nothing here.
    touched: u64,
    pub(super) flight: Option<Flight>,
    /// Somebody may have set it to nothing: what is at hand is good only if the store says so.
    doubted: bool,
}

impl Fades for Held {
    fn faded_at(&self) -> u64 {
        let idle = self.touched.saturating_add(nanos(IDLE));
        if self.is_empty() { idle } else { idle.saturating_add(nanos(KEPT)) }
    }
}

impl Held {
    pub(super) fn new(period: Timestamp, limit: u64, tick: Tick) -> Self {
        Self {
            period,
            epoch: 0,
            left: 0,
            rest: limit,
            debt: 0,
            waiting: 0,
            dry_from: 0,
            dry_until: 0,
            touched: tick.nanos(),
            flight: None,
            doubted: false,
        }
    }

    /// Somebody has set it to nothing, or is about to: the store is asked before anything more is spent.
    pub(super) fn doubt(&mut self) {
        (self.doubted, self.dry_until) = (true, 0);
    }

    /// Nothing would be lost with it.
    pub(super) fn is_empty(&self) -> bool {
        self.left == 0 && self.debt == 0 && self.waiting == 0 && self.flight.is_none()
    }

    /// Nobody has used it for so long.
    pub(super) fn is_idle(&self, tick: Tick, idle: Duration) -> bool {
        let over = tick.nanos() >= self.touched.saturating_add(nanos(idle));
        over && self.waiting == 0 && self.flight.is_none()
    }

    /// Units left, as far as is known here.
    pub(super) fn remaining(&self) -> u64 {
        self.left.saturating_add(self.rest).saturating_sub(self.debt)
    }

    /// Spends units that are at hand; while the store is lost, of what was left in it too.
    pub(super) fn spend(&mut self, units: u64, tick: Tick, lost: bool) -> Spend {
        if self.doubted && !lost {
            return Spend::Ask(0);
        }
        let Some(short) = units.checked_sub(self.left).filter(|short| *short > 0) else {
            self.left -= units;
            self.touched = tick.nanos();
            return Spend::Spent;
        };
        if lost {
            let owed = self.debt.saturating_add(short);
            if owed > self.rest {
                return Spend::Refused;
            }
            (self.left, self.debt) = (0, owed);
            self.touched = tick.nanos();
            return Spend::Alone;
        }
        let dry = short >= self.dry_from && tick.nanos() < self.dry_until;
        if dry { Spend::Refused } else { Spend::Ask(short) }
    }

    /// Units that were used, whether they were there or not. Gives whether some are owed now.
    pub(super) fn charge(&mut self, units: u64, tick: Tick) -> bool {
        self.touched = tick.nanos();
        let here = units.min(self.left);
        self.left -= here;
        self.debt = self.debt.saturating_add(units - here);
        self.debt > 0
    }

    /// Units that were set aside and not used.
    pub(super) fn give(&mut self, units: u64) {
        self.left = self.left.saturating_add(units);
        let paid = self.left.min(self.debt);
        self.left -= paid;
        self.debt -= paid;
    }

    /// The same, of units that were set aside in this epoch.
    pub(super) fn give_of(&mut self, epoch: u64, units: u64) {
        if epoch > self.epoch {
            // This key was forgotten meanwhile, and what is known of it now is from before any answer.
            (self.epoch, self.left) = (epoch, 0);
        }
        if epoch == self.epoch {
            self.give(units);
        }
    }

    /// Where what is at hand is from.
    pub(super) fn origin(&self) -> Origin {
        Origin { period: self.period, epoch: self.epoch }
    }

    /// A request waits for units.
    pub(super) fn waits(&mut self, units: u64) {
        self.waiting = self.waiting.saturating_add(units);
    }

    /// It no longer does.
    pub(super) fn waits_no_more(&mut self, units: u64) {
        self.waiting = self.waiting.saturating_sub(units);
    }

    /// Whether more should be taken ahead, after this many were spent at once: less than half a share is at hand, and a
    /// share is worth a question.
    pub(super) fn runs_low(&self, units: u64, tick: Tick) -> bool {
        let ahead = share(self.rest);
        let low = ahead > units.max(1) && self.left < ahead / 2;
        low && self.flight.is_none() && tick.nanos() >= self.dry_until
    }

    /// What to ask for: what is waited for and not at hand, or one unit and with it a share.
    pub(super) fn asking(&self, least: u64) -> Asking {
        let wanted = self.waiting.saturating_sub(self.left);
        Asking { owed: self.debt, least, wanted, settles_doubt: self.doubted, epoch: self.epoch }
    }

    /// The store's answer. `asking` is what it answers; the limit is all there is.
    pub(super) fn learn(&mut self, grant: &QuotaGrant, asking: Asking, limit: u64, tick: Tick) {
        // What was paid from here while it was written down was paid twice.
        let written = asking.owed.min(self.debt);
        self.debt -= written;
        if grant.epoch < self.epoch && asking.epoch < self.epoch {
            // It was answered before somebody set it to nothing, and a later answer came first.
            return;
        }
        if grant.epoch != self.epoch {
            // Somebody has set it to nothing, or the store has another history: what was at hand belongs to before.
            (self.epoch, self.left) = (grant.epoch, 0);
        }
        if asking.settles_doubt {
            self.doubted = false;
        }
        self.rest = limit.saturating_sub(grant.used);
        self.give(grant.given.saturating_add(asking.owed - written));
        if asking.least > 0 {
            let dry = grant.given == 0;
            self.dry_from = asking.least;
            self.dry_until = if dry { tick.plus(DRY).nanos() } else { 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn tick(nanos: u64) -> Tick {
        Tick::from_nanos(nanos)
    }

    fn held() -> Held {
        Held::new(Timestamp::from_seconds(0), 100, tick(SECOND))
    }

    fn one() -> Asking {
        Asking { owed: 0, least: 1, wanted: 1, settles_doubt: false, epoch: 0 }
    }

    fn given(given: u64, used: u64) -> QuotaGrant {
        QuotaGrant { given, used, epoch: 0 }
    }

    #[test]
    fn what_is_at_hand_is_spent_and_then_the_store_is_asked() {
        let mut held = held();
        assert_eq!(held.spend(1, tick(SECOND), false), Spend::Ask(1));
        held.learn(&given(6, 6), one(), 100, tick(SECOND));
        assert_eq!(held.remaining(), 100);
        for _ in 0..6 {
            assert_eq!(held.spend(1, tick(SECOND), false), Spend::Spent);
        }
        assert_eq!(held.spend(1, tick(SECOND), false), Spend::Ask(1));
        assert_eq!(held.remaining(), 94);
    }

    #[test]
    fn a_no_holds_for_a_second_for_whoever_needs_as_much() {
        let mut held = held();
        let asking = Asking { owed: 0, least: 10, wanted: 10, settles_doubt: false, epoch: 0 };
        held.learn(&given(0, 95), asking, 100, tick(SECOND));
        assert_eq!(held.spend(10, tick(SECOND), false), Spend::Refused);
        assert_eq!(held.spend(9, tick(SECOND), false), Spend::Ask(9));
        assert_eq!(held.spend(10, tick(2 * SECOND - 1), false), Spend::Refused);
        assert_eq!(held.spend(10, tick(2 * SECOND), false), Spend::Ask(10));
    }

    #[test]
    fn only_what_is_not_at_hand_is_asked_for() {
        let mut held = held();
        held.learn(&given(30, 70), one(), 100, tick(SECOND));
        assert_eq!(held.spend(50, tick(SECOND), false), Spend::Ask(20));
        held.waits(50);
        held.waits(10);
        assert_eq!(held.asking(20), Asking { owed: 0, least: 20, wanted: 30, settles_doubt: false, epoch: 0 });
        held.learn(&given(0, 85), held.asking(20), 100, tick(SECOND));
        assert_eq!(held.spend(50, tick(SECOND), false), Spend::Refused);
        assert_eq!(held.spend(45, tick(SECOND), false), Spend::Ask(15), "the store may have as much");
        assert_eq!(held.spend(30, tick(SECOND), false), Spend::Spent);
        assert_eq!(held.spend(20, tick(SECOND), false), Spend::Refused, "none of it is at hand any more");
    }

    #[test]
    fn alone_it_spends_what_was_left_and_owes_it() {
        let mut held = held();
        held.learn(&given(6, 90), one(), 100, tick(SECOND));
        assert_eq!(held.spend(8, tick(SECOND), true), Spend::Alone);
        assert_eq!((held.left, held.debt, held.remaining()), (0, 2, 8));
        assert_eq!(held.spend(9, tick(SECOND), true), Spend::Refused);
        assert_eq!(held.spend(8, tick(SECOND), true), Spend::Alone);
        assert_eq!(held.spend(1, tick(SECOND), true), Spend::Refused);
    }

    #[test]
    fn an_unknown_key_alone_has_the_whole_quota() {
        let mut held = held();
        assert_eq!(held.spend(100, tick(SECOND), true), Spend::Alone);
        assert_eq!(held.spend(1, tick(SECOND), true), Spend::Refused);
    }

    #[test]
    fn what_is_owed_is_paid_once() {
        let mut held = held();
        assert!(held.charge(5, tick(SECOND)));
        let asking = held.asking(0);
        assert_eq!(asking.owed, 5);
        // While it is on its way, two are paid from here, and three more are used.
        held.give(2);
        assert!(held.charge(1, tick(SECOND)));
        held.learn(&given(0, 5), asking, 100, tick(SECOND));
        assert_eq!((held.left, held.debt), (1, 0));
    }

    #[test]
    fn what_lies_here_from_before_a_reset_is_gone() {
        let mut held = held();
        held.learn(&given(6, 90), one(), 100, tick(SECOND));
        held.learn(&QuotaGrant { given: 3, used: 3, epoch: 1 }, one(), 100, tick(SECOND));
        assert_eq!((held.left, held.epoch), (3, 1));
    }

    #[test]
    fn a_late_answer_of_before_a_reset_gives_nothing() {
        let mut held = held();
        assert!(held.charge(5, tick(SECOND)));
        let late = held.asking(1);
        held.learn(&QuotaGrant { given: 3, used: 3, epoch: 1 }, Asking { owed: 0, ..late }, 100, tick(SECOND));
        assert_eq!((held.left, held.debt, held.epoch), (0, 2, 1));
        held.doubt();
        held.learn(&QuotaGrant { given: 40, used: 95, epoch: 0 }, late, 100, tick(SECOND));
        assert_eq!((held.left, held.debt, held.epoch), (0, 0, 1), "what was owed is written, and no more");
        assert_eq!((held.remaining(), held.doubted), (97, true));
    }

    #[test]
    fn a_store_of_another_history_begins_anew() {
        let mut held = held();
        held.learn(&QuotaGrant { given: 3, used: 3, epoch: 2 }, one(), 100, tick(SECOND));
        let asking = held.asking(1);
        assert_eq!(asking.epoch, 2);
        held.learn(&QuotaGrant { given: 6, used: 6, epoch: 0 }, asking, 100, tick(SECOND));
        assert_eq!((held.left, held.epoch), (6, 0));
    }

    #[test]
    fn what_is_doubted_is_spent_only_when_the_store_has_said_so_since() {
        let mut held = held();
        held.learn(&given(6, 6), one(), 100, tick(SECOND));
        let before = held.asking(1);
        held.doubt();
        assert_eq!(held.spend(1, tick(SECOND), false), Spend::Ask(0));
        held.learn(&given(0, 6), before, 100, tick(SECOND));
        assert_eq!(held.spend(1, tick(SECOND), false), Spend::Ask(0), "that was asked before");
        let asking = held.asking(0);
        held.learn(&given(0, 6), asking, 100, tick(SECOND));
        assert_eq!(held.spend(1, tick(SECOND), false), Spend::Spent, "it was somebody else's that was reset");
        held.doubt();
        let asking = held.asking(0);
        held.learn(&QuotaGrant { given: 0, used: 0, epoch: 1 }, asking, 100, tick(SECOND));
        assert_eq!((held.left, held.remaining()), (0, 100));
        assert_eq!(held.spend(1, tick(SECOND), true), Spend::Alone);
    }

    #[test]
    fn what_was_set_aside_before_a_reset_is_not_given_back_after_it() {
        let mut held = held();
        held.learn(&QuotaGrant { given: 3, used: 3, epoch: 2 }, one(), 100, tick(SECOND));
        held.give_of(1, 40);
        assert_eq!(held.left, 3);
        held.give_of(2, 4);
        assert_eq!(held.left, 7);
        held.give_of(3, 5);
        assert_eq!((held.left, held.epoch), (5, 3));
    }

    #[test]
    fn more_is_taken_ahead_only_while_a_share_is_worth_it() {
        let mut held = held();
        held.learn(&given(6, 6), one(), 100, tick(SECOND));
        assert!(!held.runs_low(1, tick(SECOND)));
        held.left = 1;
        assert!(held.runs_low(1, tick(SECOND)));
        assert!(!held.runs_low(50, tick(SECOND)), "a share is less than one request needs");
        held.learn(&given(1, 95), one(), 100, tick(SECOND));
        held.left = 0;
        assert!(!held.runs_low(1, tick(SECOND)), "of the last each is taken by itself");
    }
}
