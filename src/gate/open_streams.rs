//! What flows for a caller right now, so that it can be ended with the caller's right to it: answers, uploads, tunnels.
//!
//! A stream is entered when it first has to wait or goes on past its first piece ([`Tether`]): what is there at once
//! pays one branch. An entry costs an allocation and a shard's lock, held for a push; there are never more than
//! requests. Shards go by session, so that ending one looks at a fraction of the entries; what is ended by token or
//! subject, which is rare, looks at all of them.
//!
//! Nobody is missed between a look and an entry: who enters asks afterwards whether the right is gone, who takes it
//! away looks through the entries afterwards; a regular look ([`OpenStreams::look_again`]) would find whatever else
//! there is.

use std::{
    array,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    task::Context,
    time::Duration,
};

use futures_util::task::AtomicWaker;

use crate::{
    clock::Timestamp,
    gate::caller::{Caller, Signer},
    policy::{
        ids::{ApiKeyId, SessionId},
        reason::Reason,
        standing::Standing,
    },
    telemetry::metrics::{Metrics, StreamKind},
};

const SHARDS: usize = 64;

/// Why a caller's right is gone, if it is known here to be.
pub type Revoked = Box<dyn Fn(&Caller) -> Option<Reason> + Send + Sync>;

/// How long streams outlive the access token they were opened with.
#[derive(Debug, Clone, Copy)]
pub struct Forgiven {
    /// Clock skew, as for tokens.
    pub leeway: Duration,
    /// What a client of ours may take to refresh its session. Other issuers' tokens have none: nothing refreshes them here.
    pub grace: Duration,
}

/// Every open stream of a caller with a token.
pub struct OpenStreams {
    shards: [Mutex<Vec<Arc<Entry>>>; SHARDS],
    revoked: Revoked,
    forgiven: Forgiven,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for OpenStreams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenStreams").finish_non_exhaustive()
    }
}

/// One open stream.
#[derive(Debug)]
pub struct Entry {
    caller: Arc<Caller>,
    kind: StreamKind,
    /// Where it is in its shard; under the shard's lock.
    place: AtomicUsize,
    /// When somebody must ask whether it may go on: microseconds of civil time.
    due: AtomicI64,
    cut: OnceLock<Reason>,
    waker: AtomicWaker,
}

impl Entry {
    /// Why it must end, once it must.
    #[must_use]
    pub fn cut(&self) -> Option<Reason> {
        self.cut.get().copied()
    }

    fn session(&self) -> Option<SessionId> {
        match self.caller.signer() {
            Signer::Own(session) => Some(*session),
            Signer::Foreign(_) | Signer::ApiKey(_) => None,
        }
    }

    fn is_due(&self, now: Timestamp) -> bool {
        self.due.load(Ordering::Relaxed) <= now.micros()
    }
}

/// A stream that is entered, until dropped.
#[derive(Debug)]
pub struct Open {
    streams: Arc<OpenStreams>,
    entry: Arc<Entry>,
}

impl Open {
    /// The entry, for whoever else must know when it is cut.
    #[must_use]
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// Why it must end; else the task will be woken when it must.
    pub fn poll_cut(&self, cx: &mut Context<'_>) -> Option<Reason> {
        self.entry.waker.register(cx.waker());
        self.entry.cut()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut shard = self.streams.shard(&self.entry);
        let place = self.entry.place.load(Ordering::Relaxed);
        shard.swap_remove(place);
        if let Some(moved) = shard.get(place) {
            moved.place.store(place, Ordering::Relaxed);
        }
        drop(shard);
        self.streams.metrics.open_streams.of(self.entry.kind).dec();
    }
}

impl OpenStreams {
    /// None yet. `revoked` is asked of every stream that is entered, and at each [`Self::look_again`].
    #[must_use]
    pub fn new(revoked: Revoked, forgiven: Forgiven, metrics: Arc<Metrics>) -> Self {
        Self { shards: array::from_fn(|_| Mutex::default()), revoked, forgiven, metrics }
    }

