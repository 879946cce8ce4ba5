//! What this gateway knows of tokens that are out there and no longer mean what they say: ended sessions, revoked
//! tokens, subjects whose older tokens are void, users whose rights have changed; and of API keys that were revoked.
//!
//! Looked into for every verified token, so each kind that is empty costs one load. Every entry lives until the last
//! token it speaks of has expired; the caller prunes now and then. What was learned stays: reading the feed again adds
//! to it. The one exception are rights after a store was set back ([`Revocations::put_rights`]).

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::ended_sessions::{EndedSessions, Expiry};
use crate::{
    clock::{Tick, Timestamp},
    policy::ids::{ApiKeyId, SessionId, UserId},
    store::feed::{Authorization, News},
};

/// A map that is almost always empty, and small when it is not.
#[derive(Debug)]
struct Few<K, V> {
    entries: AtomicUsize,
    map: RwLock<HashMap<K, V>>,
}

impl<K, V> Default for Few<K, V> {
    fn default() -> Self {
        Self { entries: AtomicUsize::new(0), map: RwLock::default() }
    }
}

impl<K: Eq + Hash, V> Few<K, V> {
    /// `None`: it is empty.
    fn read(&self) -> Option<RwLockReadGuard<'_, HashMap<K, V>>> {
        (self.entries.load(Ordering::Acquire) > 0).then(|| self.map.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<T>(&self, change: impl FnOnce(&mut HashMap<K, V>) -> T) -> T {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut map);
        if map.capacity() > 4 * map.len().max(16) {
            map.shrink_to_fit();
        }
        self.entries.store(map.len(), Ordering::Release);
        changed
    }

    fn len(&self) -> usize {
        self.entries.load(Ordering::Acquire)
    }
}

/// `iat` of a subject's first good token.
#[derive(Debug, Clone, Copy)]
struct Before {
    issued: i64,
    until: Expiry,
}

/// How many entries of each kind are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Ended sessions.
    pub sessions: usize,
    /// Revoked tokens.
    pub tokens: usize,
    /// Subjects whose older tokens are void.
    pub subjects: usize,
    /// Users whose rights have changed.
    pub authorizations: usize,
    /// Revoked API keys.
    pub api_keys: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Revocations {
    sessions: EndedSessions,
    tokens: Few<Box<str>, Expiry>,
    /// By issuer and subject.
    subjects: Few<Box<str>, HashMap<Box<str>, Before>>,
    authorizations: Few<UserId, (Arc<Authorization>, Expiry)>,
    api_keys: Few<ApiKeyId, Expiry>,
    /// When the feed was last read to its end, nanoseconds of the monotonic clock.
    read: AtomicU64,
    /// Whether reading it has failed since.
    failing: AtomicBool,
}

impl Revocations {
    /// Takes in what the feed says, or what happens here; `until`: when it no longer matters. Seen by every look that
    /// begins after this has returned.
    pub fn learn(&self, news: &News, until: Expiry) {
        match news {
            News::Session(session) => self.sessions.insert(*session, until),
            News::Token(jti) => self.tokens.change(|tokens| {
                let kept = tokens.entry(jti.as_str().into()).or_insert(until);
                *kept = until.later(*kept);
            }),
            News::SubjectBefore(subject) => self.subjects.change(|issuers| {
                let subjects = issuers.entry(subject.issuer.as_str().into()).or_default();
                let said = Before { issued: subject.before, until };
                let kept = subjects.entry(subject.subject.as_str().into()).or_insert(said);
                *kept = Before { issued: said.issued.max(kept.issued), until: until.later(kept.until) };
            }),
            News::Authorization(rights) => self.authorizations.change(|users| take_rights(users, rights, until)),
            News::ApiKey(key) => self.api_keys.change(|keys| {
                let kept = keys.entry(*key).or_insert(until);
                *kept = until.later(*kept);
            }),
            News::Keys | News::Quota(_) => {}
        }
    }

    /// Whether this API key was revoked, since whoever asks could have learned of it from the store.
    #[must_use]
    pub fn api_key_revoked(&self, key: ApiKeyId) -> bool {
        self.api_keys.read().is_some_and(|keys| keys.contains_key(&key))
    }

