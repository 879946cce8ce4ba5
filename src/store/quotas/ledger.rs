//! One quota as a gateway keeps it: decides from what is at hand, asks the store for more, gives back what lies idle.
//!
//! A request waits only when too little is at hand: for one question at a time for each key, with all that wait for it,
//! and no longer than [`PATIENCE`]. Questions are tasks of their own: a client that hangs up loses nothing for the
//! others.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    Account, QuotaAsk, QuotaGrant,
    book::{Book, PATIENCE},
    hashed,
    held::{Asking, Flight, Held, Origin, Spend},
    reservation::Reservation,
    strays::Strays,
};
use crate::{
    clock::{Tick, Timestamp},
    config::settings::Quota,
    policy::quota::{Unit, Window},
    store::{
        StoreFault,
        memory::{bounded::Bounded, limits::CounterKey},
    },
};

/// Whether a request is within a quota, now or once the store has answered.
pub enum Reserve {
    /// Decided; nothing to wait for.
    Decided(Verdict),
    /// The store is asked. Always ends within [`PATIENCE`].
    Waits(Pin<Box<dyn Future<Output = Verdict> + Send>>),
}

/// What was decided.
#[derive(Debug)]
pub struct Verdict {
    /// Yes or no.
    pub outcome: Outcome,
    /// How the quota stands after it.
    pub standing: Standing,
}

/// How a quota stands for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Units left, as far as this gateway knows.
    pub remaining: u64,
    /// How long this period is.
    pub lasts: Duration,
    /// Until the next one.
    pub renews_in: Duration,
}

/// Whether it is within the quota.
#[derive(Debug)]
pub enum Outcome {
    /// It is.
    Admitted(Reservation),
    /// It is, as far as this gateway knows alone: the store is lost.
    Alone(Reservation),
    /// It is not; nothing was set aside.
    Refused,
    /// Not known: too many others ask the store at this moment. Nothing was set aside; it may come again at once.
    Busy,
}

impl Outcome {
    /// What was set aside.
    #[must_use]
    pub fn reservation(self) -> Option<Reservation> {
        match self {
            Self::Admitted(reservation) | Self::Alone(reservation) => Some(reservation),
            Self::Refused | Self::Busy => None,
        }
    }
}

/// One quota as a gateway keeps it.
#[derive(Debug)]
pub struct Ledger {
    pub(super) quota: Arc<Quota>,
    kind: String,
    pub(super) book: Arc<Book>,
    pub(super) held: Bounded<Held>,
    pub(super) strays: Mutex<Strays>,
    /// Some key owes units.
    pub(super) owes: AtomicBool,
}

/// Now, on both clocks, and the period that is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) tick: Tick,
    pub(super) now: Timestamp,
    pub(super) window: Window,
}

enum Turn {
    Over(Verdict),
    Waits(Waiter),
}

/// A request that waits for a question to be answered.
struct Waiter {
    ledger: Arc<Ledger>,
    key: CounterKey,
    units: u64,
    flight: Flight,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(held) = self.ledger.held.place(&self.key).get() {
            held.waits_no_more(self.units);
        }
    }
}

impl Ledger {
    /// For at most `max_keys` keys at once; what more have at hand is given back early.
    #[must_use]
    pub fn new(quota: &Arc<Quota>, book: &Arc<Book>, max_keys: usize) -> Self {
        Self {
            quota: Arc::clone(quota),
            kind: quota.kind(),
            book: Arc::clone(book),
            held: Bounded::new(max_keys),
            strays: Mutex::default(),
            owes: AtomicBool::new(false),
        }
    }

    /// The quota.
    #[must_use]
    pub fn quota(&self) -> &Arc<Quota> {
        &self.quota
    }

    /// What it counts.
    #[must_use]
    pub fn unit(&self) -> Unit {
        self.quota.unit
    }

    /// Keys held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sets units aside for a request: at least one.
    pub fn reserve(self: &Arc<Self>, key: &CounterKey, units: u64) -> Reserve {
        let units = units.max(1);
        match self.turn(key, units) {
            Turn::Over(verdict) => Reserve::Decided(verdict),
            Turn::Waits(waiter) => Reserve::Waits(Box::pin(waiter.verdict())),
        }
    }

