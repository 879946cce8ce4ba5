//! The store on PostgreSQL and SQLite, one body for both.
//!
//! `open` connects and migrates (`migrate`); this file keeps the contract of [`Store`] by giving each call a link,
//! a deadline and an end (commit, roll back); the statements are in `accounts`, `sessions`, `feed`, `keys` and `audit`, each
//! written once on `query`'s types. `link` holds the connections, `fault` says what a driver's error means. Only
//! this room names `sqlx`.

mod accounts;
mod audit;
mod fault;
mod feed;
mod keys;
mod link;
mod migrate;
mod open;
mod query;
mod sessions;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use secrecy::SecretString;

pub use self::open::{Claim, OpenFault, claim};
use self::{link::Pools, query::Query};
use crate::{
    clock::Timestamp,
    config::settings,
    policy::{
        ids::{SessionId, UserId},
        refresh::RefreshRules,
    },
    store::{
        Account, AccountFault, AuditEntry, KeyAsk, KeysAdvanced, Login, NewAccount, NewKey, NewSession, Opened,
        PoolStats, ProfilePatch, RefreshOutcome, Revocation, Session, SessionLimit, SharedStore, Store, StoreFault,
        StoredKey, Use,
        feed::{FeedPage, FeedPosition, FeedReach, News},
    },
};

/// Connects to the store that the settings name, migrates it, and gives it.
pub async fn open(settings: &settings::Store) -> Result<SharedStore, OpenFault> {
    let pools = open::pools(settings).await?;
    Ok(Arc::new(SqlStore { pools, deadline: settings.timeout }))
}

/// A store on one of the SQL engines.
#[derive(Debug)]
struct SqlStore {
    pools: Pools,
    /// For a whole call, waiting for a connection included.
    deadline: Duration,
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
                let outcome = $call.await;
                $link.finish(outcome).await
            })
            .await
    };
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
            let news = match what.clone() {
                Revocation::Token(jti) => News::Token(jti),
                Revocation::SubjectBefore(subject) => News::SubjectBefore(subject),
            };
            link.tell(audit.at, Some(until), news);
            Ok(audit::append(&mut link, audit).await?)
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

    async fn audit_of(&self, user: UserId, limit: u32) -> Result<Vec<AuditEntry>, StoreFault> {
        read!(self, link => audit::of_user(&mut link, user, limit))
    }

    async fn signing_keys(&self) -> Result<Vec<StoredKey>, StoreFault> {
        read!(self, link => keys::all(&mut link))
    }

    async fn advance_signing_keys(&self, ask: &KeyAsk<'_>, spares: &[NewKey]) -> Result<KeysAdvanced, StoreFault> {
        write!(self, link => keys::advance(&mut link, ask, spares))
    }
}