    /// Whether the session has ended and a token of it could still be unexpired.
    #[must_use]
    pub fn ended(&self, session: SessionId) -> bool {
        self.sessions.contains(session)
    }

    /// Whether this one token of ours was revoked.
    #[must_use]
    pub fn revoked(&self, jti: &str) -> bool {
        self.tokens.read().is_some_and(|tokens| tokens.contains_key(jti))
    }

    /// Whether what this subject was issued at that time (`iat`) is void.
    #[must_use]
    pub fn void(&self, issuer: &str, subject: &str, iat: i64) -> bool {
        let Some(issuers) = self.subjects.read() else { return false };
        issuers.get(issuer).and_then(|subjects| subjects.get(subject)).is_some_and(|before| iat < before.issued)
    }

    /// The rights of a user, where they are newer than `version`.
    #[must_use]
    pub fn newer_rights(&self, user: UserId, version: u64) -> Option<Arc<Authorization>> {
        let users = self.authorizations.read()?;
        users.get(&user).filter(|(rights, _)| rights.version > version).map(|(rights, _)| Arc::clone(rights))
    }

    /// Whether any user's rights are held: spares the look for which an id would have to be read first.
    #[must_use]
    pub fn holds_rights(&self) -> bool {
        self.authorizations.len() > 0
    }

    /// These are all rights there are: the store holds another history than it did, in which some may have gone back to
    /// an older version of theirs. All at once: while it was read, the old ones still counted.
    pub fn put_rights(&self, rights: Vec<(Authorization, Expiry)>) {
        self.authorizations.change(|users| {
            users.clear();
            for (rights, until) in rights {
                take_rights(users, &rights, until);
            }
        });
    }

    /// The feed has been read to its end, by a reading that began at `tick`. Gives whether the one before failed.
    pub fn is_current(&self, tick: Tick) -> bool {
        self.read.fetch_max(tick.nanos(), Ordering::Release);
        self.failing.swap(false, Ordering::AcqRel)
    }

    /// The feed could not be read. Gives whether the reading before failed too.
    pub fn is_cut_off(&self) -> bool {
        self.failing.swap(true, Ordering::AcqRel)
    }

    /// How old the knowledge is.
    #[must_use]
    pub fn age(&self, now: Tick) -> Duration {
        now.since(Tick::from_nanos(self.read.load(Ordering::Acquire)))
    }

    /// How old it is while it cannot be renewed; zero while it can, within a second.
    #[must_use]
    pub fn staleness(&self, now: Tick) -> Duration {
        if self.failing.load(Ordering::Acquire) { self.age(now) } else { Duration::ZERO }
    }

    /// Forgets what no unexpired token can be concerned by.
    pub fn prune(&self, now: Timestamp, tick: Tick) {
        let live = |until: &Expiry| !until.is_over(now, tick);
        self.sessions.prune(now, tick);
        if self.tokens.len() > 0 {
            self.tokens.change(|tokens| tokens.retain(|_, until| live(until)));
        }
        if self.subjects.len() > 0 {
            self.subjects.change(|issuers| {
                issuers.retain(|_, subjects| {
                    subjects.retain(|_, before| live(&before.until));
                    !subjects.is_empty()
                });
            });
        }
        if self.authorizations.len() > 0 {
            self.authorizations.change(|users| users.retain(|_, (_, until)| live(until)));
        }
        if self.api_keys.len() > 0 {
            self.api_keys.change(|keys| keys.retain(|_, until| live(until)));
        }
    }

    /// How much is held.
    #[must_use]
    pub fn held(&self) -> Held {
        let subjects = self.subjects.read().map_or(0, |issuers| issuers.values().map(HashMap::len).sum());
        Held {
            sessions: self.sessions.len(),
            tokens: self.tokens.len(),
            subjects,
            authorizations: self.authorizations.len(),
            api_keys: self.api_keys.len(),
        }
    }
}

