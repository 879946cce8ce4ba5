//! API keys: who calls with one (`credentials: [api_key]`).
//!
//! What was not issued here is told by the key's own check, without a look into the store, however much of it comes. A
//! key that was issued is looked up once, one look at a time, and remembered by its SHA-256, bad ones for ten seconds.
//! On each use it is looked at whether it was revoked, has run out, or its owner's rights have changed: the feed tells
//! that within a second. Once a minute the store is asked again, for what the feed does not tell.
//!
//! A store that is lost costs nothing that is known: a key goes on for as long after its last look-up as an access
//! token lives, since that long the feed's news is kept. One that is not known is 503, never 401.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderName};
use quick_cache::{
    Weighter,
    sync::{Cache, DefaultLifecycle},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};

use crate::{
    clock::{Tick, Timestamp},
    gate::{
        caller::{Caller, Signer},
        exchange::Exchange,
        refusal::{Detail, Refusal},
        snapshot::{RouteEntry, Target},
        token_cache::{ByDigest, TokenCache, TokenDigest},
    },
    policy::{
        api_key::{self, ApiKeyMint, KEY_LEN, Shown, Standing},
        claims::Claims,
        ids::{ApiKeyId, UserId},
        reason::Reason,
        token::Verified,
    },
    store::{
        Account, NOTED_EVERY, StoreFault,
        api_keys::{ApiKeys, KnownApiKey},
        calls::still_watched,
        feed::Authorization,
        memory::revocations::Revocations,
    },
    telemetry::metrics::{ApiKeyLookup, Metrics},
};

/// Where a key may come, beside `Authorization`.
pub const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// How a caller with a key has proven who it is (RFC 8176's registry has no word for it).
pub const METHOD: &str = "api_key";

/// How long the store is not asked again about a good key, and about a bad one.
const FRESH: Duration = Duration::from_mins(1);
const BAD: Duration = Duration::from_secs(10);

/// How long a request waits for the store to be asked again about a key that is known.
const PATIENCE: Duration = Duration::from_millis(250);

/// Keys that are remembered, about 1 KiB each; keys of which a use is to be noted.
const REMEMBERED: u64 = 16_384;
const MOST_USES: usize = 16_384;

/// Looks at once, and requests that wait for all of them: a slow store holds up no more.
const MOST_LOOKS: usize = 64;
const MOST_WAITERS: usize = 256;

/// When to come again while the store does not answer.
const AGAIN: Duration = Duration::from_secs(5);

/// 9999-12-31T23:59:59Z: when a key ends that does not end by itself.
const NEVER: i64 = 253_402_300_799;

/// What a request shows to say who calls.
pub(in crate::gate) enum Credential<'a> {
    /// An access token.
    Token(&'a str),
    /// An API key.
    ApiKey(&'a str),
}

/// What the headers of a request show, given its bearer token; `None`: nothing that this route looks for. Two that
/// differ are none: one of them would be believed by somebody.
pub(in crate::gate) fn shown<'a>(
    bearer: Option<&'a str>,
    headers: &'a HeaderMap,
    route: &RouteEntry,
) -> Result<Option<Credential<'a>>, Refusal> {
    let takes = route.credentials;
    let header = if takes.api_key { in_header(headers)? } else { None };
    match (bearer, header) {
        (Some(token), Some(key)) if token != key => {
            let two = "X-API-Key and Authorization say different things";
            Err(Refusal::with(Reason::CredentialsMalformed, Detail::Log(two.into())))
        }
        (_, Some(key)) => Ok(Some(Credential::ApiKey(key))),
        (Some(token), None) if api_key::is_meant(token) => {
            if takes.api_key {
                Ok(Some(Credential::ApiKey(token)))
            } else {
                Err(Reason::ApiKeyNotAccepted.into())
            }
        }
        (Some(token), None) if takes.bearer => Ok(Some(Credential::Token(token))),
        (Some(_), None) => Err(Reason::TokenKind.into()),
        (None, None) => Ok(None),
    }
}

/// Why nobody is known: whoever shows a key at an account endpoint is told that it is not for this.
pub(in crate::gate) fn missing(headers: &HeaderMap, route: &RouteEntry) -> Result<(), Refusal> {
    if matches!(route.target, Target::Portal) && headers.contains_key(X_API_KEY) {
        return Err(Reason::ApiKeyNotAccepted.into());
    }
    Ok(())
}

