//! Sessions that have ended, kept known here: those of this store's past at the start, and, while several gateways
//! share one PostgreSQL, whatever the others end, read once a second.
//!
//! What was read stays: a store that is lost costs the news, never what is known. Rows are found by the time their
//! gateway gave them, and a row may be committed after younger ones, so each reading goes back behind the one before it
//! by [`Reach::overlap`]; within that, no order of commits and no difference of clocks hides one.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use crate::{
    clock::{Clock, Tick, Timestamp},
    config::settings,
    policy::ids::SessionId,
    store::{
        SharedStore, StoreFault,
        memory::ended_sessions::{EndedSessions, Expiry},
    },
    telemetry::metrics::{Metrics, ReadResult},
};

/// Ends read at once. However many sessions end together, each question is answered within the store's time-out and in
/// little memory, and what it told is known.
const PAGE: u32 = 10_000;

/// How often the store is asked.
const EVERY: Duration = Duration::from_secs(1);

/// The least by which clocks of gateways may differ without a session being missed. Tokens tolerate less by default.
const SKEW: Duration = Duration::from_secs(30);

/// How far back a reading must look.
#[derive(Debug, Clone, Copy)]
struct Reach {
    /// A session's last access token has expired this long after its end, by the clock of one gateway.
    life: Duration,
    /// A row may become visible this long after the time it bears: the two calls of a request that ends a session take
    /// the store's time-out each, and another gateway's clock gave the time.
    overlap: Duration,
}

impl Reach {
    fn of(kept: &settings::Store, tokens: &settings::Tokens) -> Self {
        Self {
            life: tokens.access_ttl.saturating_add(tokens.leeway),
            overlap: kept.timeout.saturating_mul(2).saturating_add(tokens.leeway.max(SKEW)),
        }
    }

    /// Until when a session that ended `at` is to be known.
    fn until(self, at: Timestamp) -> Timestamp {
        at.plus(self.life).plus(self.overlap)
    }

    /// Where the first reading begins: what ended before is of no use to anybody.
    fn first(self, now: Timestamp) -> Timestamp {
        now.minus(self.life).minus(self.overlap)
    }

    /// Where the next reading begins, after one that began at `last`. A clock that was set back does not open a gap.
    fn next(self, last: Timestamp, now: Timestamp) -> Timestamp {
        last.min(now).minus(self.overlap).max(self.first(now))
    }
}

/// When a reading began.
#[derive(Debug, Clone, Copy)]
struct Moment {
    at: Timestamp,
    tick: Tick,
}

/// The set and how it is kept.
pub(super) struct EndedFeed {
    /// Sessions whose tokens are refused.
    pub(super) sessions: Arc<EndedSessions>,
    store: SharedStore,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    reach: Reach,
    /// Whether other gateways may end sessions in this store.
    shared: bool,
    /// The last good reading.
    last: Mutex<Moment>,
    /// Whether the reading before failed, so that a loss is told once.
    failing: AtomicBool,
}

impl EndedFeed {
    /// With what the store knows now.
    ///
    /// # Errors
    /// The store's: a gateway that does not know which sessions have ended does not start.
    pub(super) async fn open(
        kept: &settings::Store,
        tokens: &settings::Tokens,
        store: SharedStore,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreFault> {
        let feed = Self {
            sessions: Arc::default(),
            store,
            reach: Reach::of(kept, tokens),
            shared: matches!(kept.engine, settings::Engine::Postgres { .. }),
            last: Mutex::new(Moment { at: clock.now(), tick: clock.tick() }),
            failing: AtomicBool::new(false),
            clock,
            metrics,
        };
        feed.read_from(feed.reach.first(feed.clock.now())).await?;
        Ok(feed)
    }

    /// Whether anybody else may end a session here, so that [`Self::follow`] has work.
    pub(super) const fn is_shared(&self) -> bool {
        self.shared
    }

    /// Reads what the others end, for ever.
    pub(super) async fn follow(&self) {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let since = self.reach.next(self.last().at, self.clock.now());
            let read = self.read_from(since).await;
            let result = if read.is_ok() { ReadResult::Ok } else { ReadResult::Failed };
            self.tell(read);
            self.metrics.ended_sessions_reads.of(result).inc();
        }
    }

    async fn read_from(&self, since: Timestamp) -> Result<(), StoreFault> {
        let begun = Moment { at: self.clock.now(), tick: self.clock.tick() };
        let mut from = Some((SessionId(Uuid::nil()), since));
        while let Some((after, since)) = from {
            let page = self.store.sessions_ended_since(since, after, PAGE).await?;
            for (session, at) in &page {
                let at = self.reach.until(*at);
                self.sessions.insert(*session, Expiry { at, tick: begun.tick.plus(at.since(begun.at)) });
            }
            from = page.last().copied().filter(|_| page.len() == PAGE as usize);
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = begun;
        Ok(())
    }

    fn last(&self) -> Moment {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, read: Result<(), StoreFault>) {
        let failed = self.failing.swap(read.is_err(), Ordering::Relaxed);
        match read {
            Err(fault) if !failed => {
                tracing::warn!(%fault, "sessions that other gateways end are not learned of; what is known stays");
            }
            Ok(()) if failed => tracing::info!("sessions that other gateways end are learned of again"),
            _ => {}
        }
    }

    /// Writes down how many there are and how old the news is.
    pub(super) fn publish(&self) {
        self.metrics.ended_sessions.set_count(self.sessions.len());
        if self.shared {
            let age = self.clock.tick().since(self.last().tick).as_secs();
            self.metrics.ended_sessions_age.set(i64::try_from(age).unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REACH: Reach = Reach { life: Duration::from_secs(930), overlap: Duration::from_secs(36) };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    #[test]
    fn a_reading_goes_back_behind_the_one_before_it() {
        assert_eq!(REACH.next(at(5_000), at(5_001)), at(4_964));
        assert_eq!(REACH.next(at(5_000), at(5_300)), at(4_964), "a store that was lost for minutes leaves no gap");
    }

    #[test]
    fn a_clock_that_was_set_back_leaves_no_gap() {
        assert_eq!(REACH.next(at(5_000), at(4_900)), at(4_864));
    }

    #[test]
    fn what_no_token_can_outlive_is_not_read() {
        assert_eq!(REACH.first(at(5_000)), at(4_034));
        assert_eq!(REACH.next(at(1_000), at(5_000)), at(4_034), "however long the store was lost");
    }

    #[test]
    fn a_session_is_known_until_its_last_token_has_expired_by_any_clock() {
        assert_eq!(REACH.until(at(5_000)), at(5_966));
    }
}
