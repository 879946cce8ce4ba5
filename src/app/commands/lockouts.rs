//! `portcullis lockouts list|lift`: what failed logins have locked. What is lifted counts at once, at every gateway:
//! they all count in the store.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{CommandFault, by_cli, found, moment, open};
use crate::{
    app::Rim,
    cli::lockouts::{KindArg, LockoutListArgs, Lockouts},
    config::settings::Settings,
    policy::{forwarded::limit_prefix, lockout::Counter},
    store::{
        AuditEvent, Store as Facts,
        lockout_lists::LockoutQuery,
        lockouts::{Attempted, Lift, Locked, Lockout},
    },
};

/// Lockouts in one reading.
const PAGE: u32 = 200;

/// Carries the command out; what is to be printed.
///
/// # Errors
/// Nothing was changed.
pub(super) async fn lockouts(command: &Lockouts, settings: &Settings, rim: &Rim) -> Result<String, CommandFault> {
    let (_, store) = open(settings).await?;
    match command {
        Lockouts::List(args) => {
            let locked = list(&*store, args, settings, rim).await?;
            Ok(if args.at.json { in_json(&locked) } else { table(&locked) })
        }
        Lockouts::Lift { id, account, address, at } => {
            let what = match (id, account, address) {
                (Some(id), ..) => Ok(Locked::from_id(id).ok_or_else(|| CommandFault::UnknownLockout(id.clone()))?),
                (_, Some(user), _) => Err(Lift::Account(Attempted::User(found(&*store, user).await?.id))),
                (_, _, Some(address)) => Err(Lift::Address(limit_prefix(*address))),
                (None, None, None) => return Err(CommandFault::UnknownLockout(String::new())),
            };
            let entry = by_cli(AuditEvent::LockoutLifted, rim.clock.now());
            let lifted = match &what {
                Ok(locked) => store.lift_locked(locked, &entry).await?,
                Err(lift) => store.lift_lockout(lift, &entry).await?,
            };
            let named = id.as_ref().or(account.as_ref()).cloned().or(address.map(|address| address.to_string()));
            if !lifted {
                return Err(CommandFault::UnknownLockout(named.unwrap_or_default()));
            }
            Ok(if at.json { json!({"lifted": named}).to_string() } else { "lifted".to_owned() })
        }
    }
}

async fn list(
    store: &dyn Facts,
    args: &LockoutListArgs,
    settings: &Settings,
    rim: &Rim,
) -> Result<Vec<Lockout>, CommandFault> {
    let account = match &args.account {
        Some(user) => Some(Attempted::User(found(store, user).await?.id)),
        None => None,
    };
    let counter = args.kind.map(|kind| match kind {
        KindArg::Account => Counter::Account,
        KindArg::Address => Counter::Address,
        KindArg::Device => Counter::Device,
        KindArg::Pair => Counter::Pair,
    });
    let mut query = LockoutQuery { counter, account, address: args.address.map(limit_prefix), after: None };
    let mut all = Vec::new();
    loop {
        let left = u32::try_from(all.len()).map_or(0, |held| args.limit.saturating_sub(held));
        if left == 0 {
            return Ok(all);
        }
        let page = store.lockout_page(&query, &settings.lockout.rules, rim.clock.now(), left.min(PAGE)).await?;
        all.extend(page.lockouts);
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(all),
        }
    }
}

/// Whom it concerns; of a name that no account has, its digest.
fn account(locked: &Locked) -> (Option<String>, Option<String>) {
    let account = locked.account();
    let user = account.and_then(|account| account.user()).map(|user| user.to_string());
    (user, account.and_then(|account| account.digest()))
}

fn in_json(locked: &[Lockout]) -> String {
    let one = |lockout: &Lockout| -> Value {
        let (user, name) = account(&lockout.what);
        json!({
            "id": lockout.what.to_id(),
            "kind": lockout.what.counter().as_str(),
            "account": user,
            "name": name,
            "address": lockout.what.shown_address(),
            "counted": lockout.what.counted(),
            "failures": lockout.failures,
            "since": moment(lockout.last),
            "until": lockout.until.map(moment),
        })
    };
    format!("{:#}", Value::Array(locked.iter().map(one).collect()))
}

fn table(locked: &[Lockout]) -> String {
    let mut out = format!(
        "{:<8} {:<36} {:<24} {:>8} {:<20} {:<20} id",
        "kind", "account", "address", "failures", "since", "until"
    );
    for lockout in locked {
        let (user, name) = account(&lockout.what);
        let name = name.map(|digest| format!("(unknown {})", digest.get(..16).unwrap_or_default()));
        let _ = write!(
            out,
            "\n{:<8} {:<36} {:<24} {:>8} {:<20} {:<20} {}",
            lockout.what.counter().as_str(),
            user.or(name).unwrap_or_else(|| "-".to_owned()),
            lockout.what.shown_address().unwrap_or_else(|| "-".to_owned()),
            lockout.failures,
            moment(lockout.last),
            lockout.until.map_or_else(|| "until lifted".to_owned(), moment),
            lockout.what.to_id(),
        );
    }
    out
}
