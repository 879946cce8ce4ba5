//! What a request has set aside: of one quota ([`Reservation`]), of all that its route names ([`Budget`]).
//!
//! An answer that is metered goes on: [`Budget::cover`] before its next piece is passed on, [`Budget::settle`] at its
//! end. Dropped unsettled (the client hung up, the service failed), it keeps what was covered so far and gives the rest
//! back: all of it, when nothing was covered yet.

use std::{
    fmt, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use super::{
    held::Origin,
    ledger::{Ledger, Outcome, Reserve},
};
use crate::{
    policy::quota::{Amounts, Unit},
    store::memory::limits::CounterKey,
};

/// A question for more units.
type Asking = Pin<Box<dyn Future<Output = Option<Reservation>> + Send>>;

/// Units of one quota, set aside for one request.
pub struct Reservation {
    ledger: Arc<Ledger>,
    key: CounterKey,
    /// Where `held` is from.
    of: Origin,
    /// Units set aside there.
    held: u64,
    /// Units set aside in periods before, or before a reset: an answer may go on past midnight. They stay where they were
    /// counted.
    carried: u64,
    /// What was used so far.
    counted: u64,
    asking: Option<Asking>,
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("quota", &self.ledger.quota().name)
            .field("held", &self.held)
            .field("carried", &self.carried)
            .field("counted", &self.counted)
            .finish_non_exhaustive()
    }
}

impl Reservation {
    pub(super) fn new(ledger: &Arc<Ledger>, key: CounterKey, of: Origin, held: u64) -> Self {
        Self { ledger: Arc::clone(ledger), key, of, held, carried: 0, counted: 0, asking: None }
    }

    /// The quota's name.
    #[must_use]
    pub fn quota(&self) -> &Arc<str> {
        &self.ledger.quota().name
    }

    /// What it counts.
    #[must_use]
    pub fn unit(&self) -> Unit {
        self.ledger.unit()
    }

    /// Units set aside so far.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.carried.saturating_add(self.held)
    }

    /// Sets more aside, from what is at hand at this gateway. `false`: not there; a hard quota is used up, or the store
    /// would have to be asked ([`Self::poll_grow`]). A quota that is not hard always gives, and owes it.
    pub fn grow(&mut self, more: u64) -> bool {
        let of = match self.ledger.at_hand(&self.key, more) {
            Some(of) => of,
            None if self.ledger.quota().hard => return false,
            None => self.ledger.charge(&self.key, more),
        };
        self.add(of, more);
        true
    }

    /// The same, but asks the store, if need be. `false`: the hard quota is used up.
    pub fn poll_grow(&mut self, more: u64, cx: &mut Context<'_>) -> Poll<bool> {
        if self.asking.is_none() {
            if self.grow(more) {
                return Poll::Ready(true);
            }
            let (ledger, key) = (Arc::clone(&self.ledger), self.key);
            self.asking = Some(Box::pin(async move {
                loop {
                    let verdict = match ledger.reserve(&key, more) {
                        Reserve::Decided(verdict) => verdict,
                        Reserve::Waits(waiting) => waiting.await,
                    };
                    // An answer that has begun can wait longer than a request that has not.
                    if !matches!(verdict.outcome, Outcome::Busy) {
                        return verdict.outcome.reservation();
                    }
                }
            }));
        }
        let Some(asking) = &mut self.asking else { return Poll::Pending };
        let Poll::Ready(more) = asking.as_mut().poll(cx) else { return Poll::Pending };
        self.asking = None;
        Poll::Ready(more.map(|more| self.absorb(more)).is_some())
    }

    /// What was used so far: it stays counted if nobody settles.
    pub fn count(&mut self, total: u64) {
        self.counted = self.counted.max(total);
    }

    /// This is what was used. The rest is given back; what is more than was set aside is charged all the same.
    pub fn settle(mut self, actual: u64) {
        self.counted = actual;
    }

    /// What was set aside in a period that is over, or before a reset, stays there.
    fn add(&mut self, of: Origin, units: u64) {
        if of != self.of {
            self.carried = self.held();
            (self.of, self.held) = (of, 0);
        }
        self.held = self.held.saturating_add(units);
    }

    fn absorb(&mut self, mut more: Self) {
        self.add(more.of, mem::take(&mut more.held));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let of_this_period = self.counted.saturating_sub(self.carried);
        match self.held.checked_sub(of_this_period) {
            Some(unused) => self.ledger.give(&self.key, self.of, unused),
            None => {
                self.ledger.charge(&self.key, of_this_period - self.held);
            }
        }
    }
}

/// What a request has set aside of every quota of tokens and money that its route names.
#[derive(Debug, Default)]
pub struct Budget {
    reservations: Vec<Reservation>,
    used_up: Option<Arc<str>>,
}

impl Budget {
    /// One more quota. What counts requests is used by coming.
    pub fn add(&mut self, reservation: Reservation) {
        match reservation.unit() {
            Unit::Requests => reservation.settle(1),
            Unit::Tokens | Unit::Cost => self.reservations.push(reservation),
        }
    }

    /// Whether nothing is to be metered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reservations.is_empty()
    }

    /// So much was used since the request began, from what is at hand here. `false`: a quota has not enough at hand; see
    /// [`Self::poll_cover`].
    pub fn cover(&mut self, total: Amounts) -> bool {
        let mut covered = true;
        for one in &mut self.reservations {
            let units = total.of(one.unit());
            let more = units.saturating_sub(one.held());
            if more == 0 || one.grow(more) {
                one.count(units);
            } else {
                covered = false;
            }
        }
        covered
    }

    /// The same, but asks the store, if need be. `false`: a hard quota is used up
    /// ([`Self::used_up`]), the answer must end without what `total` has more than what was covered before.
    pub fn poll_cover(&mut self, total: Amounts, cx: &mut Context<'_>) -> Poll<bool> {
        let mut outcome = Poll::Ready(true);
        for one in &mut self.reservations {
            let units = total.of(one.unit());
            // Once asked, the answer is taken, even if it is no longer needed.
            let more = units.saturating_sub(one.held());
            if more == 0 && one.asking.is_none() {
                one.count(units);
                continue;
            }
            match one.poll_grow(more, cx) {
                Poll::Ready(true) => one.count(units),
                Poll::Ready(false) => {
                    self.used_up.get_or_insert_with(|| Arc::clone(one.quota()));
                    return Poll::Ready(false);
                }
                Poll::Pending => outcome = Poll::Pending,
            }
        }
        outcome
    }

    /// The hard quota that is used up.
    #[must_use]
    pub fn used_up(&self) -> Option<&Arc<str>> {
        self.used_up.as_ref()
    }

    /// This is what was used.
    pub fn settle(self, actual: Amounts) {
        for one in self.reservations {
            let units = actual.of(one.unit());
            one.settle(units);
        }
    }
}