    /// Enters a stream of `caller`'s.
    #[must_use]
    pub fn enter(self: &Arc<Self>, caller: Arc<Caller>, kind: StreamKind) -> Open {
        let mut forgiven = self.forgiven.leeway;
        if matches!(caller.signer(), Signer::Own(_)) {
            forgiven += self.forgiven.grace;
        }
        let due = Timestamp::from_seconds(caller.claims().expires).plus(forgiven);
        let entry = Arc::new(Entry {
            caller,
            kind,
            place: AtomicUsize::new(0),
            due: AtomicI64::new(due.micros()),
            cut: OnceLock::new(),
            waker: AtomicWaker::new(),
        });
        self.metrics.open_streams.of(kind).inc();
        let mut shard = self.shard(&entry);
        entry.place.store(shard.len(), Ordering::Relaxed);
        shard.push(Arc::clone(&entry));
        drop(shard);
        if let Some(why) = (self.revoked)(&entry.caller) {
            self.cut(&entry, why);
        }
        Open { streams: Arc::clone(self), entry }
    }

    /// Ends the streams of a session; gives how many. To be called after the session is refused.
    pub fn end_session(&self, session: SessionId) -> usize {
        self.end_in(place_of(session.0.as_bytes()), Reason::SessionEnded, |entry| entry.session() == Some(session))
    }

    /// Ends the streams that were opened with the token of this `jti`, of our own tokens; gives how many.
    pub fn end_token(&self, jti: &str) -> usize {
        self.end_all(Reason::SessionEnded, |entry| entry.session().is_some() && *entry.caller.claims().token_id == *jti)
    }

    /// Ends the streams that were opened with this API key; gives how many. To be called after the key is refused.
    pub fn end_api_key(&self, key: ApiKeyId) -> usize {
        self.end_all(Reason::ApiKeyRevoked, |entry| entry.caller.api_key() == Some(key))
    }

    /// Ends the streams opened with tokens of this subject that were issued before a moment; gives how many.
    pub fn end_subject(&self, issuer: &str, subject: &str, issued_before: Timestamp) -> usize {
        self.end_all(Reason::SessionEnded, |entry| {
            let claims = entry.caller.claims();
            entry.caller.api_key().is_none()
                && *claims.subject == *subject
                && *claims.issuer == *issuer
                && Timestamp::from_seconds(claims.issued) < issued_before
        })
    }

    /// Looks whether the right to any stream is gone, and ends those.
    pub fn look_again(&self) -> usize {
        let gone = |entry: &&Arc<Entry>| (self.revoked)(&entry.caller).is_some_and(|why| self.cut(entry, why));
        (0..SHARDS).map(|place| self.lock(place).iter().filter(gone).count()).sum()
    }

    /// Ends what another issuer's expired token, or an API key that has run out, had opened: nobody needs to be asked, nor
    /// waited for.
    pub fn end_expired(&self, now: Timestamp) -> usize {
        let expired = |entry: &Entry| entry.session().is_none() && entry.is_due(now);
        self.end_all(Reason::StreamExpired, expired)
    }

    /// Which sessions of ours must be asked after: each once.
    #[must_use]
    pub fn due(&self, now: Timestamp) -> Vec<SessionId> {
        let mut sessions = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let due = shard.iter().filter(|entry| entry.is_due(now) && entry.cut().is_none());
            sessions.extend(due.filter_map(|entry| entry.session()));
        }
        sessions.sort_unstable();
        sessions.dedup();
        sessions
    }

    /// What was learned of a session that was due.
    pub fn settle(&self, session: SessionId, standing: Standing, now: Timestamp) {
        match standing {
            Standing::Until(until) => self.ask_again(session, now, until),
            Standing::Ended => {
                self.end_session(session);
            }
            Standing::Unrefreshed => {
                let shard = self.lock(place_of(session.0.as_bytes()));
                let theirs = |entry: &&Arc<Entry>| entry.session() == Some(session) && entry.is_due(now);
                for entry in shard.iter().filter(theirs) {
                    self.cut(entry, Reason::StreamExpired);
                }
            }
        }
    }

    /// Nobody asks after a session's streams before `again`.
    pub fn ask_again(&self, session: SessionId, now: Timestamp, again: Timestamp) {
        let shard = self.lock(place_of(session.0.as_bytes()));
        for entry in shard.iter().filter(|entry| entry.session() == Some(session) && entry.is_due(now)) {
            entry.due.store(again.micros(), Ordering::Relaxed);
        }
    }

    fn end_all(&self, why: Reason, ends: impl Fn(&Entry) -> bool) -> usize {
        (0..SHARDS).map(|place| self.end_in(place, why, &ends)).sum()
    }

    fn end_in(&self, place: usize, why: Reason, ends: impl Fn(&Entry) -> bool) -> usize {
        let shard = self.lock(place);
        shard.iter().filter(|entry| ends(entry) && self.cut(entry, why)).count()
    }

    /// Whether it was this call that ended it.
    fn cut(&self, entry: &Entry, reason: Reason) -> bool {
        let first = entry.cut.set(reason).is_ok();
        if first {
            self.metrics.streams_cut.of(reason).inc();
            entry.waker.wake();
        }
        first
    }

    fn shard(&self, entry: &Entry) -> MutexGuard<'_, Vec<Arc<Entry>>> {
        self.lock(match entry.session() {
            Some(session) => place_of(session.0.as_bytes()),
            None => place_of(entry.caller.claims().token_id.as_bytes()),
        })
    }

    fn lock(&self, place: usize) -> MutexGuard<'_, Vec<Arc<Entry>>> {
        self.shards[place].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By the last byte, which is random in a version 7 UUID.