    /// Sets units aside whether they are there or not: what a quota in the shadow would have refused is counted too.
    pub fn overdraw(self: &Arc<Self>, key: &CounterKey, units: u64) -> Reservation {
        let units = units.max(1);
        let of = self.charge(key, units);
        Reservation::new(self, *key, of, units)
    }

    /// Sets units aside that are at hand; asks nobody.
    pub(super) fn at_hand(self: &Arc<Self>, key: &CounterKey, units: u64) -> Option<Origin> {
        let moment = self.moment();
        let mut place = self.held.place(key);
        let held = place.get().filter(|held| held.period == moment.window.start)?;
        let lost = self.book.is_lost();
        let spent = held.spend(units, moment.tick, lost);
        if spent == Spend::Alone {
            self.owes.store(true, Ordering::Release);
        }
        if spent == Spend::Spent && !lost && held.runs_low(units, moment.tick) {
            self.take_off(key, held, moment.window, 1);
        }
        matches!(spent, Spend::Spent | Spend::Alone).then(|| held.origin())
    }

    /// Units were used, whether they were there or not.
    pub(super) fn charge(&self, key: &CounterKey, units: u64) -> Origin {
        let moment = self.moment();
        let mut place = self.held.place(key);
        let mut held = match place.get() {
            Some(held) if held.period == moment.window.start => held.clone(),
            _ => self.fresh(&moment),
        };
        if held.charge(units, moment.tick) {
            self.owes.store(true, Ordering::Release);
        }
        let origin = held.origin();
        let evicted = place.replace(held);
        self.strayed(evicted);
        origin
    }

    /// Units set aside were not used. Of a period that is over they are nobody's; so they are from before a reset.
    pub(super) fn give(&self, key: &CounterKey, of: Origin, units: u64) {
        let moment = self.moment();
        if units == 0 || of.period != moment.window.start {
            return;
        }
        let mut place = self.held.place(key);
        if let Some(held) = place.get().filter(|held| held.period == of.period) {
            held.give_of(of.epoch, units);
            return;
        }
        let mut held = self.fresh(&moment);
        held.give_of(of.epoch, units);
        let evicted = place.replace(held);
        self.strayed(evicted);
    }

    pub(super) fn moment(&self) -> Moment {
        let (now, tick) = (self.book.clock.now(), self.book.clock.tick());
        Moment { tick, now, window: self.quota.period.around(now) }
    }

    fn fresh(&self, moment: &Moment) -> Held {
        Held::new(moment.window.start, self.quota.limit, moment.tick)
    }

    fn turn(self: &Arc<Self>, key: &CounterKey, units: u64) -> Turn {
        let (moment, lost) = (self.moment(), self.book.is_lost());
        let mut place = self.held.place(key);
        if place.get().is_none_or(|held| held.period != moment.window.start) {
            // What lay here of a period that is over is nobody's.
            let evicted = place.replace(self.fresh(&moment));
            self.strayed(evicted);
            place = self.held.place(key);
        }
        let Some(held) = place.get() else { return Turn::Over(self.refused(&moment, 0)) };
        match held.spend(units, moment.tick, lost) {
            Spend::Spent => {
                if !lost && held.runs_low(units, moment.tick) {
                    self.take_off(key, held, moment.window, 1);
                }
                let reservation = Reservation::new(self, *key, held.origin(), units);
                Turn::Over(verdict(Outcome::Admitted(reservation), held.remaining(), &moment))
            }
            Spend::Alone => {
                self.owes.store(true, Ordering::Release);
                let reservation = Reservation::new(self, *key, held.origin(), units);
                Turn::Over(verdict(Outcome::Alone(reservation), held.remaining(), &moment))
            }
            Spend::Refused => Turn::Over(self.refused(&moment, held.remaining())),
            Spend::Ask(short) => {
                held.waits(units);
                let flight = match &held.flight {
                    Some(flight) => Arc::clone(flight),
                    None => self.take_off(key, held, moment.window, short),
                };
                Turn::Waits(Waiter { ledger: Arc::clone(self), key: *key, units, flight })
            }
        }
    }

    fn refused(&self, moment: &Moment, remaining: u64) -> Verdict {
        verdict(Outcome::Refused, remaining.min(self.quota.limit), moment)
    }

    fn busy(&self, key: &CounterKey) -> Verdict {
        let moment = self.moment();
        let remaining = self.held.place(key).get().map_or(self.quota.limit, |held| held.remaining());
        verdict(Outcome::Busy, remaining.min(self.quota.limit), &moment)
    }

