//! Facts that outlive a request: users, sessions, API keys, signing keys, audit, failed logins, what is used of quotas.
//!
//! This file is the contract: plain row types and one trait shaped by what the portal does, so that a cause and its
//! audit row are always one transaction. `sql/` keeps it on PostgreSQL and SQLite from one body; `memory/` holds what
//! may be lost with the process (limit counters, leases, what was revoked, what floods); `redis/` counts the limits
//! that several gateways share and wakes gateways, and `limits` decides which of the two is asked. `feed` is what
//! gateways tell each other. `sessions`, `keys` and `api_keys` are rows of those, `audit` is what a row of the audit
//! says, `security` who hears of some of them at once. `lockouts` counts failures to log in (`lockout_lists` shows what
//! is locked), `quotas` what is used of quotas (`quota_lists` shows it). `calls` tells a request's trace what it waited
//! for. Callers never see SQL or a driver's error: a [`StoreFault`] says only whether the store is lost or a row makes
//! no sense. The contract suite in `tests/contract/` holds every engine to the comments below.

pub mod api_keys;
pub mod audit;
pub mod calls;
pub mod feed;
pub mod keys;
pub mod limits;
pub mod lockout_lists;
pub mod lockouts;
pub mod master_key;
pub mod memory;
pub mod quota_lists;
pub mod quotas;
pub mod redis;
pub mod security;
pub mod sessions;
pub mod sql;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use secrecy::SecretString;
use uuid::Uuid;

use self::{
    audit::{AuditQuery, AuditRow, Sealed, Sealing},
    security::Message,
};
use crate::{
    clock::Timestamp,
    policy::{
        audit_chain::{ChainRow, Seal},
        ids::{SessionId, UserId},
        refresh::RefreshRules,
    },
    store::feed::{FeedPage, FeedPosition, FeedReach, SubjectBefore},
};

pub use self::{
    audit::{AuditEntry, AuditEvent},
    keys::{KeyAsk, KeyLife, KeyState, KeysAdvanced, NewKey, StoredKey},
    sessions::{NewSession, Opened, RefreshOutcome, Session, SessionLimit, Use},
};

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

/// The facts that outlive a request.
#[async_trait]
pub trait Store:
    api_keys::ApiKeys + lockout_lists::LockoutLists + quota_lists::QuotaLists + Send + Sync + 'static
{
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