fn place_of(id: &[u8]) -> usize {
    id.last().map_or(0, |last| usize::from(*last) % SHARDS)
}

/// What ties a body to its caller's right to it.
#[derive(Debug, Default)]
pub enum Tether {
    /// Nothing: nobody's, or nothing that can be taken away.
    #[default]
    Loose,
    /// A caller's, and not entered: nothing of it has come yet.
    Ready(Arc<Caller>),
    /// The same, and its first piece has come.
    Begun(Arc<Caller>),
    /// Entered.
    Tied(Open),
}

impl Tether {
    /// Of a body of `caller`'s.
    #[must_use]
    pub fn of(caller: Option<Arc<Caller>>) -> Self {
        caller.map_or(Self::Loose, Self::Ready)
    }

    /// Why it must end, if it is known to.
    #[must_use]
    pub fn cut(&self) -> Option<Reason> {
        match self {
            Self::Tied(open) => open.entry.cut(),
            Self::Loose | Self::Ready(_) | Self::Begun(_) => None,
        }
    }

    /// It has to wait: enters it. Gives why it must end; else the task will be woken when it must.
    pub fn waits(&mut self, kind: StreamKind, streams: &Arc<OpenStreams>, cx: &mut Context<'_>) -> Option<Reason> {
        *self = match std::mem::take(self) {
            Self::Ready(caller) | Self::Begun(caller) => Self::Tied(streams.enter(caller, kind)),
            other => other,
        };
        match self {
            Self::Tied(open) => open.poll_cut(cx),
            Self::Loose | Self::Ready(_) | Self::Begun(_) => None,
        }
    }

    /// A piece has come: enters it with the second. Whoever sends without a pause is found out at the next piece.
    pub fn flows(&mut self, kind: StreamKind, streams: &Arc<OpenStreams>) {
        if matches!(self, Self::Ready(_) | Self::Begun(_)) {
            *self = match std::mem::take(self) {
                Self::Ready(caller) => Self::Begun(caller),
                Self::Begun(caller) => Self::Tied(streams.enter(caller, kind)),
                other => other,
            };
        }
    }

