//! `portcullis quotas list|show|reset`: what is used of quotas, and setting it to nothing. A reset counts at once in the
//! store, and at every gateway when it has read of it, a second later at most.

use std::{fmt::Write, sync::Arc};

use serde_json::{Value, json};

use super::{CommandFault, by_cli, found, moment, open};
use crate::{
    app::Rim,
    cli::quotas::{Quotas, WhoseArgs},
    config::settings::{Quota, Settings},
    policy::ids::ApiKeyId,
    store::{
        AuditEvent, Store as Facts,
        quota_lists::{QuotaParts, QuotaQuery, QuotaReset, key_of_text, key_text},
        quotas::QuotaUsage,
    },
};

/// Accounts in one reading.
const PAGE: u32 = 200;

/// Carries the command out; what is to be printed.
///
/// # Errors
/// Nothing was changed.
pub(super) async fn quotas(command: &Quotas, settings: &Settings, rim: &Rim) -> Result<String, CommandFault> {
    let (_, store) = open(settings).await?;
    match command {
        Quotas::List { at, quota, limit } => {
            let wanted = QuotaQuery { quota: quota.clone(), ..QuotaQuery::default() };
            let accounts = list(&*store, wanted, *limit, rim).await?;
            Ok(if at.json { in_json(&accounts, settings) } else { table(&accounts, settings) })
        }
        Quotas::Show { at, quota, whose } => {
            let key = Some(key(&*store, quota, whose, settings).await?);
            let wanted = QuotaQuery { quota: Some(quota.clone()), key, after: None };
            let accounts = list(&*store, wanted, PAGE, rim).await?;
            Ok(if at.json { in_json(&accounts, settings) } else { table(&accounts, settings) })
        }
        Quotas::Reset { at, quota, whose, all } => {
            let key = if *all { None } else { Some(key(&*store, quota, whose, settings).await?) };
            let what = QuotaReset { quota: quota.clone(), key };
            let accounts = store.reset_quota(&what, &by_cli(AuditEvent::QuotaReset, rim.clock.now())).await?;
            if accounts == 0 {
                return Err(CommandFault::NothingUsed(quota.clone()));
            }
            Ok(if at.json { json!({"reset": accounts}).to_string() } else { "reset".to_owned() })
        }
    }
}

async fn list(
    store: &dyn Facts,
    mut query: QuotaQuery,
    limit: u32,
    rim: &Rim,
) -> Result<Vec<QuotaUsage>, CommandFault> {
    let mut all = Vec::new();
    loop {
        let left = u32::try_from(all.len()).map_or(0, |held| limit.saturating_sub(held));
        if left == 0 {
            return Ok(all);
        }
        let page = store.quota_page(&query, rim.clock.now(), left.min(PAGE)).await?;
        all.extend(page.accounts);
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(all),
        }
    }
}

/// The account that is meant.
async fn key(store: &dyn Facts, quota: &str, whose: &WhoseArgs, settings: &Settings) -> Result<[u8; 16], CommandFault> {
    if let Some(text) = &whose.key {
        return key_of_text(text).ok_or_else(|| CommandFault::QuotaKey(text.clone()));
    }
    let known = named(quota, settings).ok_or_else(|| CommandFault::UnknownQuota(quota.to_owned()))?;
    let user = match &whose.user {
        Some(user) => Some(found(store, user).await?.id),
        None => None,
    };
    let (api_key, address) = (whose.api_key.map(ApiKeyId), whose.address);
    let parts = QuotaParts { user, api_key, org: whose.org.clone(), address, route: whose.route.clone() };
    let key = parts.key(&known.key, &settings.tokens.issuer);
    key.ok_or_else(|| CommandFault::NotCountedBy(quota.to_owned(), known.key.to_string()))
}

fn named<'s>(quota: &str, settings: &'s Settings) -> Option<&'s Arc<Quota>> {
    settings.quotas.iter().find(|known| *known.name == *quota)
}

/// How much there is, and by whom it is counted: of a quota that is configured as it was when this was used.
fn limit_of<'s>(usage: &QuotaUsage, settings: &'s Settings) -> Option<&'s Arc<Quota>> {
    named(&usage.quota, settings).filter(|quota| quota.kind() == usage.kind)
}

fn in_json(accounts: &[QuotaUsage], settings: &Settings) -> String {
    let one = |usage: &QuotaUsage| -> Value {
        let (counts, per) = usage.kind.split_once('/').unwrap_or((&usage.kind, ""));
        let known = limit_of(usage, settings);
        json!({
            "quota": usage.quota,
            "counts": counts,
            "per": per,
            "by": known.map(|quota| quota.key.to_string()),
            "key": key_text(&usage.key),
            "used": usage.used,
            "limit": known.map(|quota| quota.limit),
            "since": moment(usage.window.start),
            "until": moment(usage.window.end),
        })
    };
    format!("{:#}", Value::Array(accounts.iter().map(one).collect()))
}

fn table(accounts: &[QuotaUsage], settings: &Settings) -> String {
    let mut out =
        format!("{:<24} {:<14} {:<20} {:>16} {:>16} {:<20} key", "quota", "counts", "by", "used", "limit", "until");
    for usage in accounts {
        let known = limit_of(usage, settings);
        let _ = write!(
            out,
            "\n{:<24} {:<14} {:<20} {:>16} {:>16} {:<20} {}",
            usage.quota,
            usage.kind,
            known.map_or_else(|| "-".to_owned(), |quota| quota.key.to_string()),
            usage.used,
            known.map_or_else(|| "-".to_owned(), |quota| quota.limit.to_string()),
            moment(usage.window.end),
            key_text(&usage.key),
        );
    }
    out
}
