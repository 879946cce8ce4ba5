//! The store on PostgreSQL and SQLite, one body for both.
//!
//! `open` connects and migrates (`migrate`); this file keeps the contract of [`Store`] by giving each call a link, a
//! deadline and an end (commit, roll back); the statements are in `accounts`, `sessions`, `feed`, `keys`, `audit`,
//! `audit_chain`, `outbox`, `lockouts`, `quotas` (with `quota_lists`) and `api_keys`, each written once on `query`'s types. `link` holds the
//! connections, `fault` says what a driver's error means. Only this room names `sqlx`.

mod accounts;
mod api_keys;
mod audit;
mod audit_chain;
mod fault;
mod feed;
mod keys;
mod link;
mod lockouts;
mod migrate;
mod open;
mod outbox;
mod query;
mod quota_lists;
mod quotas;
mod sessions;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use secrecy::SecretString;
use uuid::Uuid;

pub use self::open::{Claim, OpenFault, claim};
use self::{audit::Whose, link::Pools, query::Query};
use crate::{
    clock::Timestamp,
    config::settings,
    policy::{
        audit_chain::{ChainRow, Seal},
        ids::{SessionId, UserId},
        refresh::RefreshRules,
    },
    store::{
        Account, AccountFault, AuditEntry, KeyAsk, KeysAdvanced, Login, NewAccount, NewKey, NewSession, Opened,
        PoolStats, ProfilePatch, RefreshOutcome, Revocation, Session, SessionLimit, SharedStore, Store, StoreFault,
        StoredKey, Use,
        audit::{AuditQuery, AuditRow, Particular, Sealed, Sealing},
        feed::{FeedPage, FeedPosition, FeedReach, News},
        quotas::{QuotaAsk, QuotaGrant, QuotaReturn, QuotaUsage, Quotas},
        security::{Message, SecurityWatch},
    },
};

/// Connects to the store that the settings name, migrates it, and gives it.
pub async fn open(settings: &settings::Store) -> Result<SharedStore, OpenFault> {
    open_watched(settings, None).await
}

/// The same; whoever is given is told of security events.
pub async fn open_watched(
    settings: &settings::Store,
    watch: Option<Arc<SecurityWatch>>,
) -> Result<SharedStore, OpenFault> {
    let pools = open::pools(settings).await?;
    Ok(Arc::new(SqlStore { pools, deadline: settings.timeout, watch }))
}

/// A store on one of the SQL engines.
#[derive(Debug)]
struct SqlStore {
    pools: Pools,
    /// For a whole call, waiting for a connection included.
    deadline: Duration,
    watch: Option<Arc<SecurityWatch>>,
}

impl SqlStore {
    /// Bounds a whole call, so that a server that has stopped answering cannot hold a request.
    async fn within<T, E: From<StoreFault>>(&self, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        tokio::time::timeout(self.deadline, call)
            .await
            .unwrap_or_else(|_| Err(StoreFault::Unavailable(format!("no answer within {:?}", self.deadline)).into()))
    }
}

/// A call that only reads.
macro_rules! read {
    ($store:expr, $link:ident => $call:expr) => {
        $store
            .within(async {
                let mut $link = $store.pools.read().await?;
                let outcome = $call.await;
                $link.settle(outcome)
            })
            .await
    };
}

/// A call in one transaction.
macro_rules! write {
    ($store:expr, $link:ident => $call:expr) => {
        $store
            .within(async {
                let mut $link = $store.pools.write().await?;
                $link.watch.clone_from(&$store.watch);
                let outcome = $call.await;
                $link.finish(outcome).await
            })
            .await
    };
}

pub(in crate::store::sql) use {read, write};

#[async_trait]
impl Quotas for SqlStore {
    async fn take_quota(&self, ask: &QuotaAsk<'_>) -> Result<QuotaGrant, StoreFault> {
        write!(self, link => quotas::take(&mut link, ask))
    }

