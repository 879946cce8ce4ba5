//! Credential stuffing at the door ([`crate::policy::stuffing`]): logins from where many people's passwords were tried
//! are refused for a while, before anything is looked up or hashed. Only a device cookie of the very account passes.

use std::time::Duration;

use crate::{
    gate::refusal::{Detail, Refusal},
    policy::{ids::UserId, reason::Reason, validate::lookup_key},
    portal::{caller::Caller, state::PortalState},
    store::{AuditEntry, AuditEvent, audit::Particular},
};

impl PortalState {
    /// How long logins from the caller's address are refused still.
    fn stuffed(&self, caller: &Caller) -> Option<Duration> {
        self.stuffing?;
        self.stuffing_watch.refuses(caller.prefix(), self.clock.tick())
    }

    /// Before anything is looked up: whoever brings no device cookie of ours is refused here, a made-up one or none.
    pub(crate) fn refuse_stuffing(&self, caller: &Caller) -> Result<(), Refusal> {
        match self.stuffed(caller) {
            Some(wait) if !self.is_device(caller) => Err(refused(wait)),
            _ => Ok(()),
        }
    }

    /// Once it is known whom a login is for: a device cookie of somebody else's helps nobody.
    pub(crate) fn refuse_stuffing_as(&self, caller: &Caller, user: Option<UserId>) -> Result<(), Refusal> {
        match self.stuffed(caller) {
            Some(wait) if !self.is_device_of(caller, user) => Err(refused(wait)),
            _ => Ok(()),
        }
    }

    /// A login as `name` was refused. Whoever this shows to be trying many people's passwords is told to the audit.
    pub(crate) async fn note_stuffing(&self, caller: &Caller, (name, password): (&str, &str), refusal: &Refusal) {
        let Some(rules) = &self.stuffing else { return };
        if !matches!(refusal.reason, Reason::LoginFailed | Reason::AddressLocked) {
            return;
        }
        let (account, tick) = (lookup_key(name), self.clock.tick());
        let pair = (account.as_bytes(), password.as_bytes());
        for (reach, net, found) in self.stuffing_watch.failed(caller.prefix(), pair, rules, tick) {
            self.metrics.stuffing_episodes.of(reach).inc();
            tracing::warn!(prefix = %net, pairs = found.pairs, accounts = found.accounts, "credential stuffing");
            let audit = caller.audit(AuditEvent::CredentialStuffingDetected, self.clock.now(), None, None);
            let detail = audit
                .detail
                .clone()
                .text(Particular::Prefix, Some(&net.to_string()))
                .count(Particular::Failures, found.pairs as usize)
                .count(Particular::Accounts, found.accounts as usize)
                .count(Particular::Wait, usize::try_from(rules.refuse_for.as_secs()).unwrap_or(usize::MAX));
            if let Err(error) = self.store.append_audit(&AuditEntry { detail, ..audit }).await {
                tracing::error!(%error, prefix = %net, "credential stuffing could not be audited");
            }
        }
    }
}

fn refused(wait: Duration) -> Refusal {
    Refusal::with(Reason::LoginsRefused, Detail::RetryAfter(wait))
}