    /// Sends a question on its way.
    pub(super) fn take_off(self: &Arc<Self>, key: &CounterKey, held: &mut Held, window: Window, least: u64) -> Flight {
        let flight = Flight::new(tokio::sync::Semaphore::new(0));
        held.flight = Some(Arc::clone(&flight));
        let landing = Landing { ledger: Arc::clone(self), key: *key, flight: Arc::clone(&flight) };
        tokio::spawn(async move { landing.ledger.fly(&landing, window, least).await });
        flight
    }

    async fn fly(&self, landing: &Landing, window: Window, least: u64) {
        let Ok(_permit) = self.book.flights.acquire().await else { return };
        if self.book.is_lost() && least > 0 {
            return;
        }
        let key = &landing.key;
        let asking =
            self.held.place(key).get().filter(|held| held.period == window.start).map(|held| held.asking(least));
        let Some(asking) = asking else { return };
        match self.book.patiently(self.ask(key, window, asking)).await {
            Ok(grant) => {
                self.book.found();
                self.landed(landing, window, asking, &grant);
            }
            Err(fault) => self.book.lose(Some(&fault)),
        }
    }

    pub(super) async fn ask(&self, key: &CounterKey, window: Window, asking: Asking) -> Result<QuotaGrant, StoreFault> {
        let Asking { owed, least, wanted, .. } = asking;
        let ask = QuotaAsk { account: self.account(key, window), limit: self.quota.limit, owed, least, wanted };
        self.book.store.take_quota(&ask).await
    }

    pub(super) fn account(&self, key: &CounterKey, window: Window) -> Account<'_> {
        Account { quota: &self.quota.name, kind: &self.kind, key: hashed(key), window }
    }

    fn landed(&self, landing: &Landing, window: Window, asking: Asking, grant: &QuotaGrant) {
        let tick = self.book.clock.tick();
        let mut place = self.held.place(&landing.key);
        let held = place.get().filter(|held| held.period == window.start);
        if let Some(held) = held {
            held.learn(grant, asking, self.quota.limit, tick);
        } else if grant.given > 0 {
            // Forgotten meanwhile.
            let mut held = Held::new(window.start, self.quota.limit, tick);
            (held.epoch, held.left) = (grant.epoch, grant.given);
            drop(place);
            self.strayed(Some((landing.key, held)));
        }
    }

    pub(super) fn strayed(&self, evicted: Option<(CounterKey, Held)>) {
        if let Some((key, held)) = evicted {
            self.strays.lock().unwrap_or_else(PoisonError::into_inner).add(key, held);
        }
    }
}

fn verdict(outcome: Outcome, remaining: u64, moment: &Moment) -> Verdict {
    let Window { start, end } = moment.window;
    let standing = Standing { remaining, lasts: end.since(start), renews_in: end.since(moment.now) };
    Verdict { outcome, standing }
}

impl Waiter {
    async fn verdict(self) -> Verdict {
        let (ledger, key, units) = (Arc::clone(&self.ledger), self.key, self.units);
        let asked = Arc::clone(&ledger);
        let answered = async move {
            let mut waiter = self;
            loop {
                tokio::select! {
                    // Closed when it is over.
                    _ = waiter.flight.acquire() => {}
                    () = asked.book.until_lost() => {}
                }
                // It waits no more before it is asked again: what is waited for is counted once.
                drop(waiter);
                match asked.turn(&key, units) {
                    Turn::Over(verdict) => return verdict,
                    Turn::Waits(next) => waiter = next,
                }
            }
        };
        // A wait this long is no sign of a lost store: its question may be one of many that wait for each other. If it
        // were, whoever comes with many keys at once would be given a quota by each gateway.
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(verdict) => verdict,
            Err(_) => ledger.busy(&key),
        }
    }
}

/// Ends a question, however it ends.
struct Landing {
    ledger: Arc<Ledger>,
    key: CounterKey,
    flight: Flight,
}

impl Drop for Landing {
    fn drop(&mut self) {
        if let Some(held) = self.ledger.held.place(&self.key).get()
            && held.flight.as_ref().is_some_and(|flight| Arc::ptr_eq(flight, &self.flight))
        {
            held.flight = None;
        }
        self.flight.close();
    }
}
