//! What a ledger does without being asked: writes down what is owed, gives back what lies idle, and
//! looks after ledgers that a reload has replaced.

use std::{
    sync::{Arc, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use super::{
    Book, Doubts, QuotaReturn,
    doubts::Doubted,
    hashed,
    held::{Asking, IDLE},
    ledger::{Ledger, Moment},
};
use crate::{
    policy::quota::Window,
    store::{StoreFault, memory::limits::CounterKey},
};

/// Accounts in one transaction.
const BATCH: usize = 64;

impl Ledger {
    /// To be called about once a second: writes down what is owed, gives back what nobody has used for a while.
    pub async fn tend(self: &Arc<Self>) {
        self.tend_idle(IDLE).await;
    }

    /// Nobody will ask any more: gives everything back, what is on its way here too.
    pub async fn close(self: &Arc<Self>) {
        if !self.book.is_lost() {
            let mut flights = Vec::new();
            self.held.retain(|_, held| {
                flights.extend(held.flight.clone());
                true
            });
            for flight in flights {
                // Closed when it is over.
                let _ = flight.acquire().await;
            }
        }
        self.tend_idle(Duration::ZERO).await;
    }

    /// Whether it has something to lose: units at hand, units owed, a question on its way. Of periods that are over
    /// nothing counts.
    fn holds_any(&self) -> bool {
        let period = self.moment().window.start;
        let mut any = self.strays.lock().unwrap_or_else(PoisonError::into_inner).hold_any(period);
        self.held.retain(|_, held| {
            any |= held.flight.is_some() || (held.period == period && !held.is_empty());
            true
        });
        any
    }

    /// These accounts may have been set to nothing.
    fn doubt(&self, doubted: &Doubted) {
        self.held.retain(|key, held| {
            if doubted.holds(|| hashed(key)) {
                held.doubt();
            }
            true
        });
    }

    async fn tend_idle(self: &Arc<Self>, idle: Duration) {
        if self.book.is_lost() {
            return;
        }
        self.settle_debts().await;
        let moment = self.moment();
        let mut returns = Vec::new();
        self.held.retain(|key, held| {
            if held.period != moment.window.start {
                return held.flight.is_some();
            }
            if held.is_idle(moment.tick, idle) && held.left > 0 {
                returns.push((*key, held.epoch, std::mem::take(&mut held.left)));
            }
            !(held.is_idle(moment.tick, idle) && held.is_empty())
        });
        self.give_back(returns, moment.window).await;
        self.pick_up_strays(&moment).await;
    }

    async fn give_back(&self, mut returns: Vec<(CounterKey, u64, u64)>, window: Window) {
        // In one order everywhere, so that two gateways do not wait for each other.
        returns.sort_unstable_by_key(|(key, ..)| hashed(key));
        for batch in returns.chunks(BATCH) {
            let returned: Vec<_> = batch
                .iter()
                .map(|(key, epoch, units)| QuotaReturn {
                    account: self.account(key, window),
                    epoch: *epoch,
                    units: *units,
                })
                .collect();
            if let Err(fault) = self.book.store.return_quota(&returned).await {
                // Whether they were taken back is not known: they count as used.
                tracing::debug!(quota = &*self.quota.name, %fault, "units of a quota were not given back");
                if let StoreFault::Unavailable(_) = fault {
                    // Nor will it take the others: each would cost its time-out.
                    self.book.lose(Some(&fault));
                    return;
                }
            }
        }
    }

    async fn settle_debts(self: &Arc<Self>) {
        if !self.owes.swap(false, Ordering::AcqRel) {
            return;
        }
        let moment = self.moment();
        let mut owing = Vec::new();
        self.held.retain(|key, held| {
            if held.debt > 0 && held.period == moment.window.start {
                owing.push(*key);
            }
            true
        });
        for key in owing {
            let flight = {
                let mut place = self.held.place(&key);
                let Some(held) = place.get().filter(|held| held.debt > 0) else { continue };
                match &held.flight {
                    Some(flight) => Arc::clone(flight),
                    None => self.take_off(&key, held, moment.window, 0),
                }
            };
            let _ = flight.acquire().await;
            if self.held.place(&key).get().is_some_and(|held| held.debt > 0) {
                self.owes.store(true, Ordering::Release);
            }
            if self.book.is_lost() {
                self.owes.store(true, Ordering::Release);
                return;
            }
        }
    }

    async fn pick_up_strays(&self, moment: &Moment) {
        let strays = self.strays.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut returns = Vec::new();
        for (key, mut held) in strays {
            if held.period != moment.window.start {
                continue;
            }
            if held.debt > 0 {
                let asking = Asking { owed: held.debt, least: 0, wanted: 0, settles_doubt: false, epoch: held.epoch };
                if let Err(fault) = self.ask(&key, moment.window, asking).await {
                    self.book.lose(Some(&fault));
                    held.left = 0;
                    self.strayed(Some((key, held)));
                    continue;
                }
            }
            if held.left > 0 {
                returns.push((key, held.epoch, held.left));
            }
        }
        self.give_back(returns, moment.window).await;
    }
}

impl Book {
    /// This ledger is looked after from now on, in force or not, until it is not and holds nothing.
    pub fn enrol(&self, ledger: Arc<Ledger>) {
        self.roll().push(ledger);
    }

    /// Gives back what ledgers hold that are not in force, and forgets those that hold nothing any more. While the store
    /// is lost they keep what they owe.
    pub async fn dismiss(&self, in_force: impl Fn(&Arc<Ledger>) -> bool) {
        let leaving: Vec<_> = self.roll().iter().filter(|ledger| !in_force(ledger)).map(Arc::clone).collect();
        for ledger in &leaving {
            ledger.close().await;
        }
        self.roll().retain(|ledger| {
            // Requests that began before a reload hold it too.
            let over = |left: &Arc<Ledger>| Arc::ptr_eq(left, ledger) && Arc::strong_count(ledger) <= 2;
            !leaving.iter().any(over) || ledger.holds_any()
        });
    }

    /// Accounts were set to nothing in the store: of what is at hand here nothing more is spent that the store has not been
    /// asked about. Goes once through each ledger that is concerned.
    pub fn doubt(&self, doubts: &Doubts) {
        for ledger in self.roll().iter() {
            if let Some(doubted) = doubts.of(&ledger.quota.name) {
                ledger.doubt(doubted);
            }
        }
    }

    /// How many ledgers are looked after.
    #[must_use]
    pub fn enrolled(&self) -> usize {
        self.roll().len()
    }

    fn roll(&self) -> MutexGuard<'_, Vec<Arc<Ledger>>> {
        self.roll.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
