//! The keys of other issuers: fetched ahead of need, one fetch at a time, kept for a day while the issuer is down. A
//! secret that an issuer shares with us is in the configuration and never fetched.
//!
//! A request never waits for keys that are there. One that names an unknown key may wait for a fetch that is under way,
//! and may start one if none was asked for in the last 30 seconds: strangers can make up as many names as they like.
//! Moments are the clock's; only waiting is the runtime's.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use http::Uri;
use tokio::{sync::watch, time::timeout};

use crate::{
    clock::{Clock, Entropy, Tick},
    config::settings::{self, IssuerKeys, KeySource},
    policy::{foreign::TokenRules, jwks, keys::KeySet},
    telemetry::metrics::{FetchResult, IssuerMetrics},
    upstream::fetch::{self, FetchFault, fetch},
};

/// For all of a fetch: the discovery document and the key set.
const FETCH_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a request waits for a fetch; longer than a fetch takes, so that it learns what came of it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two fetches that unknown keys asked for, and between one that failed and the next.
pub const AGAIN: Duration = Duration::from_secs(30);

/// How long keys of an issuer that cannot be reached are used.
const KEPT: Duration = Duration::from_hours(24);

/// How long keys count as fresh when the issuer says nothing.
const DEFAULT_TTL: Duration = Duration::from_mins(5);
/// The shortest and the longest that an issuer's word counts for.
const TTL: (Duration, Duration) = (Duration::from_mins(1), Duration::from_hours(1));

/// How often it is looked whether a fetch is due.
const LOOK: Duration = Duration::from_secs(1);

/// An issuer and the keys it has published.
pub struct Issuer {
    settings: Arc<settings::Issuer>,
    keys: ArcSwapOption<Held>,
    fetching: Mutex<Fetching>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    metrics: IssuerMetrics,
}

/// What was fetched last.
struct Held {
    set: Arc<KeySet>,
    /// `None`: a shared secret, which does not age.
    fetched: Option<Tick>,
}

/// What is under way, and when something was or will be.
#[derive(Default)]
struct Fetching {
    under_way: Option<watch::Receiver<()>>,
    /// When an unknown key last asked for one.
    asked: Option<Tick>,
    /// When the next one is due by itself; `None`: now.
    due: Option<Tick>,
}

impl Fetching {
    fn under_way(&self) -> Option<&watch::Receiver<()>> {
        // A closed channel is a fetch that came to grief.
        self.under_way.as_ref().filter(|under_way| under_way.has_changed().is_ok())
    }
}

/// A fetch that is under way.
#[derive(Debug)]
pub struct News(watch::Receiver<()>);

impl News {
    /// Waits for its end, but not for ever.
    pub async fn come(mut self) {
        // An error means that the fetch is over: its end of the channel is gone.
        let _ = timeout(PATIENCE, self.0.changed()).await;
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Issuer({})", self.settings.rules.name)
    }
}

impl Issuer {
    /// An issuer; nothing is fetched before [`Self::begin`].
    #[must_use]
    pub fn new(
        settings: Arc<settings::Issuer>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        metrics: IssuerMetrics,
    ) -> Arc<Self> {
        let held = match &settings.keys {
            IssuerKeys::Secret(set) => Some(Arc::new(Held { set: Arc::clone(set), fetched: None })),
            IssuerKeys::Published(_) => None,
        };
        metrics.keys.set_count(held.as_ref().map_or(0, |held| held.set.len()));
        Arc::new(Self { settings, keys: ArcSwapOption::new(held), fetching: Mutex::default(), clock, entropy, metrics })
    }

    /// What its tokens must be like.
    #[must_use]
    pub fn rules(&self) -> &TokenRules {
        &self.settings.rules
    }

    /// Its keys; `None` when none were ever fetched, or not for too long.
    #[must_use]
    pub fn keys(&self, now: Tick) -> Option<Arc<KeySet>> {
        let held = self.keys.load();
        let held = held.as_ref()?;
        let fresh = held.fetched.is_none_or(|fetched| now.since(fetched) <= KEPT);
        fresh.then(|| Arc::clone(&held.set))
    }

    /// The fetch that is under way, or a new one if unknown keys have not asked for one lately. Must be called within
    /// the runtime.
    #[must_use]
    pub fn ask(self: &Arc<Self>, now: Tick) -> Option<News> {
        let IssuerKeys::Published(source) = &self.settings.keys else { return None };
        let mut fetching = self.fetching();
        if let Some(under_way) = fetching.under_way() {
            return Some(News(under_way.clone()));
        }
        if fetching.asked.is_some_and(|asked| now.since(asked) < AGAIN) {
            return None;
        }
        fetching.asked = Some(now);
        Some(News(self.start(&mut fetching, source)))
    }

