//! A store that can be cut, so that every call finds nobody, and whose accounts can be seen as deactivated, for which
//! the store has no call yet.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;
use secrecy::SecretString;
use uuid::Uuid;

use crate::{
    clock::Timestamp,
    policy::{
        audit_chain::{ChainRow, Seal},
        ids::{ApiKeyId, SessionId, UserId},
        lockout::{Counter, LockoutRules},
        refresh::RefreshRules,
    },
    store::{
        Account, AccountFault, AuditEntry, KeyAsk, KeysAdvanced, Login, NewAccount, NewKey, NewSession, Opened,
        PoolStats, ProfilePatch, RefreshOutcome, Revocation, Session, SessionLimit, SharedStore, Store, StoreFault,
        StoredKey, Use,
        api_keys::{ApiKey, ApiKeyMade, ApiKeys, KnownApiKey, NewApiKey},
        audit::{AuditQuery, AuditRow, Sealed, Sealing},
        feed::{FeedPage, FeedPosition, FeedReach},
        lockout_lists::{LockoutLists, LockoutPage, LockoutQuery},
        lockouts::{Attempt, AttemptEnd, Attempted, Lift, Lockouts, Paced, Reserved, Ticket},
        quota_lists::{QuotaLists, QuotaPage, QuotaQuery, QuotaReset},
        quotas::{QuotaAsk, QuotaGrant, QuotaReturn, QuotaUsage, Quotas},
        security::Message,
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
impl Quotas for Cuttable {
    async fn take_quota(&self, ask: &QuotaAsk<'_>) -> Result<QuotaGrant, StoreFault> {
        self.there()?.take_quota(ask).await
    }

    async fn return_quota(&self, returns: &[QuotaReturn<'_>]) -> Result<(), StoreFault> {
        self.there()?.return_quota(returns).await
    }

    async fn quota_usage(
        &self,
        quota: Option<&str>,
        key: Option<[u8; 16]>,
        now: Timestamp,
        most: u32,
    ) -> Result<Vec<QuotaUsage>, StoreFault> {
        self.there()?.quota_usage(quota, key, now, most).await
    }

    async fn prune_quotas(&self, before: Timestamp) -> Result<u64, StoreFault> {
        self.there()?.prune_quotas(before).await
    }
}

#[async_trait]
impl QuotaLists for Cuttable {
    async fn quota_page(&self, query: &QuotaQuery, now: Timestamp, most: u32) -> Result<QuotaPage, StoreFault> {
        self.there()?.quota_page(query, now, most).await
    }

    async fn reset_quota(&self, what: &QuotaReset, audit: &AuditEntry) -> Result<u64, StoreFault> {
        self.there()?.reset_quota(what, audit).await
    }
}

#[async_trait]
impl Lockouts for Cuttable {
    async fn reserve_attempt(&self, a: &Attempt, r: &LockoutRules, now: Timestamp) -> Result<Reserved, StoreFault> {
        self.there()?.reserve_attempt(a, r, now).await
    }

    async fn end_attempt(
        &self,
        ticket: &Ticket,
        end: AttemptEnd,
        rules: &LockoutRules,
        e: &AuditEntry,
    ) -> Result<Vec<Counter>, StoreFault> {
        self.there()?.end_attempt(ticket, end, rules, e).await
    }

    async fn lift_lockout(&self, what: &Lift, e: &AuditEntry) -> Result<bool, StoreFault> {
        self.there()?.lift_lockout(what, e).await
    }

    async fn prune_lockouts(&self, r: &LockoutRules, now: Timestamp, most: u32) -> Result<u64, StoreFault> {
        self.there()?.prune_lockouts(r, now, most).await
    }

    async fn pace(&self, calls: &[Paced<'_>], now: Timestamp) -> Result<Option<Duration>, StoreFault> {
        self.there()?.pace(calls, now).await
    }
}

#[async_trait]
impl LockoutLists for Cuttable {
    async fn lockout_page(
        &self,
        query: &LockoutQuery,
        rules: &LockoutRules,
        now: Timestamp,
        most: u32,
    ) -> Result<LockoutPage, StoreFault> {
        self.there()?.lockout_page(query, rules, now, most).await
    }

    async fn lift_pair(&self, account: &Attempted, address: IpAddr, e: &AuditEntry) -> Result<bool, StoreFault> {
        self.there()?.lift_pair(account, address, e).await
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

    async fn audit_of(&self, user: UserId, limit: u32) -> Result<Vec<AuditRow>, StoreFault> {
        self.there()?.audit_of(user, limit).await
    }

    async fn audit_rows(&self, wanted: &AuditQuery, limit: u32) -> Result<Vec<AuditRow>, StoreFault> {
        self.there()?.audit_rows(wanted, limit).await
    }

    async fn seal_audit(&self, sealing: &Sealing<'_>) -> Result<Sealed, StoreFault> {
        self.there()?.seal_audit(sealing).await
    }

    async fn audit_chain(&self, after: u64, limit: u32) -> Result<Vec<ChainRow>, StoreFault> {
        self.there()?.audit_chain(after, limit).await
    }

    async fn audit_seals(&self, after: u64, limit: u32) -> Result<Vec<Seal>, StoreFault> {
        self.there()?.audit_seals(after, limit).await
    }

    async fn last_audit_seal(&self) -> Result<Option<Seal>, StoreFault> {
        self.there()?.last_audit_seal().await
    }

    async fn unsealed_audit(&self, after: u64, limit: u32) -> Result<Vec<AuditRow>, StoreFault> {
        self.there()?.unsealed_audit(after, limit).await
    }

    async fn erase_audit_of(&self, user: UserId, e: &AuditEntry) -> Result<u64, StoreFault> {
        self.there()?.erase_audit_of(user, e).await
    }
    async fn erase_audit_of_subject(&self, subject: &str, e: &AuditEntry) -> Result<u64, StoreFault> {
        self.there()?.erase_audit_of_subject(subject, e).await
    }

    async fn claim_webhook_messages(
        &self,
        webhook: &str,
        now: Timestamp,
        until: Timestamp,
        most: u32,
    ) -> Result<Vec<Message>, StoreFault> {
        self.there()?.claim_webhook_messages(webhook, now, until, most).await
    }

    async fn retry_webhook(&self, webhook: &str, message: &Message, at: Timestamp) -> Result<(), StoreFault> {
        self.there()?.retry_webhook(webhook, message, at).await
    }

    async fn webhook_delivered(&self, webhook: &str, id: Uuid) -> Result<bool, StoreFault> {
        self.there()?.webhook_delivered(webhook, id).await
    }

    async fn webhook_given_up(&self, webhook: &str, id: Uuid, e: &AuditEntry) -> Result<(), StoreFault> {
        self.there()?.webhook_given_up(webhook, id, e).await
    }

    async fn trim_webhook_messages(&self, webhook: &str, keep: u32, before: Timestamp) -> Result<u64, StoreFault> {
        self.there()?.trim_webhook_messages(webhook, keep, before).await
    }

    async fn signing_keys(&self) -> Result<Vec<StoredKey>, StoreFault> {
        self.there()?.signing_keys().await
    }

    async fn advance_signing_keys(&self, ask: &KeyAsk<'_>, spares: &[NewKey]) -> Result<KeysAdvanced, StoreFault> {
        self.there()?.advance_signing_keys(ask, spares).await
    }
}

#[async_trait]
impl ApiKeys for Cuttable {
    async fn create_api_key(&self, new: &NewApiKey, most: u32, e: &AuditEntry) -> Result<ApiKeyMade, StoreFault> {
        self.there()?.create_api_key(new, most, e).await
    }

    async fn api_keys_of(&self, owner: UserId, most: u32) -> Result<Vec<ApiKey>, StoreFault> {
        self.there()?.api_keys_of(owner, most).await
    }

    async fn revoke_api_key(&self, owner: UserId, id: ApiKeyId, e: &AuditEntry) -> Result<bool, StoreFault> {
        self.there()?.revoke_api_key(owner, id, e).await
    }

    async fn api_key(&self, id: ApiKeyId) -> Result<Option<KnownApiKey>, StoreFault> {
        self.there()?.api_key(id).await
    }

    async fn note_api_key_uses(&self, uses: &[(ApiKeyId, Timestamp)]) -> Result<(), StoreFault> {
        self.there()?.note_api_key_uses(uses).await
    }
}
