//! Facts that outlive a request: users, sessions, signing keys, audit.
//!
//! This file is the contract: plain row types and one trait shaped by what the portal does, so that a cause and its
//! audit row are always one transaction. `sql/` keeps it on PostgreSQL and SQLite from one body; `memory/` holds what
//! may be lost with the process (limit counters, ended sessions); `redis/` counts the limits that several gateways
//! share and wakes gateways, and `limits` decides which of the two is asked. `feed` is what gateways tell each other. `calls` tells a request's trace what it waited for. Callers
//! never see SQL or a driver's error: a [`StoreFault`] says only whether the store is lost or a row makes no sense. The
//! contract suite in `tests/contract/` holds every engine to the comments below.

pub mod calls;
pub mod feed;
pub mod limits;
pub mod master_key;
pub mod memory;
pub mod redis;
pub mod sql;

use std::sync::Arc;

use async_trait::async_trait;
use secrecy::SecretString;

use crate::{
    clock::Timestamp,
    policy::{
        ids::{SessionId, UserId},
        key_life::{KeyRules, Order, Step},
        keys::Algorithm,
        refresh::{Delivery, RefreshRules},
    },
    store::feed::{FeedPage, FeedPosition, FeedReach, SubjectBefore},
};

pub use crate::policy::key_life::{KeyLife, KeyState};

/// A store, shared by everything that acts.
pub type SharedStore = Arc<dyn Store>;

/// Why a store call failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreFault {
    /// No connection, a time-out, a broken server: try again later. 503, never 401.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// A row contradicts the schema's promises; our fault or a hand in the database. 500.
    #[error("the store holds an inconsistent row: {0}")]
    Inconsistent(String),
}

/// Connections of the store's pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolStats {
    /// Waiting for work.
    pub idle: usize,
    /// At work.
    pub busy: usize,
}

/// A user as the portal shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// For ever the same.
    pub id: UserId,
    /// As typed at registration (NFC, trimmed); unique regardless of case.
    pub email: String,
    /// Whether the address was proven.
    pub email_verified: bool,
    /// Unique regardless of case; `None`: logs in by e-mail only.
    pub username: Option<String>,
    /// Free text for people.
    pub full_name: Option<String>,
    /// Role names, at least one, the highest first.
    pub roles: Vec<String>,
    /// Active organisation.
    pub org: Option<String>,
    /// An inactive account cannot log in or refresh.
    pub active: bool,
    /// Grows with every change of roles, scopes or organisation; the `av` claim.
    pub authorization_version: u64,
    /// When it was registered.
    pub created_at: Timestamp,
    /// Last successful login.
    pub last_login_at: Option<Timestamp>,
}

/// How a person names an account when logging in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// By e-mail, any case.
    Email(String),
    /// By username, any case.
    Username(String),
}

/// A new account.
#[derive(Debug)]
pub struct NewAccount {
    /// Its id, made by the caller.
    pub id: UserId,
    /// Checked and normalised.
    pub email: String,
    /// Checked.
    pub username: Option<String>,
    /// Checked.
    pub full_name: Option<String>,
    /// argon2id PHC string.
    pub password_hash: SecretString,
    /// Role names, highest first.
    pub roles: Vec<String>,
    /// Now.
    pub created_at: Timestamp,
}

/// A new session: one login on one device.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// Its id, made by the caller.
    pub id: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// 32 random bytes the refresh MAC key is derived with.
    pub salt: [u8; 32],
    /// How its refresh token travels.
    pub delivery: Delivery,
    /// `amr` values (RFC 8176).
    pub methods: Vec<String>,
    /// `User-Agent`, cut to 256 characters.
    pub user_agent: Option<String>,
    /// Client address, as text.
    pub address: String,
    /// Now.
    pub created_at: Timestamp,
}

/// A session row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// Refresh MAC salt.
    pub salt: [u8; 32],
    /// How its refresh token travels.
    pub delivery: Delivery,
    /// `amr` values.
    pub methods: Vec<String>,
    /// Counter of the newest refresh token; 1 after login.
    pub counter: u64,
    /// Highest generation whose access token any gateway has seen used; 0: none.
    pub seen_generation: u64,
    /// Login time; also `auth_time`.
    pub created_at: Timestamp,
    /// Last rotation (or login).
    pub rotated_at: Timestamp,
    /// Ended by logout or reuse.
    pub ended_at: Option<Timestamp>,
}

/// What came of a refresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefreshOutcome {
    /// Rotated, or the same successor again: mint for `session.counter`.
    Granted {
        /// The session after the step.
        session: Session,
        /// Its owner, active.
        account: Box<Account>,
        /// True when an earlier answer was repeated.
        repeated: bool,
    },
    /// Older than the grace allows: the session was ended in this very transaction.
    Reused {
        /// Whose session it was.
        user: UserId,
    },
    /// Unknown session, ended, expired, inactive account, or a counter never issued.
    Refused,
}

