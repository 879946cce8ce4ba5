//! The word from the listener to its connections: serve, end after the current answer, end now.
//!
//! A connection reads one atomic per poll; only the drain itself walks the list and wakes everybody. A shared
//! notification would cost each poll of each connection a shared lock.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

use super::vitals::Vitals;

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
    live: Mutex<HashMap<usize, Arc<Vitals>>>,
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
        live.values().for_each(|vitals| vitals.wake());
    }

    pub(super) fn enter(&self, vitals: &Arc<Vitals>) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.insert(Arc::as_ptr(vitals) as usize, Arc::clone(vitals));
    }

    pub(super) fn leave(&self, vitals: &Arc<Vitals>) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.remove(&(Arc::as_ptr(vitals) as usize));
    }
}