fn in_header(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let malformed = |why: &str| Refusal::with(Reason::CredentialsMalformed, Detail::Log(why.to_owned()));
    let mut values = headers.get_all(X_API_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(malformed("the X-API-Key header came more than once"));
    }
    value.to_str().map(Some).map_err(|_| malformed("the X-API-Key header is no text"))
}

/// No caller, or not yet.
pub(in crate::gate) enum Unsettled {
    /// For this reason.
    Refused(Refusal),
    /// The store is being asked.
    Asked(Look),
}

impl<T: Into<Refusal>> From<T> for Unsettled {
    fn from(why: T) -> Self {
        Self::Refused(why.into())
    }
}

/// A look into the store that is under way.
pub(in crate::gate) struct Look {
    over: watch::Receiver<()>,
    /// `None`: there is no answer without it.
    patience: Option<Duration>,
    _place: OwnedSemaphorePermit,
}

impl Look {
    /// Waits for its end, not longer than it is worth.
    pub(in crate::gate) async fn end(mut self) {
        // An error means that it is over: its end of the channel is gone.
        match self.patience {
            Some(patience) => drop(timeout(patience, self.over.changed()).await),
            None => drop(self.over.changed().await),
        }
    }
}

/// A key that was looked up.
struct Entry {
    /// When, at the latest, the store was asked.
    looked: Tick,
    /// What it said.
    found: Result<Good, Reason>,
}

/// A key that is good, but for what is looked at on each use.
struct Good {
    id: ApiKeyId,
    owner: UserId,
    /// Roles it is limited to.
    roles: Option<Vec<String>>,
    expires_at: Option<Timestamp>,
    caller: Arc<Caller>,
    /// Last use that was noted, microseconds since the epoch.
    noted: AtomicI64,
}

/// As large as its caller is.
#[derive(Clone)]
struct BySize;

impl Weighter<TokenDigest, Arc<Entry>> for BySize {
    fn weight(&self, _: &TokenDigest, entry: &Arc<Entry>) -> u64 {
        entry.found.as_ref().map_or(1, |good| good.caller.size_kib())
    }
}

/// Knows callers by their keys.
pub struct ApiKeyCheck {
    mint: ApiKeyMint,
    store: Arc<dyn ApiKeys>,
    known: Arc<Revocations>,
    entries: Cache<TokenDigest, Arc<Entry>, BySize, ByDigest>,
    looks: Mutex<HashMap<TokenDigest, watch::Receiver<()>>>,
    places: Arc<Semaphore>,
    uses: Mutex<HashMap<ApiKeyId, Timestamp>>,
    /// How long the feed's news is kept, at least.
    longest: Duration,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for ApiKeyCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeyCheck").finish_non_exhaustive()
    }
}

impl ApiKeyCheck {
    /// Over this store. `longest`: how long a key goes on after its last look-up; not longer than news is kept in `known`.
    #[must_use]
    pub fn new(
        mint: ApiKeyMint,
        store: Arc<dyn ApiKeys>,
        known: Arc<Revocations>,
        longest: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        let items = usize::try_from(REMEMBERED).unwrap_or(usize::MAX);
        let entries = Cache::with(items, REMEMBERED, BySize, ByDigest, DefaultLifecycle::default());
        let (looks, uses) = (Mutex::default(), Mutex::default());
        let places = Arc::new(Semaphore::new(MOST_WAITERS));
        Self { mint, store, known, entries, looks, places, uses, longest, metrics }
    }

    /// What is to be noted since it was last taken.
    pub fn take_uses(&self) -> Vec<(ApiKeyId, Timestamp)> {
        lock(&self.uses).drain().collect()
    }