    /// Begins the first fetch, so that the first requests find it under way. Must be called within the runtime.
    pub fn begin(self: &Arc<Self>) {
        if let IssuerKeys::Published(source) = &self.settings.keys {
            let _ = self.start(&mut self.fetching(), source);
        }
    }

    /// Fetches whenever that is due. Never ends.
    pub async fn maintain(self: Arc<Self>) {
        let IssuerKeys::Published(source) = &self.settings.keys else { return };
        let mut look = tokio::time::interval(LOOK);
        loop {
            look.tick().await;
            let now = self.clock.tick();
            if let Some(fetched) = self.keys.load().as_ref().and_then(|held| held.fetched) {
                self.metrics.age.set(i64::try_from(now.since(fetched).as_secs()).unwrap_or(i64::MAX));
            }
            let mut fetching = self.fetching();
            if fetching.under_way().is_none() && fetching.due.is_none_or(|due| now >= due) {
                let _ = self.start(&mut fetching, source);
            }
        }
    }

    /// In a task of its own: whoever asked may go away, and others wait for the same.
    fn start(self: &Arc<Self>, fetching: &mut Fetching, source: &KeySource) -> watch::Receiver<()> {
        let (over, under_way) = watch::channel(());
        fetching.under_way = Some(under_way.clone());
        let (issuer, source) = (Arc::clone(self), source.clone());
        tokio::spawn(async move {
            issuer.fetch(&source).await;
            // After the keys are in place, so that nobody who is woken finds the old ones.
            over.send_replace(());
        });
        under_way
    }

    async fn fetch(&self, source: &KeySource) {
        let outcome = timeout(FETCH_TIMEOUT, self.documents(source)).await.unwrap_or(Err(FetchFault::Timeout));
        let now = self.clock.tick();
        let name = &*self.settings.rules.name;
        let wait = match outcome {
            Ok((set, left_out, ttl)) => {
                tracing::debug!(issuer = name, keys = set.len(), left_out, "keys fetched");
                if set.is_empty() {
                    tracing::warn!(issuer = name, left_out, "none of the issuer's keys is of use");
                }
                self.metrics.fetches.of(FetchResult::Fetched).inc();
                self.metrics.keys.set_count(set.len());
                self.metrics.age.set(0);
                self.keys.store(Some(Arc::new(Held { set: Arc::new(set), fetched: Some(now) })));
                refresh_after(ttl, self.random())
            }
            Err(fault) => {
                tracing::warn!(issuer = name, %fault, "an issuer's keys could not be fetched");
                self.metrics.fetches.of(fault.result()).inc();
                AGAIN
            }
        };
        let mut fetching = self.fetching();
        fetching.due = Some(now.plus(wait));
        fetching.under_way = None;
    }

    async fn documents(&self, source: &KeySource) -> Result<(KeySet, usize, Duration), FetchFault> {
        let rules = &self.settings.rules;
        let mut document = fetch(&source.document, source).await?;
        if source.discovery {
            let found = jwks::jwks_uri(&document.body, &rules.issuer);
            let url = found.and_then(|url| Uri::from_str(&url).ok());
            let url = url.ok_or_else(|| FetchFault::Document("not a discovery document of this issuer".to_owned()))?;
            fetch::same_or_listed(&url, source)?;
            document = fetch(&url, source).await?;
        }
        let (set, left_out) =
            jwks::parse(&document.body, &rules.algorithms).map_err(|fault| FetchFault::Document(fault.to_string()))?;
        Ok((set, left_out, document.max_age.unwrap_or(DEFAULT_TTL).clamp(TTL.0, TTL.1)))
    }

    fn random(&self) -> u8 {
        let mut byte = [0];
        self.entropy.fill(&mut byte);
        byte[0]
    }

    fn fetching(&self) -> MutexGuard<'_, Fetching> {
        // Nothing that can panic runs under the lock.
        self.fetching.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// At 80 % of the time, give or take 10 %, so that gateways started together do not fetch together.
fn refresh_after(ttl: Duration, random: u8) -> Duration {
    ttl.mul_f64(0.7 + 0.2 * f64::from(random) / f64::from(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_fetched_anew_at_eighty_percent_of_their_time_give_or_take_ten() {
        let ttl = Duration::from_secs(1_000);
        assert_eq!(refresh_after(ttl, 0), Duration::from_secs(700));
        assert_eq!(refresh_after(ttl, u8::MAX).as_secs(), 900);
        assert!((750..850).contains(&refresh_after(ttl, 128).as_secs()));
    }
}
