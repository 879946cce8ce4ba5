//! `portcullis revoke session|user|token|subject`: told to every gateway by the feed, within a second at most.

use super::{CommandFault, by_cli, found, open};
use crate::{
    app::Rim,
    cli::revoke::Revoke,
    config::settings::Settings,
    policy::{foreign, ids::SessionId},
    store::{AuditEntry, AuditEvent, Revocation, Store, feed::SubjectBefore},
};

/// Carries the command out; what is to be printed.
///
/// # Errors
/// Nothing was revoked.
pub(super) async fn revoke(command: &Revoke, settings: &Settings, rim: &Rim) -> Result<String, CommandFault> {
    let (_, store) = open(settings).await?;
    let (now, tokens) = (rim.clock.now(), &settings.tokens);
    let entry = by_cli(AuditEvent::TokenRevoked, now);
    match command {
        Revoke::Session { session, .. } => {
            let session = SessionId(*session);
            let found = store.session(session).await?.ok_or(CommandFault::UnknownSession(session))?;
            let entry = AuditEntry { user: Some(found.user), session: Some(session), ..entry };
            ended(&*store, session, false, &entry).await
        }
        Revoke::User { user, .. } => {
            let account = found(&*store, user).await?;
            let live = store.live_sessions(account.id, &tokens.refresh, now, 1).await?;
            let Some(session) = live.first() else { return Ok("sessions ended: 0".to_owned()) };
            ended(&*store, session.id, true, &AuditEntry { user: Some(account.id), ..entry }).await
        }
        Revoke::Token { jti, .. } => {
            let until = now.plus(tokens.access_ttl).plus(tokens.leeway);
            store.revoke(&Revocation::Token(jti.clone()), until, &entry).await?;
            Ok(format!("revoked: {jti}"))
        }
        Revoke::Subject { issuer, subject, .. } => {
            let issuers = settings.issuers.iter();
            let rules = issuers.map(|issuer| &issuer.rules).find(|rules| *rules.name == **issuer);
            let rules = rules.ok_or_else(|| CommandFault::UnknownIssuer(issuer.clone()))?;
            let subject = foreign::known_as(subject, rules).map_err(|_| CommandFault::Subject)?.to_string();
            // A token of this very second may have been made before.
            let before = now.seconds() + 1;
            let what = SubjectBefore { issuer: rules.issuer.to_string(), subject: subject.clone(), before };
            let until = now.plus(rules.max_lifetime).plus(tokens.leeway);
            store.revoke(&Revocation::SubjectBefore(what), until, &entry).await?;
            Ok(format!("revoked: what {subject} was given up to now"))
        }
    }
}

async fn ended(store: &dyn Store, session: SessionId, all: bool, entry: &AuditEntry) -> Result<String, CommandFault> {
    let ended = store.end_sessions(session, all, entry).await?;
    Ok(format!("sessions ended: {}", ended.len()))
}