    /// The entry, once there is one.
    #[must_use]
    pub fn entry(&self) -> Option<&Arc<Entry>> {
        match self {
            Self::Tied(open) => Some(&open.entry),
            Self::Loose | Self::Ready(_) | Self::Begun(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, thread};

    use uuid::Uuid;

    use super::*;
    use crate::policy::{claims::tests::claims, token::Verified};

    fn sid(number: u128) -> SessionId {
        SessionId(Uuid::from_u128(number))
    }

    /// Of session `number`; expires at 1 900, issued at 1 000.
    fn caller(number: u128) -> Arc<Caller> {
        let mut claims = claims();
        claims.token_id = format!("t-{number}").into();
        let verified = Verified { claims: Arc::new(claims), kid: "k".into() };
        Arc::new(Caller::new(verified, Signer::Own(sid(number)), Timestamp::from_seconds(0)))
    }

    fn streams_that(revoked: impl Fn(&Caller) -> Option<Reason> + Send + Sync + 'static) -> Arc<OpenStreams> {
        let forgiven = Forgiven { leeway: Duration::from_secs(30), grace: Duration::from_mins(1) };
        Arc::new(OpenStreams::new(Box::new(revoked), forgiven, Arc::default()))
    }

    fn streams() -> Arc<OpenStreams> {
        streams_that(|_| None)
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    fn open(streams: &Arc<OpenStreams>, number: u128) -> Open {
        streams.enter(caller(number), StreamKind::Stream)
    }

    #[test]
    fn a_session_s_streams_end_and_its_neighbours_in_the_shard_do_not() {
        let streams = streams();
        let (first, second, other) = (open(&streams, 1), open(&streams, 1), open(&streams, 1 + 64));
        assert_eq!(streams.end_session(sid(1)), 2);
        assert_eq!(streams.end_session(sid(1)), 0, "each ends once");
        assert_eq!([first.entry.cut(), second.entry.cut()], [Some(Reason::SessionEnded); 2]);
        assert_eq!(other.entry.cut(), None);
    }

    #[test]
    fn a_token_or_a_subject_s_older_tokens_end_theirs() {
        let streams = streams();
        let (one, two) = (open(&streams, 1), open(&streams, 2));
        assert_eq!(streams.end_token("t-2"), 1);
        assert_eq!([one.entry.cut(), two.entry.cut()], [None, Some(Reason::SessionEnded)]);
        let (issuer, subject) = (claims().issuer, claims().subject);
        assert_eq!(streams.end_subject(&issuer, &subject, at(1_000)), 0, "issued in that very second");
        assert_eq!(streams.end_subject("https://other.test", &subject, at(1_001)), 0);
        assert_eq!(streams.end_subject(&issuer, &subject, at(1_001)), 1);
    }

    #[test]
    fn who_enters_just_after_the_end_is_ended_too() {
        let ended = Arc::new(Mutex::new(HashSet::new()));
        let known = Arc::clone(&ended);
        let streams = streams_that(move |caller| match caller.signer() {
            Signer::Own(session) => known.lock().unwrap().contains(session).then_some(Reason::SessionEnded),
            Signer::Foreign(_) | Signer::ApiKey(_) => None,
        });
        let before = open(&streams, 1);
        ended.lock().unwrap().insert(sid(1));
        assert_eq!(open(&streams, 1).entry.cut(), Some(Reason::SessionEnded));
        assert_eq!(before.entry.cut(), None, "nobody has looked yet");
        assert_eq!(streams.look_again(), 1);
        assert_eq!(before.entry.cut(), Some(Reason::SessionEnded));
    }

    #[test]
    fn a_session_is_asked_after_once_when_its_token_and_all_that_is_forgiven_are_over() {
        let streams = streams();
        let (_first, _second, _third) = (open(&streams, 1), open(&streams, 1), open(&streams, 2));
        assert!(streams.due(at(1_989)).is_empty());
        assert_eq!(streams.due(at(1_990)), [sid(1), sid(2)]);
        streams.settle(sid(1), Standing::Until(at(2_500)), at(1_990));
        assert_eq!(streams.due(at(1_991)), [sid(2)]);
        assert_eq!(streams.due(at(2_500)), [sid(1), sid(2)]);
    }

    #[test]
    fn an_unrefreshed_session_loses_what_is_due() {
        let streams = streams();
        let open = open(&streams, 1);
        streams.settle(sid(1), Standing::Unrefreshed, at(1_989));
        assert_eq!(open.entry.cut(), None, "not yet");
        streams.settle(sid(1), Standing::Unrefreshed, at(1_990));
        assert_eq!(open.entry.cut(), Some(Reason::StreamExpired));
        assert!(streams.due(at(3_000)).is_empty(), "nobody asks after what has ended");
    }

    #[test]
    fn what_many_threads_enter_and_leave_is_counted_exactly() {
        let streams = streams();
        thread::scope(|scope| {
            for worker in 0..4 {
                let streams = &streams;
                scope.spawn(move || {
                    let mut kept = Vec::new();
                    for number in 0..400 {
                        kept.push(open(streams, worker * 1_000 + number % 7));
                        if number % 3 == 0 {
                            kept.swap_remove(kept.len() / 2);
                        }
                    }
                    assert_eq!(streams.end_session(sid(worker * 1_000)), {
                        kept.iter().filter(|open| open.entry.session() == Some(sid(worker * 1_000))).count()
                    });
                });
            }
        });
        assert!(streams.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
        assert_eq!(streams.metrics.open_streams.of(StreamKind::Stream).get(), 0);
    }
}