/// What happened, to whom, from where: one row, written in its cause's transaction. Never a secret.
#[derive(Debug, Clone)]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// What, e.g. `login_succeeded`.
    pub event: AuditEvent,
    /// Whom it concerns, when known.
    pub user: Option<UserId>,
    /// Which session, when there is one.
    pub session: Option<SessionId>,
    /// Client address.
    pub address: String,
    /// The request's id.
    pub request_id: String,
}

macro_rules! audit_events {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// The closed list of audited events.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum AuditEvent {
            $($(#[$doc])* $name,)*
        }

        impl AuditEvent {
            /// Every event, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable word in the table.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }
        }
    };
}

audit_events! {
    /// An account was made.
    Registered = "registered",
    /// A login succeeded.
    LoginSucceeded = "login_succeeded",
    /// A login failed.
    LoginFailed = "login_failed",
    /// A session was refreshed.
    Refreshed = "refreshed",
    /// An old refresh token came back.
    RefreshReuseDetected = "refresh_reuse_detected",
    /// A refresh token came whose counter was never issued.
    RefreshAhead = "refresh_ahead",
    /// A session was ended by its owner.
    LoggedOut = "logged_out",
    /// A profile was changed.
    ProfileChanged = "profile_changed",
    /// An access token, or all of a subject's, was revoked.
    TokenRevoked = "token_revoked",
    /// A user was given other roles or another organisation.
    AuthorizationChanged = "authorization_changed",
    /// A signing key was made and published.
    KeyPublished = "key_published",
    /// A signing key began to sign.
    KeyActivated = "key_activated",
    /// A signing key was removed: the last token it signed is over, or somebody said so.
    KeyRetired = "key_retired",
}

/// Why an account could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum AccountFault {
    /// The e-mail is taken.
    #[error("the e-mail address is taken")]
    EmailTaken,
    /// The username is taken.
    #[error("the username is taken")]
    UsernameTaken,
    /// No such account (it was deleted meanwhile).
    #[error("there is no such account")]
    Missing,
    /// See [`StoreFault`].
    #[error(transparent)]
    Store(#[from] StoreFault),
}

/// Tokens to be refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revocation {
    /// One access token of ours, by its `jti`.
    Token(String),
    /// What a subject was issued before a moment.
    SubjectBefore(SubjectBefore),
}

/// Fields a user may change; `None`: leave as it is, `Some(None)`: clear.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProfilePatch {
    /// New full name.
    pub full_name: Option<Option<String>>,
    /// New username.
    pub username: Option<Option<String>>,
}

/// A signing key as it lies in the store: the private part sealed under the master key.
#[derive(Debug, Clone)]
pub struct StoredKey {
    /// Who it is and where it stands. Its row is its publication: whoever reads the table publishes what is there.
    pub life: KeyLife,
    /// PKCS#8, sealed; associated data: purpose and `kid`.
    pub sealed_pkcs8: Vec<u8>,
}

/// A signing key that was made and is not in the store yet.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// `kid`.
    pub kid: String,
    /// Its one algorithm.
    pub algorithm: Algorithm,
    /// As in [`StoredKey`].
    pub sealed_pkcs8: Vec<u8>,
}

/// What is asked of the signing keys.
#[derive(Debug, Clone, Copy)]
pub struct KeyAsk<'a> {
    /// What.
    pub order: Order<'a>,
    /// The algorithms that something is signed with.
    pub needed: &'a [Algorithm],
    /// When keys change.
    pub rules: &'a KeyRules,
    /// Now.
    pub now: Timestamp,
    /// Who asks, for the audit: `gateway`, or the command.
    pub by: &'a str,
}

/// What came of it.
#[derive(Debug, Clone)]
pub enum KeysAdvanced {
    /// These steps were taken, perhaps none; the keys there are now.
    Done(Vec<Step>, Vec<StoredKey>),
    /// Nothing was done: new keys of these algorithms are needed, and were not all given.
    Needs(Vec<Algorithm>),
}

