//! Facts that outlive a request: users, sessions, signing keys, audit.
//!
//! This file is the contract: plain row types and one trait shaped by what the portal does, so that a cause and its
//! audit row are always one transaction. `sql/` keeps it on PostgreSQL and SQLite from one body; `memory/` holds what
//! may be lost with the process (limit counters, leases, what was revoked); `redis/` counts the limits that several
//! gateways share and wakes gateways, and `limits` decides which of the two is asked. `feed` is what gateways tell each
//! other. `audit` is what a row of the audit says, `security` who hears of some of them at once. `calls` tells a
//! request's trace what it waited for. Callers never see SQL or a driver's error: a [`StoreFault`] says only whether
//! the store is lost or a row makes no sense. The contract suite in `tests/contract/` holds every engine to the
//! comments below.

pub mod audit;
pub mod calls;
pub mod feed;
pub mod limits;
pub mod master_key;
pub mod memory;
pub mod redis;
pub mod security;
pub mod sql;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use async_trait::async_trait;
use secrecy::SecretString;
use uuid::Uuid;

use self::{
    audit::{Actor, AuditQuery, AuditRow, Sealed, Sealing},
    security::Message,
};
use crate::{
    clock::Timestamp,
    policy::{
        audit_chain::{ChainRow, Seal},
        ids::{SessionId, UserId},
        key_life::{KeyRules, Order, Step},
        keys::Algorithm,
        refresh::{Delivery, RefreshRules, SessionFacts},
    },
    store::feed::{FeedPage, FeedPosition, FeedReach, SubjectBefore},
};

pub use self::audit::{AuditEntry, AuditEvent};
pub use crate::policy::key_life::{KeyLife, KeyState};

/// A store, shared by everything that acts.
pub type SharedStore = Arc<dyn Store>;

/// How exact a session's last use is kept: a write for each would be one for each request.
pub const NOTED_EVERY: Duration = Duration::from_mins(1);

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
    /// `User-Agent` of the login, cut to 256 characters.
    pub user_agent: Option<String>,
    /// Client address of the login, as text.
    pub address: String,
    /// Counter of the newest refresh token; 1 after login.
    pub counter: u64,
    /// Highest generation whose access token any gateway has seen used; 0: none.
    pub seen_generation: u64,
    /// Login time; also `auth_time`.
    pub created_at: Timestamp,
    /// Last rotation (or login).
    pub rotated_at: Timestamp,
    /// When the newest refresh token was last handed out while nobody was known to have used it.
    pub handed_out_at: Timestamp,
    /// Login, last rotation, or last use of an access token that was noted, whichever is latest.
    pub last_seen_at: Timestamp,
    /// Ended by logout, reuse or the limit of sessions.
    pub ended_at: Option<Timestamp>,
}

impl Session {
    /// What its refresh tokens are judged by; `active`: whether its account may refresh.
    #[must_use]
    pub const fn facts(&self, active: bool) -> SessionFacts {
        SessionFacts {
            counter: self.counter,
            seen_generation: self.seen_generation,
            created_at: self.created_at,
            rotated_at: self.rotated_at,
            handed_out_at: self.handed_out_at,
            ended: self.ended_at.is_some(),
            active,
        }
    }
}

/// How many live sessions a user may have, and which ones live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLimit {
    /// At most so many; `None`: any number.
    pub most: Option<NonZeroU32>,
    /// When a session has ended by itself.
    pub rules: RefreshRules,
}

/// What came of opening a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Whose it is, as it is then.
    pub account: Account,
    /// The user's older sessions that had to end for it.
    pub ended: Vec<SessionId>,
}

/// An access token that was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Of this session.
    pub session: SessionId,
    /// Its generation.
    pub generation: u64,
}

