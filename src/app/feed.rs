//! Reads the feed of the store: at the start all of it that matters, then what is new, once a second and whenever
//! somebody calls (PostgreSQL's NOTIFY, a message over Redis, a commit of this gateway's own).
//!
//! A call carries no facts and may be lost: it only makes the next reading come sooner. What was read stays: a store
//! that is lost costs the news, never what is known; how old the news is each route judges for itself (`revocation`). A
//! store that holds another history than the one read so far is read from the start.
//!
//! The gateway's wall clock decides nothing that cannot be made good: what is new is taken whatever time it bears, and
//! everything is kept for as long as it may matter by the monotonic clock as well.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, Notify},
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    clock::{Clock, Timestamp},
    config::settings,
    store::{
        SharedStore, StoreFault,
        feed::{Authorization, FeedEntry, FeedPosition, FeedReach, News},
        memory::{ended_sessions::Expiry, revocations::Revocations},
        quotas::{Book, Doubts},
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

    /// What is older is of no use to anybody who has just started.
    fn matters(self, now: Timestamp) -> FeedReach {
        FeedReach { since: now.minus(self.life).minus(self.overlap), now: now.minus(self.overlap) }
    }

    /// Until when an entry that is read now is to be known. By the monotonic clock from now on, as if it were new: what
    /// time it is may turn out to be wrong.
    fn kept(self, entry: &FeedEntry, now: Expiry) -> Expiry {
        let life = entry.until.map_or(self.life, |until| until.since(entry.at));
        let at = entry.until.map_or_else(|| self.until(entry.at), |until| until.plus(self.overlap));
        Expiry { at, tick: now.tick.plus(life).plus(self.overlap) }
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

/// Whatever time it bears.
const ALL: FeedReach = FeedReach { since: Timestamp::from_micros(0), now: Timestamp::from_micros(0) };

/// How far the feed has been read.
#[derive(Debug)]
struct Progress {
    position: FeedPosition,
    /// Not to its end since the start, or since the store was found to hold another history.
    beginning: bool,
    /// The rights in that other history, until it is read to its end.
    rights: Option<Vec<(Authorization, Expiry)>>,
}

/// The feed of one store and what is known of it.
pub(super) struct Feed {
    pub(super) known: Arc<Revocations>,
    wake: Arc<Wake>,
    store: SharedStore,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    reach: Reach,
    /// Told when what was used of a quota was set to nothing.
    book: Arc<Book>,
    /// Called when the signing keys have changed.
    pub(super) keys: Notify,
    /// Held by whoever reads, one at a time.
    progress: Mutex<Progress>,
}

impl Feed {
    /// With what the store knows now.
    ///
    /// # Errors
    /// The store's: a gateway that does not know what was revoked does not start.
    pub(super) async fn open(
        kept: &settings::Store,
        tokens: &settings::Tokens,
        book: Arc<Book>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreFault> {
        let feed = Self {
            known: Arc::default(),
            wake: Arc::default(),
            keys: Notify::new(),
            store: Arc::clone(book.store()),
            book,
            reach: Reach::of(kept, tokens),
            progress: Mutex::new(Progress { position: FeedPosition::START, beginning: true, rights: None }),
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
            let old = self.clock.now().minus(KEPT);
            loop {
                match self.store.prune_feed(FeedReach { since: old, now: old }).await {
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
        let mut progress = self.progress.lock().await;
        loop {
            // Who has just started wants what matters; after that nothing is left out.
            let reach = if progress.beginning { self.reach.matters(begun.at) } else { ALL };
            let Some(page) = self.store.feed(&progress.position, reach, PAGE).await? else {
                tracing::warn!("the store holds another history than it did: what is revoked is read from the start");
                *progress = Progress { position: FeedPosition::START, beginning: true, rights: Some(Vec::new()) };
                continue;
            };
            if let Some(first) = page.odd.first() {
                tracing::error!(first, count = page.odd.len(), "entries of the revocation feed make no sense here");
                page.odd.iter().for_each(|_| self.metrics.revocation_oddities.inc());
            }
            let mut doubts = Doubts::default();
            for entry in &page.entries {
                match &entry.news {
                    News::Keys => self.keys.notify_one(),
                    News::Quota(reset) => doubts.add(reset),
                    _ => {}
                }
                let kept = self.reach.kept(entry, begun);
                match (&entry.news, &mut progress.rights) {
                    // The rights of now stay in force until those of the other history are all known.
                    (News::Authorization(rights), Some(other)) => other.push((rights.clone(), kept)),
                    (news, _) => self.known.learn(news, kept),
                }
                if !progress.beginning {
                    self.metrics.revocation_lag.observe(begun.at.since(entry.at));
                }
            }
            // After what revokes: this goes through all that is at hand.
            self.book.doubt(&doubts);
            progress.position = page.position;
            if page.is_last {
                break;
            }
        }
        if let Some(rights) = progress.rights.take() {
            self.known.put_rights(rights);
        }
        progress.beginning = false;
        if self.known.is_current(begun.tick) {
            tracing::info!("what is revoked elsewhere is learned of again");
        }
        Ok(())
    }

    /// Writes down how much there is and how old the news is.
    pub(super) fn publish(&self) {
        let held = self.known.held();
        for (kind, count) in [
            (RevocationKind::Session, held.sessions),
            (RevocationKind::Token, held.tokens),
            (RevocationKind::Subject, held.subjects),
            (RevocationKind::Authorization, held.authorizations),
            (RevocationKind::ApiKey, held.api_keys),
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
    use crate::clock::Tick;

    const REACH: Reach = Reach { life: Duration::from_secs(930), overlap: Duration::from_secs(36) };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    #[test]
    fn what_no_token_can_outlive_is_not_read() {
        assert_eq!(REACH.matters(at(5_000)).since, at(4_034));
    }

    #[test]
    fn an_entry_is_kept_for_a_whole_life_however_wrong_the_clock_is() {
        let entry = |until: Option<i64>| FeedEntry {
            seq: 1,
            at: at(5_000),
            until: until.map(at),
            news: News::Token("a".into()),
        };
        let tick = |seconds: u64| Tick::from_nanos(seconds * 1_000_000_000);
        for now in [0, 5_000, 1_000_000] {
            let kept = REACH.kept(&entry(None), Expiry { at: at(now), tick: tick(100) });
            assert_eq!((kept.at, kept.tick), (at(5_966), tick(100 + 966)));
            let kept = REACH.kept(&entry(Some(5_060)), Expiry { at: at(now), tick: tick(100) });
            assert_eq!((kept.at, kept.tick), (at(5_096), tick(100 + 96)));
        }
    }

    #[test]
    fn an_entry_is_known_until_the_last_token_has_expired_by_any_clock() {
        assert_eq!(REACH.until(at(5_000)), at(5_966));
    }
}
