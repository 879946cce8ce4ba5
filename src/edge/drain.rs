//! The word from the listener to its connections: serve, end after the current answer, end now.
//!
//! A connection reads one atomic per poll; only the drain itself walks the list and wakes everybody. A shared
//! notification would cost each poll of each connection a shared lock.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
};

use super::{
    crowd::{Live, thin_out},
    vitals::Vitals,
};
use crate::clock::Tick;

/// What connections are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Go on.
    Serve,
    /// End after the current answer; idle ones at once.
    Drain,
    /// End now.
    Cut,
}

/// The live connections of one listener.
#[derive(Debug, Default)]
pub(super) struct Drain {
    order: AtomicU8,
    live: Mutex<HashMap<usize, Live>>,
}

impl Drain {
    pub(super) fn order(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            0 => Order::Serve,
            1 => Order::Drain,
            _ => Order::Cut,
        }
    }

    /// Gives the word to every live connection.
    pub(super) fn give(&self, order: Order) {
        self.order.store(order as u8, Ordering::Release);
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.values().for_each(|one| one.vitals.wake());
    }

    /// Has some of the quietest leave; see [`thin_out`].
    pub(super) fn make_room(&self, now: Tick) {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        thin_out(live.values(), now);
    }

    /// `held`: how many its address holds.
    pub(super) fn enter(&self, vitals: &Arc<Vitals>, held: &Arc<AtomicU32>) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let one = Live { vitals: Arc::clone(vitals), held: Arc::clone(held) };
        live.insert(Arc::as_ptr(vitals) as usize, one);
    }

    pub(super) fn leave(&self, vitals: &Arc<Vitals>) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.remove(&(Arc::as_ptr(vitals) as usize));
    }
}
