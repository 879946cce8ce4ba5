//! A store that can be cut, so that every call finds nobody, and whose accounts can be seen as deactivated, for which
//! the store has no call yet.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use async_trait::async_trait;
use secrecy::SecretString;

use crate::{
    clock::Timestamp,
    policy::{
        ids::{SessionId, UserId},
        refresh::RefreshRules,
    },
    store::{
        Account, AccountFault, AuditEntry, KeyAsk, KeysAdvanced, Login, NewAccount, NewKey, NewSession, Opened,
        PoolStats, ProfilePatch, RefreshOutcome, Revocation, Session, SessionLimit, SharedStore, Store, StoreFault,
        StoredKey, Use,
        feed::{FeedPage, FeedPosition, FeedReach},
    },
};

pub(super) struct Cuttable {
    store: SharedStore,
    cut: AtomicBool,
    deactivated: AtomicBool,
}

impl Cuttable {
    pub(super) fn new(store: SharedStore) -> Self {
        Self { store, cut: AtomicBool::new(false), deactivated: AtomicBool::new(false) }
    }

    pub(super) fn cut(&self) {
        self.cut.store(true, Relaxed);
    }

    pub(super) fn restore(&self) {
        self.cut.store(false, Relaxed);
    }

    pub(super) fn deactivate_everyone(&self) {
        self.deactivated.store(true, Relaxed);
    }

    fn seen(&self, account: Account) -> Account {
        Account { active: account.active && !self.deactivated.load(Relaxed), ..account }
    }

    fn there(&self) -> Result<&dyn Store, StoreFault> {
        if self.cut.load(Relaxed) { Err(StoreFault::Unavailable("cut".into())) } else { Ok(&*self.store) }
    }
}

#[async_trait]
impl Store for Cuttable {
    fn pool(&self) -> PoolStats {
        self.store.pool()
    }

    async fn ping(&self) -> Result<(), StoreFault> {
        self.there()?.ping().await
    }

    async fn register(&self, a: &NewAccount, s: &NewSession, e: &AuditEntry) -> Result<Account, AccountFault> {
        self.there()?.register(a, s, e).await
    }

    async fn find_login(&self, login: &Login) -> Result<Option<(Account, SecretString)>, StoreFault> {
        let found = self.there()?.find_login(login).await?;
        Ok(found.map(|(account, phc)| (self.seen(account), phc)))
    }

    async fn upgrade_password_hash(
        &self,
        id: UserId,
        old: &SecretString,
        new: &SecretString,
    ) -> Result<bool, StoreFault> {
        self.there()?.upgrade_password_hash(id, old, new).await
    }

    async fn account(&self, id: UserId) -> Result<Option<Account>, StoreFault> {
        Ok(self.there()?.account(id).await?.map(|account| self.seen(account)))
    }

    async fn update_profile(&self, id: UserId, p: &ProfilePatch, e: &AuditEntry) -> Result<Account, AccountFault> {
        self.there()?.update_profile(id, p, e).await
    }

    async fn open_session(
        &self,
        session: &NewSession,
        limit: &SessionLimit,
        e: &AuditEntry,
    ) -> Result<Option<Opened>, StoreFault> {
        if self.deactivated.load(Relaxed) {
            return Ok(None);
        }
        self.there()?.open_session(session, limit, e).await
    }

    async fn live_sessions(
        &self,
        user: UserId,
        rules: &RefreshRules,
        now: Timestamp,
        most: u32,
    ) -> Result<Vec<Session>, StoreFault> {
        self.there()?.live_sessions(user, rules, now, most).await
    }

    async fn session(&self, id: SessionId) -> Result<Option<Session>, StoreFault> {
        self.there()?.session(id).await
    }

    async fn refresh(
        &self,
        id: SessionId,
        counter: u64,
        rules: &RefreshRules,
        e: &AuditEntry,
    ) -> Result<RefreshOutcome, StoreFault> {
        self.there()?.refresh(id, counter, rules, e).await
    }

    async fn note_uses(&self, uses: &[Use], now: Timestamp) -> Result<(), StoreFault> {
        self.there()?.note_uses(uses, now).await
    }

    async fn end_other_sessions(&self, id: SessionId, e: &AuditEntry) -> Result<Vec<SessionId>, StoreFault> {
        self.there()?.end_other_sessions(id, e).await
    }

    async fn end_sessions(&self, id: SessionId, all: bool, e: &AuditEntry) -> Result<Vec<SessionId>, StoreFault> {
        self.there()?.end_sessions(id, all, e).await
    }

    async fn feed(&self, from: &FeedPosition, reach: FeedReach, most: u32) -> Result<Option<FeedPage>, StoreFault> {
        self.there()?.feed(from, reach, most).await
    }

    async fn feed_wakes(&self, wake: &(dyn Fn() + Send + Sync)) -> Result<(), StoreFault> {
        self.there()?.feed_wakes(wake).await
    }

    async fn prune_feed(&self, reach: FeedReach) -> Result<u64, StoreFault> {
        self.there()?.prune_feed(reach).await
    }

    async fn revoke(&self, what: &Revocation, until: Timestamp, e: &AuditEntry) -> Result<(), StoreFault> {
        self.there()?.revoke(what, until, e).await
    }

    async fn change_authorization(
        &self,
        id: UserId,
        roles: &[String],
        org: Option<&str>,
        e: &AuditEntry,
    ) -> Result<Account, AccountFault> {
        self.there()?.change_authorization(id, roles, org, e).await
    }

    async fn append_audit(&self, e: &AuditEntry) -> Result<(), StoreFault> {
        self.there()?.append_audit(e).await
    }

    async fn audit_of(&self, user: UserId, limit: u32) -> Result<Vec<AuditEntry>, StoreFault> {
        self.there()?.audit_of(user, limit).await
    }

    async fn signing_keys(&self) -> Result<Vec<StoredKey>, StoreFault> {
        self.there()?.signing_keys().await
    }

    async fn advance_signing_keys(&self, ask: &KeyAsk<'_>, spares: &[NewKey]) -> Result<KeysAdvanced, StoreFault> {
        self.there()?.advance_signing_keys(ask, spares).await
    }
}
