//! What the ledgers of all quotas share: the store and whether it is lost, the clock, how many questions are asked at
//! once.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore, watch},
    time::sleep,
};

use super::Ledger;
use crate::{
    clock::Clock,
    store::{
        SharedStore, StoreFault,
        calls::{self, Call, Ending, Failure, Watcher},
    },
};

/// Questions about quotas under way at once: logins need connections too.
const AT_ONCE: usize = 4;

/// The longest a request waits for the store, its question's turn included.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// The longest the store may take to answer a question that it is being asked; then it counts as lost. A little less than
/// [`PATIENCE`], so that who waits for the first one learns of it. A question that waits for its turn is not being asked:
/// for a connection while all are in use here, for SQLite's writer while another writes.
const ANSWERS: Duration = Duration::from_millis(900);

/// Told when the store is lost (`true`) or found again.
pub type Told = Box<dyn Fn(bool) + Send + Sync>;

/// What all ledgers share.
pub struct Book {
    pub(super) store: SharedStore,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) flights: Semaphore,
    lost: AtomicBool,
    /// Wakes those that wait when it is lost.
    losing: Notify,
    told: Told,
    /// Ledgers in force, and those that still hold something.
    pub(super) roll: Mutex<Vec<Arc<Ledger>>>,
}

impl std::fmt::Debug for Book {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Book").field("lost", &self.lost).finish_non_exhaustive()
    }
}

impl Book {
    /// On this store.
    #[must_use]
    pub fn new(store: SharedStore, clock: Arc<dyn Clock>, told: Told) -> Self {
        let (flights, lost, losing) = (Semaphore::new(AT_ONCE), AtomicBool::new(false), Notify::new());
        Self { store, clock, flights, lost, losing, told, roll: Mutex::default() }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// Whether the store is lost, so that each gateway counts alone.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Looks whether a lost store is there again. No request does: a store that answers late would cost each its time.
    pub async fn look(&self) {
        if self.is_lost() && self.store.ping().await.is_ok() {
            self.found();
        }
    }

    /// Until the store is lost.
    pub(super) async fn until_lost(&self) {
        let mut losing = pin!(self.losing.notified());
        losing.as_mut().enable();
        if !self.is_lost() {
            losing.await;
        }
    }

    /// A question to the store. If it is not answered in time once it is being asked, the store is lost, but the question
    /// goes on: the answer may give units.
    pub(super) async fn patiently<T>(&self, question: impl Future<Output = T>) -> T {
        let turn = Arc::new(Turn(watch::Sender::new(false)));
        let watcher: Arc<dyn Watcher> = Arc::<Turn>::clone(&turn);
        let mut question = pin!(calls::watched_by(watcher, question));
        tokio::select! {
            biased;
            answer = question.as_mut() => return answer,
            () = turn.is_over_for(ANSWERS) => self.lose(None),
        }
        question.await
    }

    pub(super) fn found(&self) {
        if self.lost.swap(false, Ordering::AcqRel) {
            tracing::info!("quotas are counted together again");
            (self.told)(false);
        }
    }

    /// `None`: it did not answer in time.
    pub(super) fn lose(&self, fault: Option<&StoreFault>) {
        if !self.lost.swap(true, Ordering::AcqRel) {
            let cause = fault.map_or_else(|| format!("no answer within {ANSWERS:?}"), ToString::to_string);
            tracing::warn!(cause, "quotas cannot be looked up; this gateway counts for itself until they can");
            (self.told)(true);
            self.losing.notify_waiters();
        }
    }
}

/// Whether a question waits for its turn in the store, as its calls tell.
struct Turn(watch::Sender<bool>);

impl Turn {
    /// Until it has waited for nothing but the answer for so long.
    async fn is_over_for(&self, long: Duration) {
        let mut waits = self.0.subscribe();
        loop {
            until(&mut waits, false).await;
            tokio::select! {
                () = sleep(long) => return,
                () = until(&mut waits, true) => {}
            }
        }
    }
}

async fn until(waits: &mut watch::Receiver<bool>, expected: bool) {
    // It is never closed: whoever waits holds the other end.
    let _ = waits.wait_for(|waits| *waits == expected).await;
}

impl Watcher for Turn {
    fn began(self: Arc<Self>, call: &Call<'_>) -> Option<Box<dyn Ending>> {
        if !call.queues {
            return None;
        }
        self.0.send_replace(true);
        Some(Box::new(InQueue(self)))
    }
}

/// A call that waits for its turn.
struct InQueue(Arc<Turn>);

impl Ending for InQueue {
    fn ended(self: Box<Self>, _: Option<Failure>) {}
}

impl Drop for InQueue {
    fn drop(&mut self) {
        self.0.0.send_replace(false);
    }
}
