//! TEMP in-memory store until the SQLite one is here.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use secrecy::SecretString;

use crate::{
    clock::Timestamp,
    policy::{
        ids::{SessionId, UserId},
        refresh::RefreshRules,
    },
    store::*,
};

#[derive(Default)]
struct Fake(Mutex<Rows>);

#[derive(Default)]
struct Rows {
    users: HashMap<UserId, (Account, SecretString)>,
    sessions: HashMap<SessionId, Session>,
    audit: Vec<AuditEntry>,
}

pub(super) fn store() -> SharedStore {
    Arc::new(Fake::default())
}

fn row(s: &NewSession) -> Session {
    crate::portal::grant::opened(s.clone())
}

#[async_trait]
impl Store for Fake {
    async fn ping(&self) -> Result<(), StoreFault> {
        Ok(())
    }
    async fn register(&self, a: &NewAccount, s: &NewSession, e: &AuditEntry) -> Result<Account, AccountFault> {
        let mut r = self.0.lock().unwrap();
        if r.users.values().any(|(u, _)| u.email.eq_ignore_ascii_case(&a.email)) {
            return Err(AccountFault::EmailTaken);
        }
        if r.users.values().any(|(u, _)| u.username.is_some() && u.username == a.username) {
            return Err(AccountFault::UsernameTaken);
        }
        let account = Account {
            id: a.id,
            email: a.email.clone(),
            email_verified: false,
            username: a.username.clone(),
            full_name: a.full_name.clone(),
            roles: a.roles.clone(),
            org: None,
            active: true,
            authorization_version: 1,
            created_at: a.created_at,
            last_login_at: Some(a.created_at),
        };
        r.users.insert(a.id, (account.clone(), a.password_hash.clone()));
        r.sessions.insert(s.id, row(s));
        r.audit.push(e.clone());
        r.audit.push(AuditEntry { event: AuditEvent::LoginSucceeded, ..e.clone() });
        Ok(account)
    }
    async fn find_login(&self, login: &Login) -> Result<Option<(Account, SecretString)>, StoreFault> {
        let r = self.0.lock().unwrap();
        Ok(r.users
            .values()
            .find(|(u, _)| match login {
                Login::Email(e) => u.email.eq_ignore_ascii_case(e),
                Login::Username(n) => u.username.as_ref().is_some_and(|u| u.eq_ignore_ascii_case(n)),
            })
            .cloned())
    }
    async fn account(&self, id: UserId) -> Result<Option<Account>, StoreFault> {
        Ok(self.0.lock().unwrap().users.get(&id).map(|(a, _)| a.clone()))
    }
    async fn update_profile(&self, id: UserId, p: &ProfilePatch, e: &AuditEntry) -> Result<Account, AccountFault> {
        let mut r = self.0.lock().unwrap();
        if let Some(Some(name)) = &p.username
            && r.users.values().any(|(u, _)| u.id != id && u.username.as_ref() == Some(name))
        {
            return Err(AccountFault::UsernameTaken);
        }
        r.audit.push(e.clone());
        let (a, _) = r.users.get_mut(&id).ok_or(AccountFault::Missing)?;
        if let Some(n) = &p.full_name {
            a.full_name.clone_from(n);
        }
        if let Some(n) = &p.username {
            a.username.clone_from(n);
        }
        Ok(a.clone())
    }
    async fn open_session(&self, s: &NewSession, e: &AuditEntry) -> Result<Option<Account>, StoreFault> {
        let mut r = self.0.lock().unwrap();
        let Some((a, _)) = r.users.get_mut(&s.user) else { return Ok(None) };
        a.last_login_at = Some(s.created_at);
        let a = a.clone();
        r.sessions.insert(s.id, row(s));
        r.audit.push(e.clone());
        Ok(Some(a))
    }
    async fn session(&self, id: SessionId) -> Result<Option<Session>, StoreFault> {
        Ok(self.0.lock().unwrap().sessions.get(&id).cloned())
    }
    async fn refresh(
        &self,
        id: SessionId,
        counter: u64,
        rules: &RefreshRules,
        e: &AuditEntry,
    ) -> Result<RefreshOutcome, StoreFault> {
        let mut r = self.0.lock().unwrap();
        let r = &mut *r;
        let Some(s) = r.sessions.get_mut(&id) else { return Ok(RefreshOutcome::Refused) };
        if s.ended_at.is_some()
            || counter > s.counter
            || e.at.since(s.rotated_at) >= rules.idle
            || e.at.since(s.created_at) >= rules.absolute
        {
            return Ok(RefreshOutcome::Refused);
        }
        let repeated =
            counter + 1 == s.counter && (e.at.since(s.rotated_at) <= rules.grace || s.seen_generation < s.counter);
        if !repeated && counter < s.counter {
            s.ended_at = Some(e.at);
            r.audit.push(AuditEntry { event: AuditEvent::RefreshReuseDetected, ..e.clone() });
            return Ok(RefreshOutcome::Reused { user: s.user });
        }
        if !repeated {
            s.counter += 1;
            s.rotated_at = e.at;
        }
        r.audit.push(e.clone());
        Ok(RefreshOutcome::Granted { session: s.clone(), account: Box::new(r.users[&s.user].0.clone()), repeated })
    }
    async fn note_generation_seen(&self, id: SessionId, generation: u64) -> Result<(), StoreFault> {
        if let Some(s) = self.0.lock().unwrap().sessions.get_mut(&id) {
            s.seen_generation = s.seen_generation.max(generation);
        }
        Ok(())
    }
    async fn end_sessions(&self, id: SessionId, all: bool, e: &AuditEntry) -> Result<Vec<SessionId>, StoreFault> {
        let mut r = self.0.lock().unwrap();
        let Some(user) = r.sessions.get(&id).map(|s| s.user) else { return Ok(vec![]) };
        let mut ended = vec![];
        for s in r.sessions.values_mut() {
            if (s.id == id || all && s.user == user) && s.ended_at.is_none() {
                s.ended_at = Some(e.at);
                ended.push(s.id);
            }
        }
        if !ended.is_empty() {
            r.audit.push(e.clone());
        }
        Ok(ended)
    }
    async fn sessions_ended_since(&self, _: Timestamp) -> Result<Vec<(SessionId, Timestamp)>, StoreFault> {
        Ok(vec![])
    }
    async fn append_audit(&self, e: &AuditEntry) -> Result<(), StoreFault> {
        self.0.lock().unwrap().audit.push(e.clone());
        Ok(())
    }
    async fn audit_of(&self, user: UserId, _: u32) -> Result<Vec<AuditEntry>, StoreFault> {
        Ok(self.0.lock().unwrap().audit.iter().filter(|e| e.user == Some(user)).cloned().collect())
    }
    async fn signing_keys(&self) -> Result<Vec<StoredKey>, StoreFault> {
        Ok(vec![])
    }
    async fn ensure_signing_key(&self, _: &StoredKey) -> Result<Vec<StoredKey>, StoreFault> {
        Ok(vec![])
    }
}
