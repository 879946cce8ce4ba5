//! `portcullis keys list|rotate|retire`, beside gateways that run: they read of it within a second.

use std::{fmt::Write, time::Duration};

use serde_json::{Value, json};

use super::{CommandFault, moment, open};
use crate::{
    app::{Rim, keys::Vault},
    cli::keys::Keys,
    config::settings::Settings,
    policy::{
        key_life::{KeyRules, LEARNED, Order},
        keys::Algorithm,
    },
    store::{KeyLife, KeyState, StoredKey, audit::Actor},
};

/// Between two looks at whether a next key may sign.
const LOOK: Duration = Duration::from_millis(100);
/// Looks before the clocks of two machines are to blame.
const LOOKS: u32 = 600;

/// Carries the command out; what is to be printed.
///
/// # Errors
/// Nothing was done, but for a next key that `rotate --now` has published.
pub async fn keys(command: &Keys, settings: &Settings, rim: &Rim) -> Result<String, CommandFault> {
    let (kept, store) = open(settings).await?;
    let needed: Vec<_> = settings.signing_algorithms().iter().collect();
    let keys = match command {
        Keys::List { .. } => store.signing_keys().await?,
        Keys::Rotate { now, .. } => {
            let vault = Vault::open(store, kept, settings, rim).await?;
            rotate(&vault, &needed, *now).await?
        }
        Keys::Retire { kid, .. } => {
            let vault = Vault::open(store, kept, settings, rim).await?;
            retire(&vault, &needed, kid).await?
        }
    };
    let rules = &settings.tokens.rotation;
    let lives: Vec<_> = keys.into_iter().map(|key| key.life).collect();
    Ok(if command.at().json { in_json(&lives, rules) } else { table(&lives, rules) })
}

async fn rotate(vault: &Vault, needed: &[Algorithm], now: bool) -> Result<Vec<StoredKey>, CommandFault> {
    // Nothing is made under a master key that is not the store's.
    vault.opens_all().await?;
    vault.advance(Order::Due, needed, &Actor::Cli).await?;
    let (_, mut keys) = vault.advance(Order::Publish, needed, &Actor::Cli).await?;
    let is_next = |key: &&StoredKey| key.life.state == KeyState::Next && needed.contains(&key.life.algorithm);
    let next: Vec<KeyLife> = keys.iter().filter(is_next).map(|key| key.life.clone()).collect();
    if let Some(without) = needed.iter().find(|algorithm| !next.iter().any(|key| key.algorithm == **algorithm)) {
        return Err(CommandFault::TooManyKeys(*without));
    }
    for _ in 0..if now { LOOKS } else { 0 } {
        keys = vault.advance(Order::Promote(LEARNED), needed, &Actor::Cli).await?.1;
        if !keys.iter().filter(is_next).any(|key| next.iter().any(|next| next.kid == key.life.kid)) {
            return Ok(keys);
        }
        tokio::time::sleep(LOOK).await;
    }
    match next.iter().map(|key| key.published_at).max() {
        Some(published) if now => Err(CommandFault::Clock(moment(published))),
        _ => Ok(keys),
    }
}

async fn retire(vault: &Vault, needed: &[Algorithm], kid: &str) -> Result<Vec<StoredKey>, CommandFault> {
    // A key that is damaged is in the way of no other's end, nor of its own.
    vault.opens_any().await?;
    let (steps, keys) = vault.advance(Order::Retire(kid), needed, &Actor::Cli).await?;
    if steps.is_empty() { Err(CommandFault::UnknownKey(kid.to_owned())) } else { Ok(keys) }
}

/// When a next key signs at the latest, if gateways run.
fn signs_from(key: &KeyLife, rules: &KeyRules) -> Option<String> {
    (key.state == KeyState::Next).then(|| moment(key.published_at.plus(rules.publish_ahead)))
}

fn in_json(keys: &[KeyLife], rules: &KeyRules) -> String {
    let row = |key: &KeyLife| -> Value {
        json!({
            "kid": key.kid,
            "algorithm": key.algorithm.name(),
            "state": key.state.as_str(),
            "published_at": moment(key.published_at),
            "activated_at": key.activated_at.map(moment),
            "signs_from": signs_from(key, rules),
            "verifies_until": key.verifies_until.map(moment),
        })
    };
    format!("{:#}", json!({"keys": keys.iter().map(row).collect::<Vec<_>>()}))
}

fn table(keys: &[KeyLife], rules: &KeyRules) -> String {
    let mut out = format!(
        "{:<43}  {:<9}  {:<8}  {:<20}  {:<20}  {}",
        "KID", "ALGORITHM", "STATE", "PUBLISHED", "SIGNS SINCE", "VERIFIES UNTIL"
    );
    for key in keys {
        let signs = key.activated_at.map(moment).or_else(|| Some(format!("from {}", signs_from(key, rules)?)));
        let signs = signs.unwrap_or_else(|| "-".to_owned());
        let until = key.verifies_until.map_or_else(|| "-".to_owned(), moment);
        let (kid, algorithm, state) = (&key.kid, key.algorithm.name(), key.state);
        let _ = write!(
            out,
            "\n{kid:<43}  {algorithm:<9}  {state:<8}  {:<20}  {signs:<20}  {until}",
            moment(key.published_at)
        );
    }
    out
}
