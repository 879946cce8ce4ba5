//! What is locked, how it is lifted, and what is forgotten.

use std::{net::IpAddr, time::Duration};

use super::tally_of;
use crate::{
    clock::Timestamp,
    policy::{
        ids::UserId,
        lockout::{Counter, LockoutRules, Tally, Verdict},
    },
    store::{
        AuditEntry, StoreFault,
        audit::Particular,
        lockouts::{Attempted, Lift, Locked, Lockout},
        sql::{
            audit,
            link::Link,
            query::{Query, Row},
        },
    },
};

pub(super) async fn list(
    link: &mut Link,
    counter: Counter,
    rules: &LockoutRules,
    now: Timestamp,
    most: u32,
) -> Result<Vec<Lockout>, StoreFault> {
    match counter {
        Counter::Pair => pairs(link, rules, now, most).await,
        Counter::Account => accounts(link, rules, now, most).await,
        Counter::Address => addresses(link, rules, now, most).await,
        Counter::Device => devices(link, rules, most).await,
    }
}

async fn pairs(link: &mut Link, rules: &LockoutRules, now: Timestamp, most: u32) -> Result<Vec<Lockout>, StoreFault> {
    let longest = rules.pair.waits.iter().max().copied().unwrap_or_default();
    let rows = Query::new(
        "SELECT address, account, failures, last_at, pending, pending_until FROM login_pairs \
         WHERE last_at > $1 AND failures >= $2 ORDER BY last_at DESC, address, account LIMIT $3",
    );
    let free = u64::from(rules.pair.free.get());
    let rows = rows.bind(now.minus(longest)).bind(free).bind(i64::from(most)).rows(link).await?;
    let locked = rows.iter().map(|row| {
        let (what, tally) = (Locked::Pair(attempted(row)?, address(row)?), tally_of(row)?);
        Ok(lockout(what, &tally, rules.pair.judge(&tally, now)))
    });
    locked.filter_map(Result::transpose).collect()
}

async fn accounts(
    link: &mut Link,
    rules: &LockoutRules,
    now: Timestamp,
    most: u32,
) -> Result<Vec<Lockout>, StoreFault> {
    let rows = Query::new(
        "SELECT account, failures, last_at, pending, pending_until FROM login_accounts \
         WHERE failures >= $2 OR (failures >= $3 AND last_at > $1) ORDER BY last_at DESC, account LIMIT $4",
    )
    .bind(now.minus(rules.account.slow_most))
    .bind(u64::from(rules.account.hard_stop.get()))
    .bind(u64::from(rules.account.slow_after.get()))
    .bind(i64::from(most))
    .rows(link)
    .await?;
    let locked = rows.iter().map(|row| {
        let (what, tally) = (Locked::Account(attempted(row)?), tally_of(row)?);
        Ok(lockout(what, &tally, rules.account.judge(&tally, now)))
    });
    locked.filter_map(Result::transpose).collect()
}

/// What a counter says of what is under way makes nothing locked.
pub(super) fn lockout(what: Locked, tally: &Tally, verdict: Verdict) -> Option<Lockout> {
    let until = match verdict {
        Verdict::Wait(_, until) => Some(until),
        Verdict::Stopped => None,
        Verdict::Admit | Verdict::Busy(_) => return None,
    };
    Some(Lockout { what, failures: tally.failures, last: tally.last, until })
}

async fn addresses(
    link: &mut Link,
    rules: &LockoutRules,
    now: Timestamp,
    most: u32,
) -> Result<Vec<Lockout>, StoreFault> {
    let rows = Query::new(
        "SELECT a.address, a.waits_until, a.last_at, (SELECT count(*) FROM login_pairs p WHERE p.address = a.address \
         AND p.failures > 0 AND p.last_at >= $2 AND p.last_at >= a.counted_from) AS accounts FROM login_addresses a \
         WHERE a.waits_until > $1 ORDER BY a.last_at DESC, a.address LIMIT $3",
    );
    let rows = rows.bind(now).bind(now.minus(rules.address.window)).bind(i64::from(most)).rows(link).await?;
    let locked = rows.iter().map(|row| {
        Ok(Lockout {
            what: Locked::Address(address(row)?),
            failures: row.count("accounts")?,
            last: row.time("last_at")?,
            until: Some(row.time("waits_until")?),
        })
    });
    locked.collect()
}

