//! `portcullis users show|roles`: accounts, and what they may.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{CommandFault, by_cli, found, moment, open};
use crate::{
    app::Rim,
    cli::users::Users,
    config::settings::Settings,
    policy::foreign,
    store::{Account, AccountFault, AuditEvent, Session},
};

/// Sessions that are shown at most.
const SHOWN: u32 = 1_000;

/// Carries the command out; what is to be printed.
///
/// # Errors
/// Nothing was changed.
pub(super) async fn users(command: &Users, settings: &Settings, rim: &Rim) -> Result<String, CommandFault> {
    let (_, store) = open(settings).await?;
    let now = rim.clock.now();
    let account = match command {
        Users::Show { user, .. } => found(&*store, user).await?,
        Users::Roles { user, roles, org, no_org, .. } => {
            for text in roles.iter().chain(org) {
                foreign::plain(text).ok_or_else(|| CommandFault::Word(text.clone()))?;
            }
            if let Some(twice) = roles.iter().enumerate().find(|(place, role)| roles[..*place].contains(role)) {
                return Err(CommandFault::Twice(twice.1.clone()));
            }
            let before = found(&*store, user).await?;
            let org = if *no_org { None } else { org.as_deref().or(before.org.as_deref()) };
            let entry = by_cli(AuditEvent::AuthorizationChanged, now);
            store.change_authorization(before.id, roles, org, &entry).await.map_err(|fault| match fault {
                AccountFault::Store(fault) => CommandFault::Store(fault),
                _ => CommandFault::UnknownUser(user.clone()),
            })?
        }
    };
    let sessions = store.live_sessions(account.id, &settings.tokens.refresh, now, SHOWN).await?;
    Ok(if command.at().json { in_json(&account, &sessions) } else { table(&account, &sessions) })
}

fn in_json(account: &Account, sessions: &[Session]) -> String {
    let session = |session: &Session| -> Value {
        json!({
            "id": session.id.to_string(),
            "user_agent": session.user_agent,
            "address": session.address,
            "created_at": moment(session.created_at),
            "last_seen_at": moment(session.last_seen_at),
            "generation": session.counter,
        })
    };
    let told = json!({
        "id": account.id.to_string(),
        "email": account.email,
        "username": account.username,
        "roles": account.roles,
        "org": account.org,
        "is_active": account.active,
        "authorization_version": account.authorization_version,
        "created_at": moment(account.created_at),
        "last_login_at": account.last_login_at.map(moment),
        "sessions": sessions.iter().map(session).collect::<Vec<_>>(),
    });
    format!("{told:#}")
}

fn table(account: &Account, sessions: &[Session]) -> String {
    let mut out = format!(
        "id: {}\nemail: {}\nroles: {}\norg: {}\nactive: {}\n",
        account.id,
        account.email,
        account.roles.join(", "),
        account.org.as_deref().unwrap_or("-"),
        account.active,
    );
    let _ = write!(out, "{:<36}  {:<20}  {:<20}  {:<39}  USER AGENT", "SESSION", "CREATED", "LAST SEEN", "ADDRESS");
    for session in sessions {
        let (created, seen) = (moment(session.created_at), moment(session.last_seen_at));
        let agent = session.user_agent.as_deref().unwrap_or("-");
        let _ = write!(
            out,
            "\n{:<36}  {created:<20}  {seen:<20}  {:<39}  {agent}",
            session.id.to_string(),
            session.address
        );
    }
    out
}