    /// Whose key this is. `may_wait`: else what is known by now has to do.
    pub(in crate::gate) fn caller(
        self: &Arc<Self>,
        key: &str,
        exchange: &Exchange,
        route: &RouteEntry,
        may_wait: bool,
    ) -> Result<Arc<Caller>, Unsettled> {
        // Nothing of another length buys a hash of it.
        if key.len() != KEY_LEN {
            return Err(Reason::ApiKeyMalformed.into());
        }
        let (digest, tick) = (TokenCache::digest(key), exchange.tick());
        let entry = self.entries.get(&digest).filter(|entry| entry.counts(tick, self.longest));
        if let Some(entry) = &entry {
            // A store that is lost is not asked about what is known; and while it is being asked, who comes then goes on
            // with what is known, and leaves the places to those whose keys are not.
            let is_asked = || lock(&self.looks).contains_key(&digest);
            if entry.is_fresh(tick) || !may_wait || !self.known.staleness(tick).is_zero() || is_asked() {
                if may_wait {
                    self.metrics.api_key_lookups.of(ApiKeyLookup::Remembered).inc();
                }
                return Ok(self.used(&digest, entry, exchange, route)?);
            }
        } else if !may_wait {
            return Err(unavailable().into());
        }
        let Some(shown) = self.mint.read(key) else {
            self.metrics.api_key_lookups.of(ApiKeyLookup::Malformed).inc();
            return Err(Reason::ApiKeyMalformed.into());
        };
        match (self.waiting(digest, shown, exchange), entry) {
            (Some((over, place)), entry) => {
                Err(Unsettled::Asked(Look { over, patience: entry.map(|_| PATIENCE), _place: place }))
            }
            (None, Some(entry)) => Ok(self.used(&digest, &entry, exchange, route)?),
            (None, None) => {
                self.metrics.api_key_lookups.of(ApiKeyLookup::Busy).inc();
                Err(unavailable().into())
            }
        }
    }

    /// What is looked at on each use.
    fn used(
        &self,
        digest: &TokenDigest,
        entry: &Arc<Entry>,
        exchange: &Exchange,
        route: &RouteEntry,
    ) -> Result<Arc<Caller>, Refusal> {
        let good = entry.found.as_ref().map_err(|reason| *reason)?;
        if self.known.api_key_revoked(good.id) {
            return Err(Reason::ApiKeyRevoked.into());
        }
        api_key::unexpired(good.expires_at, exchange.now())?;
        // Last: what is wrong with the key is wrong however much is known.
        if route.staleness.refuses(self.known.staleness(exchange.tick())) {
            return Err(Refusal::with(Reason::RevocationsStale, Detail::RetryAfter(AGAIN)));
        }
        self.note(good, exchange.now());
        let version = good.caller.claims().authorization_version;
        let Some(rights) = self.known.newer_rights(good.owner, version) else { return Ok(Arc::clone(&good.caller)) };
        let now = good.with(&rights);
        let caller = Arc::clone(&now.caller);
        self.entries.insert(*digest, Arc::new(Entry { looked: entry.looked, found: Ok(now) }));
        Ok(caller)
    }

    /// A write for each use would be one for each request.
    fn note(&self, good: &Good, now: Timestamp) {
        let every = i64::try_from(NOTED_EVERY.as_micros()).unwrap_or(i64::MAX);
        if now.micros().saturating_sub(good.noted.load(Ordering::Relaxed)) < every {
            return;
        }
        good.noted.store(now.micros(), Ordering::Relaxed);
        let mut uses = lock(&self.uses);
        if uses.len() < MOST_USES {
            uses.insert(good.id, now);
        }
    }

    /// A place among those who wait for a look. `None`: too many do, or the store is being asked about too many keys.
    fn waiting(
        self: &Arc<Self>,
        digest: TokenDigest,
        shown: Shown,
        exchange: &Exchange,
    ) -> Option<(watch::Receiver<()>, OwnedSemaphorePermit)> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        self.look(digest, shown, exchange).map(|over| (over, place))
    }

    /// Asks the store, unless somebody is at it. `None`: it is being asked about too many.
    fn look(self: &Arc<Self>, digest: TokenDigest, shown: Shown, exchange: &Exchange) -> Option<watch::Receiver<()>> {
        let mut looks = lock(&self.looks);
        if let Some(under_way) = looks.get(&digest) {
            return Some(under_way.clone());
        }
        if looks.len() >= MOST_LOOKS {
            return None;
        }
        let (ended, over) = watch::channel(());
        looks.insert(digest, over.clone());
        drop(looks);
        let (looked, now, issuer) = (exchange.tick(), exchange.now(), Arc::clone(&exchange.snapshot().issuer));
        let at_work = AtWork { check: Arc::clone(self), digest, _ended: ended };
        // Whoever asked may hang up; others wait for the same.
        tokio::spawn(still_watched(async move {
            let check = &at_work.check;
            let (found, lookup) = match check.store.api_key(shown.id).await {
                Ok(Some(key)) => (judged(key, &shown, now, &issuer), ApiKeyLookup::Found),
                Ok(None) => (Err(Reason::ApiKeyInvalid), ApiKeyLookup::Unknown),
                Err(fault) => {
                    check.metrics.api_key_lookups.of(ApiKeyLookup::Lost).inc();
                    told(&fault, shown.id);
                    return;
                }
            };
            check.metrics.api_key_lookups.of(lookup).inc();
            check.entries.insert(digest, Arc::new(Entry { looked, found }));
        }));
        Some(over)
    }
}