    async fn return_quota(&self, returns: &[QuotaReturn<'_>]) -> Result<(), StoreFault> {
        write!(self, link => quotas::give_back(&mut link, returns))
    }

    async fn quota_usage(
        &self,
        quota: Option<&str>,
        key: Option<[u8; 16]>,
        now: Timestamp,
        most: u32,
    ) -> Result<Vec<QuotaUsage>, StoreFault> {
        read!(self, link => quotas::usage(&mut link, quota, key, now, most))
    }

    async fn prune_quotas(&self, before: Timestamp) -> Result<u64, StoreFault> {
        write!(self, link => quotas::prune(&mut link, before))
    }
}

#[async_trait]
impl Store for SqlStore {
    fn pool(&self) -> PoolStats {
        self.pools.stats()
    }

    async fn ping(&self) -> Result<(), StoreFault> {
        read!(self, link => async {
            let row = Query::new("SELECT min_reader FROM schema_compat").row(&mut link).await?;
            row.map(drop).ok_or_else(|| StoreFault::Inconsistent("schema_compat is empty".into()))
        })
    }

    async fn register(
        &self,
        account: &NewAccount,
        session: &NewSession,
        audit: &AuditEntry,
    ) -> Result<Account, AccountFault> {
        write!(self, link => accounts::register(&mut link, account, session, audit))
    }

    async fn find_login(&self, login: &Login) -> Result<Option<(Account, SecretString)>, StoreFault> {
        read!(self, link => accounts::by_login(&mut link, login))
    }

    async fn upgrade_password_hash(
        &self,
        id: UserId,
        old: &SecretString,
        new: &SecretString,
    ) -> Result<bool, StoreFault> {
        write!(self, link => accounts::upgrade_password_hash(&mut link, id, old, new))
    }

    async fn account(&self, id: UserId) -> Result<Option<Account>, StoreFault> {
        read!(self, link => accounts::by_id(&mut link, id))
    }

    async fn update_profile(
        &self,
        id: UserId,
        patch: &ProfilePatch,
        audit: &AuditEntry,
    ) -> Result<Account, AccountFault> {
        write!(self, link => accounts::update_profile(&mut link, id, patch, audit))
    }

    async fn open_session(
        &self,
        session: &NewSession,
        limit: &SessionLimit,
        audit: &AuditEntry,
    ) -> Result<Option<Opened>, StoreFault> {
        write!(self, link => accounts::open_session(&mut link, session, limit, audit))
    }

    async fn live_sessions(
        &self,
        user: UserId,
        rules: &RefreshRules,
        now: Timestamp,
        most: u32,
    ) -> Result<Vec<Session>, StoreFault> {
        read!(self, link => sessions::live_of(&mut link, user, rules, now, most))
    }

    async fn session(&self, id: SessionId) -> Result<Option<Session>, StoreFault> {
        read!(self, link => sessions::by_id(&mut link, id))
    }

    async fn refresh(
        &self,
        id: SessionId,
        counter: u64,
        rules: &RefreshRules,
        audit: &AuditEntry,
    ) -> Result<RefreshOutcome, StoreFault> {
        write!(self, link => sessions::refresh(&mut link, id, counter, rules, audit))
    }

    async fn note_uses(&self, uses: &[Use], now: Timestamp) -> Result<(), StoreFault> {
        write!(self, link => sessions::note_uses(&mut link, uses, now))
    }

    async fn end_sessions(&self, id: SessionId, all: bool, audit: &AuditEntry) -> Result<Vec<SessionId>, StoreFault> {
        write!(self, link => sessions::end_sessions(&mut link, id, all, audit))
    }

    async fn end_other_sessions(&self, id: SessionId, audit: &AuditEntry) -> Result<Vec<SessionId>, StoreFault> {
        write!(self, link => sessions::end_other_sessions(&mut link, id, audit))
    }

    async fn feed(&self, from: &FeedPosition, reach: FeedReach, most: u32) -> Result<Option<FeedPage>, StoreFault> {
        read!(self, link => feed::after(&mut link, from, reach, most))
    }

    async fn feed_wakes(&self, wake: &(dyn Fn() + Send + Sync)) -> Result<(), StoreFault> {
        self.pools.listen(feed::CHANNEL, self.deadline, wake).await
    }

    async fn prune_feed(&self, reach: FeedReach) -> Result<u64, StoreFault> {
        write!(self, link => feed::prune(&mut link, reach))
    }

