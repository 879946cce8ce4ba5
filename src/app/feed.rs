//! Reads the feed of the store: at the start all of it that matters, then what is new, once a second and whenever
//! somebody calls (PostgreSQL's NOTIFY, a message over Redis, a commit of this gateway's own).
//!
//! A call carries no facts and may be lost: it only makes the next reading come sooner. What was read stays: a store that
//! is lost costs the news, never what is known; how old the news is each route judges for itself (`revocation`). A store
//! that holds another history than the one read so far is read from the start.

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    clock::{Clock, Timestamp},
    config::settings,
    store::{
        SharedStore, StoreFault,
        feed::{FeedEntry, FeedPosition, FeedReach, News},
        memory::{ended_sessions::Expiry, revocations::Revocations},
        redis::Redis,
    },
    telemetry::metrics::{Metrics, ReadResult, RevocationKind},
};

/// Entries read at once. However many there are, each question is answered within the store's time-out and in little
/// memory, and what it told is known.
const PAGE: u32 = 10_000;

/// How often the store is asked when nobody calls.
const EVERY: Duration = Duration::from_secs(1);

/// Between two tries to be called by the store again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// How long the store keeps entries: longer than any gateway's tokens may live (`tokens.access_ttl`), with room for
/// clocks that differ.
const KEPT: Duration = Duration::from_hours(48);

/// How often what is older is removed.
const PRUNE_EVERY: Duration = Duration::from_hours(1);

/// The least by which clocks of gateways may differ without an entry being taken for too old.
const SKEW: Duration = Duration::from_secs(30);

/// How far back entries matter.
#[derive(Debug, Clone, Copy)]
struct Reach {
    /// A token has expired this long after it was made, by the clock of one gateway.
    life: Duration,
    /// An entry may become visible this long after the time it bears: the calls of a request that writes one take the
    /// store's time-out each, and another gateway's clock gave the time.
    overlap: Duration,
}

impl Reach {
    fn of(kept: &settings::Store, tokens: &settings::Tokens) -> Self {
        Self {
            life: tokens.access_ttl.saturating_add(tokens.leeway),
            overlap: kept.timeout.saturating_mul(2).saturating_add(tokens.leeway.max(SKEW)),
        }
    }

    /// Until when an entry of `at` is to be known.
    fn until(self, at: Timestamp) -> Timestamp {
        at.plus(self.life).plus(self.overlap)
    }

    /// For a first reading: what is older is of no use to anybody.
    fn matters(self, now: Timestamp) -> FeedReach {
        FeedReach { since: now.minus(self.life).minus(self.overlap), now: now.minus(self.overlap) }
    }
}

/// How far the feed has been read.
#[derive(Debug, Clone)]
struct Read {
    position: FeedPosition,
    /// When the last reading began; `None` before the first has come to an end.
    at: Option<Timestamp>,
}

impl Read {
    const NOTHING: Self = Self { position: FeedPosition::START, at: None };

    /// What is to be read. Whatever has come since is new, however old the clock of its gateway says it is.
    fn reach(&self, reach: Reach, now: Timestamp) -> FeedReach {
        match self.at {
            None => reach.matters(now),
            Some(_) => FeedReach { since: Timestamp::from_seconds(0), now: Timestamp::from_seconds(0) },
        }
    }

    /// Whether the clock has been set back since: by what it said then, what matters now may have been too old.
    fn ran_ahead(&self, now: Timestamp) -> bool {
        self.at.is_some_and(|before| now.plus(SKEW) < before)
    }

    /// When an entry was committed, at the earliest: not before the reading that did not find it.
    fn committed(&self, said: Timestamp) -> Timestamp {
        self.at.map_or(said, |before| before.max(said))
    }
}

/// Calls for a reading of the feed here, and by way of Redis at the other gateways.
#[derive(Debug, Default)]
struct Wake {
    /// Something happened somewhere.
    here: Notify,
    /// Something happened here: the others are to be called.
    others: Notify,
}

impl Wake {
    /// Somebody says that the feed has grown.
    fn called(&self) {
        self.here.notify_one();
    }

    /// This gateway has made it grow. Does not wait.
    fn told(&self) {
        self.others.notify_one();
    }
}

/// The feed of one store and what is known of it.
pub(super) struct Feed {
    pub(super) known: Arc<Revocations>,
    wake: Arc<Wake>,
    /// Called when the signing keys have changed.
    pub(super) keys: Notify,
    store: SharedStore,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    reach: Reach,
    read: Mutex<Read>,
}