/// Ends a look, however it ends: the entry first, then who waits.
struct AtWork {
    check: Arc<ApiKeyCheck>,
    digest: TokenDigest,
    _ended: watch::Sender<()>,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        lock(&self.check.looks).remove(&self.digest);
    }
}

impl Entry {
    /// Whether the store need not be asked.
    fn is_fresh(&self, now: Tick) -> bool {
        now.since(self.looked) < if self.found.is_ok() { FRESH } else { BAD }
    }

    /// Whether it may be gone by. What is bad may have become good.
    fn counts(&self, now: Tick, longest: Duration) -> bool {
        now.since(self.looked) < if self.found.is_ok() { longest } else { BAD }
    }
}

impl Good {
    fn new(key: KnownApiKey, issuer: &Arc<str>) -> Self {
        let KnownApiKey { key, owner, .. } = key;
        let claims = claims(&key, &owner, issuer);
        Self {
            id: key.id,
            owner: key.owner,
            expires_at: key.expires_at,
            roles: key.roles,
            caller: caller(claims, key.id),
            noted: AtomicI64::new(key.last_used_at.map_or(0, Timestamp::micros)),
        }
    }

    /// The same with its owner's rights of now.
    fn with(&self, rights: &Authorization) -> Self {
        let claims = Claims {
            roles: roles(self.roles.as_deref(), &rights.roles),
            org: rights.org.as_deref().map(Into::into),
            authorization_version: rights.version,
            ..Claims::clone(self.caller.claims())
        };
        Self {
            id: self.id,
            owner: self.owner,
            roles: self.roles.clone(),
            expires_at: self.expires_at,
            caller: caller(claims, self.id),
            noted: AtomicI64::new(self.noted.load(Ordering::Relaxed)),
        }
    }
}

fn judged(key: KnownApiKey, shown: &Shown, now: Timestamp, issuer: &Arc<str>) -> Result<Good, Reason> {
    let standing = Standing { hash: &key.hash, expires_at: key.key.expires_at, owner_active: key.owner.active };
    match api_key::judge(shown, &standing, now) {
        // Looked at on each use.
        Ok(()) | Err(Reason::ApiKeyExpired) => Ok(Good::new(key, issuer)),
        Err(reason) => Err(reason),
    }
}

/// What a key says of whoever shows it: its owner, with the key as the client that acts.
fn claims(key: &crate::store::api_keys::ApiKey, owner: &Account, issuer: &Arc<str>) -> Claims {
    let id = key.id.to_string();
    Claims {
        issuer: Arc::clone(issuer),
        subject: owner.id.to_string().into(),
        audience: Vec::new(),
        expires: key.expires_at.map_or(NEVER, Timestamp::seconds).min(NEVER),
        not_before: None,
        issued: key.created_at.seconds(),
        token_id: id.as_str().into(),
        session: None,
        client_id: Some(id.into()),
        roles: roles(key.roles.as_deref(), &owner.roles),
        scopes: key.scopes.iter().map(|scope| scope.as_str().into()).collect(),
        org: owner.org.as_deref().map(Into::into),
        authorization_version: owner.authorization_version,
        generation: 0,
        email: Some(owner.email.as_str().into()),
        email_verified: owner.email_verified,
        methods: vec![METHOD.into()],
        auth_time: None,
    }
}

fn roles(key: Option<&[String]>, owner: &[String]) -> Vec<Arc<str>> {
    api_key::roles(key, owner).into_iter().map(Into::into).collect()
}

fn caller(claims: Claims, id: ApiKeyId) -> Arc<Caller> {
    let verified = Verified { claims: Arc::new(claims), kid: "".into() };
    // How long it counts is the entry's to say.
    Arc::new(Caller::new(verified, Signer::ApiKey(id), Timestamp::from_seconds(0)))
}

fn unavailable() -> Refusal {
    Refusal::with(Reason::StoreUnavailable, Detail::RetryAfter(AGAIN))
}

fn told(fault: &StoreFault, key: ApiKeyId) {
    match fault {
        StoreFault::Unavailable(_) => tracing::debug!(%key, %fault, "an API key could not be looked up"),
        StoreFault::Inconsistent(_) => tracing::error!(%key, %fault, "an API key could not be looked up"),
    }
}

/// What is under these locks is whole whoever panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