/// The facts that outlive a request.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// How many connections wait and work.
    fn pool(&self) -> PoolStats;

    /// Answers when the store can be read.
    async fn ping(&self) -> Result<(), StoreFault>;

    /// Makes an account, its first session and both audit rows (`registered`, `login_succeeded`) in one transaction;
    /// sets `last_login_at`. Nothing is written when the e-mail or username is taken.
    async fn register(
        &self,
        account: &NewAccount,
        session: &NewSession,
        audit: &AuditEntry,
    ) -> Result<Account, AccountFault>;

    /// The account a login names, with its password hash.
    async fn find_login(&self, login: &Login) -> Result<Option<(Account, SecretString)>, StoreFault>;

    /// Puts `new` in the place of `old`, another hash of the same password, if that is still the account's hash; gives
    /// whether it was. A password changed meanwhile stays changed. No audit row: to its owner nothing has happened.
    async fn upgrade_password_hash(
        &self,
        id: UserId,
        old: &SecretString,
        new: &SecretString,
    ) -> Result<bool, StoreFault>;

    /// An account by id.
    async fn account(&self, id: UserId) -> Result<Option<Account>, StoreFault>;

    /// Changes what the patch names and writes the audit row, in one transaction.
    async fn update_profile(
        &self,
        id: UserId,
        patch: &ProfilePatch,
        audit: &AuditEntry,
    ) -> Result<Account, AccountFault>;

    /// Opens a session for an account that is active at this moment, sets `last_login_at`, writes the audit row, in
    /// one transaction. Gives the account as it is then; `None` when it is no longer active (nothing written).
    async fn open_session(&self, session: &NewSession, audit: &AuditEntry) -> Result<Option<Account>, StoreFault>;

    /// A session by id, ended or not.
    async fn session(&self, id: SessionId) -> Result<Option<Session>, StoreFault>;

    /// Takes one refresh step under the row's lock, deciding by [`crate::policy::refresh::decide`]. The caller has
    /// checked the token's MAC; `audit.at` is now. Writes the audit row `refreshed`, `refresh_reuse_detected` or
    /// `refresh_ahead` (none when refused for another cause) and commits, the kill of a reuse included.
    async fn refresh(
        &self,
        id: SessionId,
        counter: u64,
        rules: &RefreshRules,
        audit: &AuditEntry,
    ) -> Result<RefreshOutcome, StoreFault>;

    /// Notes that an access token of this generation was used. Never lowers it.
    async fn note_generation_seen(&self, id: SessionId, generation: u64) -> Result<(), StoreFault>;

    /// Ends one session (`all == false`) or every live session of its user, and writes the audit row. Gives the ids
    /// that were live until now; empty when there was nothing to end (no audit row then).
    async fn end_sessions(&self, id: SessionId, all: bool, audit: &AuditEntry) -> Result<Vec<SessionId>, StoreFault>;

    /// What the feed says after `from`, at most `most` entries that matter by `reach`. `None`: `from` is in no history that
    /// this store holds (it was restored, or an older server took over; or the entry was pruned); read from
    /// [`FeedPosition::START`] then, which is in each.
    async fn feed(&self, from: &FeedPosition, reach: FeedReach, most: u32) -> Result<Option<FeedPage>, StoreFault>;

    /// Calls `wake` when the feed may have grown, as long as it can: a wake-up may be lost, and none says what happened.
    /// Ends when the store has no way to call.
    async fn feed_wakes(&self, wake: &(dyn Fn() + Send + Sync)) -> Result<(), StoreFault>;

    /// Forgets some of the entries that do not matter by `reach`, the oldest first; gives how many, 0 once none is left.
    async fn prune_feed(&self, reach: FeedReach) -> Result<u64, StoreFault>;

    /// Has every gateway refuse one access token, or a subject's tokens of before a moment, `until` the last of them has
    /// expired, and writes the audit row. (Sessions end by [`Self::end_sessions`].)
    async fn revoke(&self, what: &Revocation, until: Timestamp, audit: &AuditEntry) -> Result<(), StoreFault>;

    /// Gives a user these roles and this organisation, with a new authorization version, tells every gateway, and writes
    /// the audit row, in one transaction. Roles: at least one, the highest first. Changes nothing, the version neither,
    /// when they are the same already.
    async fn change_authorization(
        &self,
        id: UserId,
        roles: &[String],
        org: Option<&str>,
        audit: &AuditEntry,
    ) -> Result<Account, AccountFault>;

    /// Appends one audit row that has no other cause to share a transaction with (a failed login).
    async fn append_audit(&self, audit: &AuditEntry) -> Result<(), StoreFault>;

    /// Audit rows of a user, oldest first, at most `limit`.
    async fn audit_of(&self, user: UserId, limit: u32) -> Result<Vec<AuditEntry>, StoreFault>;

    /// Every signing key.
    async fn signing_keys(&self) -> Result<Vec<StoredKey>, StoreFault>;

    /// Takes the steps that [`crate::policy::key_life::plan`] finds for `ask`, decided under the table's lock, all in one
    /// transaction with an audit row each (`key_published`, `key_activated`, `key_retired`). New keys come from `spares`;
    /// what of them is not needed is forgotten. However many ask at once, each step is taken once.
    async fn advance_signing_keys(&self, ask: &KeyAsk<'_>, spares: &[NewKey]) -> Result<KeysAdvanced, StoreFault>;
}