impl Feed {
    /// With what the store knows now.
    ///
    /// # Errors
    /// The store's: a gateway that does not know what was revoked does not start.
    pub(super) async fn open(
        kept: &settings::Store,
        tokens: &settings::Tokens,
        store: SharedStore,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreFault> {
        let feed = Self {
            known: Arc::default(),
            wake: Arc::default(),
            keys: Notify::new(),
            store,
            reach: Reach::of(kept, tokens),
            read: Mutex::new(Read::NOTHING),
            clock,
            metrics,
        };
        feed.read().await?;
        Ok(feed)
    }

    /// For those who make the feed grow here.
    pub(super) fn tell(&self) -> Arc<dyn Fn() + Send + Sync> {
        let wake = Arc::clone(&self.wake);
        Arc::new(move || wake.told())
    }

    /// Reads what is new, for ever.
    pub(super) async fn follow(&self) {
        // However this ends, a panic included, the knowledge is then no longer renewed.
        let _guard = CutOff(&self.known);
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = every.tick() => {}
                () = self.wake.here.notified() => {}
            }
            let read = self.read().await;
            let result = if read.is_ok() { ReadResult::Ok } else { ReadResult::Failed };
            if let Err(fault) = read
                && !self.known.is_cut_off()
            {
                tracing::warn!(%fault, "what is revoked elsewhere is not learned of; what is known stays");
            }
            self.metrics.revocation_reads.of(result).inc();
        }
    }

    /// Lets the store call, for ever; a lost connection is made again.
    pub(super) async fn listen(&self) {
        loop {
            // A store that is lost is told by those who read it.
            let _ = self.store.feed_wakes(&|| self.wake.called()).await;
            sleep(LISTEN_AGAIN).await;
        }
    }

    /// Calls other gateways over Redis when something has happened here, and lets them call us, for ever.
    pub(super) async fn over(&self, redis: &Redis) {
        let call = async {
            loop {
                self.wake.others.notified().await;
                redis.call_gateways().await;
            }
        };
        let called = async {
            loop {
                redis.called_by_gateways(&|| self.wake.called()).await;
                sleep(LISTEN_AGAIN).await;
            }
        };
        let (call, called) = (pin!(call), pin!(called));
        futures_util::future::join::<_, _>(call, called).await;
    }

    /// Removes from the store what no gateway can need, for ever. Several gateways may do so at once.
    pub(super) async fn prune(&self) {
        let mut every = interval(PRUNE_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let before = self.clock.now().minus(KEPT);
            loop {
                match self.store.prune_feed(FeedReach { since: before, now: before }).await {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(fault) => {
                        tracing::debug!(%fault, "old entries of the feed stay for now");
                        break;
                    }
                }
            }
        }
    }

    async fn read(&self) -> Result<(), StoreFault> {
        let begun = Expiry { at: self.clock.now(), tick: self.clock.tick() };
        if self.so_far().ran_ahead(begun.at) {
            tracing::warn!("the clock was set back: what is revoked is read from the start");
            self.have_read(Read::NOTHING);
        }
        loop {
            let before = self.so_far();
            let page = self.store.feed(&before.position, before.reach(self.reach, begun.at), PAGE).await?;
            let Some(page) = page else {
                tracing::warn!("the store holds another history than it did: what is revoked is read from the start");
                self.known.another_history();
                self.have_read(Read::NOTHING);
                continue;
            };
            for entry in &page.entries {
                self.learn(entry, before.committed(entry.at), begun);
                if before.at.is_some() {
                    self.metrics.revocation_lag.observe(begun.at.since(entry.at));
                }
            }
            if page.is_last {
                if before.at.is_none() {
                    self.known.history_is_read();
                }
                self.have_read(Read { position: page.position, at: Some(begun.at) });
                break;
            }
            self.have_read(Read { position: page.position, ..before });
        }
        if self.known.is_current(begun.tick) {
            tracing::info!("what is revoked elsewhere is learned of again");
        }
        Ok(())
    }

    fn learn(&self, entry: &FeedEntry, committed: Timestamp, now: Expiry) {
        let at = entry.until.map_or_else(|| self.reach.until(committed), |until| until.plus(self.reach.overlap));
        let until = Expiry { at, tick: now.tick.plus(at.since(now.at)) };
        if entry.news == News::Keys {
            self.keys.notify_one();
        }
        // Of a time that the store was lost through.
        if at > now.at {
            self.known.learn(&entry.news, until);
        }
    }

    fn so_far(&self) -> Read {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn have_read(&self, read: Read) {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = read;
    }

    /// Writes down how much there is and how old the news is.
    pub(super) fn publish(&self) {
        let held = self.known.held();
        for (kind, count) in [
            (RevocationKind::Session, held.sessions),
            (RevocationKind::Token, held.tokens),
            (RevocationKind::Subject, held.subjects),
            (RevocationKind::Authorization, held.authorizations),
        ] {
            self.metrics.revocations.of(kind).set_count(count);
        }
        let age = self.known.age(self.clock.tick()).as_secs();
        self.metrics.revocations_age.set(i64::try_from(age).unwrap_or(i64::MAX));
    }
}

struct CutOff<'a>(&'a Revocations);

impl Drop for CutOff<'_> {
    fn drop(&mut self) {
        let _ = self.0.is_cut_off();
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
    fn what_no_token_can_outlive_is_not_read() {
        assert_eq!(REACH.matters(at(5_000)).since, at(4_034));
        // One whose end is told is known for the overlap after it, and so is what is read first.
        assert_eq!(REACH.matters(at(5_000)).now, at(4_964));
    }

    #[test]
    fn a_clock_that_was_set_back_by_more_than_clocks_differ_has_all_that_matters_read_again() {
        let read = Read { at: Some(at(5_000)), ..Read::NOTHING };
        assert_eq!([5_001, 5_000, 4_970, 4_969].map(|now| read.ran_ahead(at(now))), [false, false, false, true]);
        assert!(!Read::NOTHING.ran_ahead(at(1)));
    }

    #[test]
    fn what_is_new_by_its_number_is_read_however_old_it_says_it_is() {
        assert_eq!(Read::NOTHING.reach(REACH, at(5_000)).since, at(4_034));
        let read = Read { at: Some(at(5_000)), ..Read::NOTHING };
        assert_eq!(read.reach(REACH, at(5_001)).since, at(0));
        assert_eq!([1, 5_000, 5_001].map(|said| read.committed(at(said))), [5_000, 5_000, 5_001].map(at));
    }

    #[test]
    fn an_entry_is_known_until_the_last_token_has_expired_by_any_clock() {
        assert_eq!(REACH.until(at(5_000)), at(5_966));
    }
}