/// What came of a refresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefreshOutcome {
    /// Rotated, or the same successor again: mint for `session.counter`.
    Granted {
        /// The session after the step.
        session: Box<Session>,
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
    /// Who asks, for the audit.
    pub by: &'a Actor,
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
    /// one transaction. A second row (`new_device`) when this user has had sessions, but none with this user agent. `None`
    /// when it is no longer active (nothing written). In that same transaction, the user's oldest
    /// live sessions beyond the limit end, each with its audit row `session_limit`; at most a thousand at once, should
    /// there ever be so many more. However many log in at once, no more than the limit are left.
    async fn open_session(
        &self,
        session: &NewSession,
        limit: &SessionLimit,
        audit: &AuditEntry,
    ) -> Result<Option<Opened>, StoreFault>;

    /// The user's live sessions, the newest first, at most `most`: not ended, nor run out at `now`.
    async fn live_sessions(
        &self,
        user: UserId,
        rules: &RefreshRules,
        now: Timestamp,
        most: u32,
    ) -> Result<Vec<Session>, StoreFault>;

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

    /// Notes that access tokens were used at `now`, in one transaction. A session's generation never falls, its last use
    /// never goes back and is not moved for less than [`NOTED_EVERY`].
    async fn note_uses(&self, uses: &[Use], now: Timestamp) -> Result<(), StoreFault>;

    /// Ends one session (`all == false`) or every live session of its user, and writes an audit row for each. Gives the
    /// ids that were live until now; empty when there was nothing to end (no audit row then).
    async fn end_sessions(&self, id: SessionId, all: bool, audit: &AuditEntry) -> Result<Vec<SessionId>, StoreFault>;

    /// The same for every live session of its user but itself.
    async fn end_other_sessions(&self, id: SessionId, audit: &AuditEntry) -> Result<Vec<SessionId>, StoreFault>;

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
    async fn audit_of(&self, user: UserId, limit: u32) -> Result<Vec<AuditRow>, StoreFault>;

    /// Audit rows that fit, newest first, at most `limit`.
    async fn audit_rows(&self, wanted: &AuditQuery, limit: u32) -> Result<Vec<AuditRow>, StoreFault>;

    /// Seals the oldest rows that are not sealed yet, at most [`Sealing::most`]: each gets its place in the chain. Several
    /// gateways make one chain; whoever comes while another is at it does nothing.
    async fn seal_audit(&self, sealing: &Sealing<'_>) -> Result<Sealed, StoreFault>;

    /// Rows of the chain after this position, in its order, at most `limit`.
    async fn audit_chain(&self, after: u64, limit: u32) -> Result<Vec<ChainRow>, StoreFault>;

    /// Seals of rows after this position, in their order, at most `limit`.
    async fn audit_seals(&self, after: u64, limit: u32) -> Result<Vec<Seal>, StoreFault>;

    /// The newest seal.
    async fn last_audit_seal(&self) -> Result<Option<Seal>, StoreFault>;

    /// Rows that are not sealed yet, with a greater number than `after`, by their numbers, at most `limit`.
    async fn unsealed_audit(&self, after: u64, limit: u32) -> Result<Vec<AuditRow>, StoreFault>;

    /// Erases who, from where and the particulars from every row of a user, and appends a row (`audit_erased`) that says
    /// how many there were, in one transaction. The chain stays whole. Gives the number; no row when it is 0.
    async fn erase_audit_of(&self, user: UserId, audit: &AuditEntry) -> Result<u64, StoreFault>;

    /// The same for a subject of another issuer: rows of what it did, and of what was revoked of it.
    async fn erase_audit_of_subject(&self, subject: &str, audit: &AuditEntry) -> Result<u64, StoreFault>;

    /// Messages of a webhook that are due, the most overdue first, at most `most`; nobody else is given them before
    /// `until`.
    async fn claim_webhook_messages(
        &self,
        webhook: &str,
        now: Timestamp,
        until: Timestamp,
        most: u32,
    ) -> Result<Vec<Message>, StoreFault>;

    /// A message that was claimed is due again then, unless somebody else has claimed it since.
    async fn retry_webhook(&self, webhook: &str, message: &Message, at: Timestamp) -> Result<(), StoreFault>;

    /// Drops a message; gives whether it was still there.
    async fn webhook_delivered(&self, webhook: &str, id: Uuid) -> Result<bool, StoreFault>;

    /// Drops a message that will not be delivered, if it is still there, and then writes the audit row.
    async fn webhook_given_up(&self, webhook: &str, id: Uuid, audit: &AuditEntry) -> Result<(), StoreFault>;

    /// Drops all but the newest `keep` messages of a webhook, and any webhook's from before a moment. Gives how many.
    async fn trim_webhook_messages(&self, webhook: &str, keep: u32, before: Timestamp) -> Result<u64, StoreFault>;

    /// Every signing key.
    async fn signing_keys(&self) -> Result<Vec<StoredKey>, StoreFault>;

    /// Takes the steps that [`crate::policy::key_life::plan`] finds for `ask`, decided under the table's lock, all in one
    /// transaction with an audit row each (`key_published`, `key_activated`, `key_retired`). New keys come from `spares`;
    /// what of them is not needed is forgotten. However many ask at once, each step is taken once.
    async fn advance_signing_keys(&self, ask: &KeyAsk<'_>, spares: &[NewKey]) -> Result<KeysAdvanced, StoreFault>;
}