async fn devices(link: &mut Link, rules: &LockoutRules, most: u32) -> Result<Vec<Lockout>, StoreFault> {
    let rows = Query::new(
        "SELECT nonce, user_id, failures, last_at FROM login_devices WHERE failures >= $1 \
         ORDER BY last_at DESC, nonce LIMIT $2",
    );
    let rows = rows.bind(u64::from(rules.device.failures.get())).bind(i64::from(most)).rows(link).await?;
    let locked = rows.iter().map(|row| {
        Ok(Lockout {
            what: Locked::Device(UserId(row.id("user_id")?), row.id("nonce")?),
            failures: row.count("failures")?,
            last: row.time("last_at")?,
            until: None,
        })
    });
    locked.collect()
}

/// Forgets failures, `$2` being now; those whose end nobody told in time too.
macro_rules! lifting {
    ($table:literal, $which:literal $(, $returning:literal)?) => {
        concat!(
            "UPDATE ",
            $table,
            " SET failures = 0, pending = CASE WHEN pending_until <= $2 THEN 0 ELSE pending END WHERE ",
            $which,
            " AND (failures > 0 OR (pending > 0 AND pending_until <= $2))"
            $(, $returning)?
        )
    };
}
pub(super) use lifting;

pub(super) fn attempted(row: &Row) -> Result<Attempted, StoreFault> {
    let odd = || StoreFault::Inconsistent("an account that failures are counted for has an odd id".into());
    Attempted::from_bytes(&row.bytes("account")?).ok_or_else(odd)
}

pub(super) fn address(row: &Row) -> Result<IpAddr, StoreFault> {
    let text = row.text("address")?;
    text.parse().map_err(|_| StoreFault::Inconsistent("failures are counted for what is no address".into()))
}

/// In the order in which attempts hold rows. What a gateway that died has left under way has failed by its end, whether
/// anybody has come since or not, and is forgotten too.
pub(super) async fn lift(link: &mut Link, what: &Lift, entry: &AuditEntry) -> Result<bool, StoreFault> {
    let detail = entry.detail.clone();
    let (lifted, user, detail) = match what {
        Lift::Account(account) => {
            let accounts = Query::new(lifting!("login_accounts", "account = $1"));
            let lifted = accounts.bind(account.as_bytes()).bind(entry.at).execute(link).await?;
            let pairs = Query::new(lifting!("login_pairs", "account = $1"));
            let lifted = lifted + pairs.bind(account.as_bytes()).bind(entry.at).execute(link).await?;
            let detail = detail.text(Particular::Counter, Some(Counter::Account.as_str()));
            (lifted, account.user(), detail.text(Particular::Name, account.digest().as_deref()))
        }
        Lift::Address(address) => {
            let address = address.to_string();
            let addresses = Query::new(
                "UPDATE login_addresses SET counted_from = $2, waits_until = $3, \
                 pending = CASE WHEN pending_until <= $4 THEN 0 ELSE pending END WHERE address = $1 \
                 AND ((last_at > $3 AND last_at >= counted_from) OR (pending > 0 AND pending_until <= $4))",
            );
            let from = entry.at.plus(Duration::from_micros(1));
            let addresses = addresses.bind(address.as_str()).bind(from).bind(Tally::NONE.last).bind(entry.at);
            let lifted = addresses.execute(link).await?;
            let detail = detail.text(Particular::Counter, Some(Counter::Address.as_str()));
            (lifted, None, detail.text(Particular::Prefix, Some(&address)))
        }
        Lift::Device(nonce) => {
            let devices = Query::new(lifting!("login_devices", "nonce = $1", " RETURNING user_id"));
            let row = devices.bind(*nonce).bind(entry.at).row(link).await?;
            let user = row.map(|row| row.id("user_id")).transpose()?.map(UserId);
            let detail = detail.text(Particular::Counter, Some(Counter::Device.as_str()));
            (u64::from(user.is_some()), user, detail)
        }
    };
    if lifted > 0 {
        audit::append(link, &AuditEntry { user, detail, ..entry.clone() }).await?;
    }
    Ok(lifted > 0)
}