/// The newest count.
fn take_rights(users: &mut HashMap<UserId, (Arc<Authorization>, Expiry)>, rights: &Authorization, until: Expiry) {
    let kept = users.entry(rights.user).or_insert_with(|| (Arc::new(rights.clone()), until));
    if kept.0.version < rights.version {
        *kept = (Arc::new(rights.clone()), until.later(kept.1));
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::store::feed::SubjectBefore;

    fn until(seconds: i64) -> Expiry {
        let tick = Tick::from_nanos(u64::try_from(seconds).unwrap() * 1_000_000_000);
        Expiry { at: Timestamp::from_seconds(seconds), tick }
    }

    fn prune(known: &Revocations, seconds: i64) {
        known.prune(until(seconds).at, until(seconds).tick);
    }

    fn rights(version: u64, role: &str) -> News {
        News::Authorization(Authorization {
            user: UserId(Uuid::from_u128(7)),
            version,
            roles: vec![role.to_owned()],
            scopes: Vec::new(),
            org: None,
        })
    }

    fn before(subject: &str, before: i64) -> News {
        News::SubjectBefore(SubjectBefore { issuer: "https://idp.test".into(), subject: subject.into(), before })
    }

    #[test]
    fn one_token_is_revoked_and_no_other() {
        let known = Revocations::default();
        assert!(!known.revoked("a"));
        known.learn(&News::Token("a".into()), until(10));
        assert!(known.revoked("a") && !known.revoked("b"));
        prune(&known, 9);
        assert!(known.revoked("a"));
        prune(&known, 10);
        assert_eq!((known.revoked("a"), known.held().tokens), (false, 0));
    }

    #[test]
    fn an_api_key_is_revoked_for_as_long_as_an_older_look_at_it_counts() {
        let known = Revocations::default();
        let (one, other) = (ApiKeyId(Uuid::from_u128(1)), ApiKeyId(Uuid::from_u128(2)));
        known.learn(&News::ApiKey(one), until(10));
        known.learn(&News::ApiKey(one), until(5));
        assert!(known.api_key_revoked(one) && !known.api_key_revoked(other));
        prune(&known, 9);
        assert_eq!((known.api_key_revoked(one), known.held().api_keys), (true, 1));
        prune(&known, 10);
        assert_eq!((known.api_key_revoked(one), known.held().api_keys), (false, 0));
    }

    #[test]
    fn a_subject_s_tokens_are_void_up_to_the_latest_moment_that_was_said() {
        let known = Revocations::default();
        for said in [50, 40] {
            known.learn(&before("idp:ann", said), until(100));
        }
        let void = |subject, issued| known.void("https://idp.test", subject, issued);
        assert!(void("idp:ann", 49) && !void("idp:ann", 50) && !void("idp:bob", 1));
        assert!(!known.void("https://other.test", "idp:ann", 1));
        known.learn(&before("idp:bob", 10), until(200));
        prune(&known, 150);
        assert_eq!((void("idp:ann", 1), void("idp:bob", 1), known.held().subjects), (false, true, 1));
    }

    #[test]
    fn the_newest_rights_count_in_whatever_order_they_come() {
        let known = Revocations::default();
        let user = UserId(Uuid::from_u128(7));
        assert!(known.newer_rights(user, 0).is_none() && !known.holds_rights());
        for (version, role) in [(3, "admin"), (4, "user"), (2, "analyst")] {
            known.learn(&rights(version, role), until(10));
        }
        assert_eq!(known.newer_rights(user, 3).unwrap().roles, ["user"]);
        assert!(known.newer_rights(user, 4).is_none());
        assert!(known.newer_rights(UserId(Uuid::from_u128(8)), 0).is_none());
        let News::Authorization(older) = rights(2, "analyst") else { panic!("rights") };
        known.put_rights(vec![(older, until(10))]);
        assert_eq!(known.newer_rights(user, 1).unwrap().roles, ["analyst"]);
        prune(&known, 10);
        assert!(!known.holds_rights());
    }

    #[test]
    fn the_age_is_that_of_the_latest_reading_and_matters_once_reading_fails() {
        let known = Revocations::default();
        assert!(!known.is_current(until(50).tick));
        let _ = known.is_current(until(40).tick);
        assert_eq!(
            (known.age(until(80).tick), known.staleness(until(80).tick)),
            (Duration::from_secs(30), Duration::ZERO)
        );
        assert_eq!(known.age(until(10).tick), Duration::ZERO);
        assert!(!known.is_cut_off() && known.is_cut_off());
        assert_eq!(known.staleness(until(80).tick), Duration::from_secs(30));
        assert!(known.is_current(until(81).tick));
        assert_eq!(known.staleness(until(99).tick), Duration::ZERO);
    }
}