    async fn revoke(&self, what: &Revocation, until: Timestamp, audit: &AuditEntry) -> Result<(), StoreFault> {
        write!(self, link => async {
            let detail = audit.detail.clone();
            let (news, detail) = match what.clone() {
                Revocation::Token(jti) => (News::Token(jti.clone()), detail.text(Particular::Token, Some(&jti))),
                Revocation::SubjectBefore(before) => {
                    let detail = detail.text(Particular::Subject, Some(&before.subject));
                    (News::SubjectBefore(before), detail)
                }
            };
            link.tell(audit.at, Some(until), news);
            Ok(audit::append(&mut link, &AuditEntry { detail, ..audit.clone() }).await?)
        })
    }

    async fn change_authorization(
        &self,
        id: UserId,
        roles: &[String],
        org: Option<&str>,
        audit: &AuditEntry,
    ) -> Result<Account, AccountFault> {
        write!(self, link => accounts::change_authorization(&mut link, id, roles, org, audit))
    }

    async fn append_audit(&self, audit: &AuditEntry) -> Result<(), StoreFault> {
        write!(self, link => async { Ok(audit::append(&mut link, audit).await?) })
    }

    async fn audit_of(&self, user: UserId, limit: u32) -> Result<Vec<AuditRow>, StoreFault> {
        read!(self, link => audit::of_user(&mut link, user, limit))
    }

    async fn audit_rows(&self, wanted: &AuditQuery, limit: u32) -> Result<Vec<AuditRow>, StoreFault> {
        read!(self, link => audit::query(&mut link, wanted, limit))
    }

    async fn seal_audit(&self, sealing: &Sealing<'_>) -> Result<Sealed, StoreFault> {
        write!(self, link => audit_chain::seal(&mut link, sealing))
    }

    async fn audit_chain(&self, after: u64, limit: u32) -> Result<Vec<ChainRow>, StoreFault> {
        read!(self, link => audit_chain::rows(&mut link, after, limit))
    }

    async fn audit_seals(&self, after: u64, limit: u32) -> Result<Vec<Seal>, StoreFault> {
        read!(self, link => audit_chain::seals(&mut link, after, limit))
    }

    async fn last_audit_seal(&self) -> Result<Option<Seal>, StoreFault> {
        read!(self, link => audit_chain::last_seal(&mut link))
    }

    async fn unsealed_audit(&self, after: u64, limit: u32) -> Result<Vec<AuditRow>, StoreFault> {
        read!(self, link => audit::unsealed(&mut link, after, limit))
    }

    async fn erase_audit_of(&self, user: UserId, audit: &AuditEntry) -> Result<u64, StoreFault> {
        write!(self, link => audit::erase(&mut link, &Whose::User(user), audit))
    }

    async fn erase_audit_of_subject(&self, subject: &str, audit: &AuditEntry) -> Result<u64, StoreFault> {
        write!(self, link => audit::erase(&mut link, &Whose::Subject(subject), audit))
    }

    async fn claim_webhook_messages(
        &self,
        webhook: &str,
        now: Timestamp,
        until: Timestamp,
        most: u32,
    ) -> Result<Vec<Message>, StoreFault> {
        write!(self, link => outbox::claim(&mut link, webhook, now, until, most))
    }

    async fn retry_webhook(&self, webhook: &str, message: &Message, at: Timestamp) -> Result<(), StoreFault> {
        write!(self, link => outbox::retry(&mut link, webhook, message, at))
    }

    async fn webhook_delivered(&self, webhook: &str, id: Uuid) -> Result<bool, StoreFault> {
        write!(self, link => outbox::delivered(&mut link, webhook, id))
    }

    async fn webhook_given_up(&self, webhook: &str, id: Uuid, audit: &AuditEntry) -> Result<(), StoreFault> {
        write!(self, link => outbox::given_up(&mut link, webhook, id, audit))
    }

    async fn trim_webhook_messages(&self, webhook: &str, keep: u32, before: Timestamp) -> Result<u64, StoreFault> {
        write!(self, link => outbox::trim(&mut link, webhook, keep, before))
    }

    async fn signing_keys(&self) -> Result<Vec<StoredKey>, StoreFault> {
        read!(self, link => keys::all(&mut link))
    }

    async fn advance_signing_keys(&self, ask: &KeyAsk<'_>, spares: &[NewKey]) -> Result<KeysAdvanced, StoreFault> {
        write!(self, link => keys::advance(&mut link, ask, spares))
    }
}