macro_rules! old_accounts {
    ($lock:literal) => {
        concat!(
            "DELETE FROM login_accounts WHERE account IN (SELECT account FROM login_accounts \
             WHERE last_at < $1 AND pending_until < $1 AND (failures < $2 OR length(account) > 16) \
             ORDER BY last_at LIMIT $3",
            $lock,
            ")"
        )
    };
}
macro_rules! old_pairs {
    ($lock:literal) => {
        concat!(
            "DELETE FROM login_pairs WHERE (address, account) IN (SELECT address, account FROM login_pairs \
             WHERE last_at < $1 AND pending_until < $1 ORDER BY last_at LIMIT $2",
            $lock,
            ")"
        )
    };
}
macro_rules! old_addresses {
    ($lock:literal) => {
        concat!(
            "DELETE FROM login_addresses WHERE address IN (SELECT address FROM login_addresses \
             WHERE last_at < $1 AND pending_until < $1 AND waits_until < $2 ORDER BY last_at LIMIT $3",
            $lock,
            ")"
        )
    };
}
macro_rules! old_devices {
    ($lock:literal) => {
        concat!(
            "DELETE FROM login_devices WHERE nonce IN (SELECT nonce FROM login_devices \
             WHERE expires_at < $1 ORDER BY expires_at LIMIT $2",
            $lock,
            ")"
        )
    };
}
macro_rules! old_paced {
    ($lock:literal) => {
        concat!(
            "DELETE FROM paced_calls WHERE (purpose, subject) IN (SELECT purpose, subject FROM paced_calls \
             WHERE due_at < $1 ORDER BY due_at LIMIT $2",
            $lock,
            ")"
        )
    };
}

/// Each statement holds rows of one table only, so that no attempt waits for it in a circle; rows that somebody holds
/// are in use.
pub(super) async fn prune(link: &mut Link, rules: &LockoutRules, now: Timestamp, most: u32) -> Result<u64, StoreFault> {
    let most = i64::from(most);
    let window = now.minus(rules.address.window);
    let forgotten = now.minus(rules.account.forget_after);
    let accounts = Query::new(old_accounts!("")).on_postgres(old_accounts!(" FOR UPDATE SKIP LOCKED"));
    let stop = u64::from(rules.account.hard_stop.get());
    let mut gone = accounts.bind(forgotten).bind(stop).bind(most).execute(link).await?;
    let pairs = Query::new(old_pairs!("")).on_postgres(old_pairs!(" FOR UPDATE SKIP LOCKED"));
    gone += pairs.bind(window).bind(most).execute(link).await?;
    let addresses = Query::new(old_addresses!("")).on_postgres(old_addresses!(" FOR UPDATE SKIP LOCKED"));
    gone += addresses.bind(window).bind(now).bind(most).execute(link).await?;
    let devices = Query::new(old_devices!("")).on_postgres(old_devices!(" FOR UPDATE SKIP LOCKED"));
    gone += devices.bind(now).bind(most).execute(link).await?;
    let paced = Query::new(old_paced!("")).on_postgres(old_paced!(" FOR UPDATE SKIP LOCKED"));
    gone += paced.bind(now).bind(most).execute(link).await?;
    Ok(gone)
}
