//! `portcullis api-keys list|revoke`: what keys a user has, and none of it for one of them from now on.

use std::fmt::Write;

use serde_json::json;

use super::{CommandFault, by_cli, found, moment, open};
use crate::{
    app::Rim,
    cli::api_keys::ApiKeys,
    config::settings::Settings,
    policy::ids::ApiKeyId,
    store::{AuditEntry, AuditEvent, api_keys::ApiKey},
};

/// Keys that are shown at most.
const SHOWN: u32 = 1_000;

/// Carries the command out; what is to be printed: the keys that are left.
///
/// # Errors
/// Nothing was changed.
pub(super) async fn api_keys(command: &ApiKeys, settings: &Settings, rim: &Rim) -> Result<String, CommandFault> {
    let (_, store) = open(settings).await?;
    let owner = match command {
        ApiKeys::List { user, .. } => found(&*store, user).await?,
        ApiKeys::Revoke { user, id, .. } => {
            let (owner, id) = (found(&*store, user).await?, ApiKeyId(*id));
            let entry = by_cli(AuditEvent::ApiKeyRevoked, rim.clock.now());
            let entry = AuditEntry { user: Some(owner.id), ..entry };
            if !store.revoke_api_key(owner.id, id, &entry).await? {
                return Err(CommandFault::UnknownApiKey(id));
            }
            owner
        }
    };
    let keys = store.api_keys_of(owner.id, SHOWN).await?;
    Ok(if command.at().json { in_json(&keys) } else { table(&keys) })
}

fn in_json(keys: &[ApiKey]) -> String {
    let key = |key: &ApiKey| {
        json!({
            "id": key.id.to_string(),
            "name": key.name,
            "roles": key.roles,
            "scopes": key.scopes,
            "created_at": moment(key.created_at),
            "expires_at": key.expires_at.map(moment),
            "last_used_at": key.last_used_at.map(moment),
        })
    };
    format!("{:#}", json!({"api_keys": keys.iter().map(key).collect::<Vec<_>>()}))
}

fn table(keys: &[ApiKey]) -> String {
    let mut out = format!("{:<36}  {:<20}  {:<20}  {:<20}  NAME", "API KEY", "CREATED", "EXPIRES", "LAST USED");
    for key in keys {
        let maybe = |at: Option<_>| at.map_or_else(|| "-".to_owned(), moment);
        let (created, expires, used) = (moment(key.created_at), maybe(key.expires_at), maybe(key.last_used_at));
        let _ = write!(out, "\n{:<36}  {created:<20}  {expires:<20}  {used:<20}  {}", key.id.to_string(), key.name);
    }
    out
}
