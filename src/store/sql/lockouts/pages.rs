//! What is locked, page by page: counter after counter, of each the latest failure first. A row is a candidate by its
//! numbers; whether it is locked now is the rules' to say, so that rows are read until a page is full.

use std::net::IpAddr;

use async_trait::async_trait;

use super::{
    super::{SqlStore, read, write},
    lifted::lifting,
    tally_of,
};
use crate::{
    clock::Timestamp,
    policy::{
        ids::UserId,
        lockout::{Counter, LockoutRules, Tally, Verdict},
    },
    store::{
        AuditEntry, StoreFault,
        audit::Particular,
        lockout_lists::{LockoutLists, LockoutPage, LockoutQuery, ORDER, Place},
        lockouts::{Attempted, Locked, Lockout},
        sql::{
            audit,
            link::Link,
            query::{Query, Row},
        },
    },
};

/// Rows read at once.
const BATCH: u32 = 200;

/// Rows read for one page; then it stays short.
const MOST_READ: u32 = 5_000;

#[async_trait]
impl LockoutLists for SqlStore {
    async fn lockout_page(
        &self,
        query: &LockoutQuery,
        rules: &LockoutRules,
        now: Timestamp,
        most: u32,
    ) -> Result<LockoutPage, StoreFault> {
        read!(self, link => page(&mut link, query, rules, now, most))
    }

    async fn lift_pair(&self, account: &Attempted, address: IpAddr, audit: &AuditEntry) -> Result<bool, StoreFault> {
        write!(self, link => lift_pair(&mut link, account, address, audit))
    }
}

async fn page(
    link: &mut Link,
    query: &LockoutQuery,
    rules: &LockoutRules,
    now: Timestamp,
    most: u32,
) -> Result<LockoutPage, StoreFault> {
    let begun = query.after.map(|after| after.what.counter());
    let from = ORDER.iter().position(|counter| begun.is_none_or(|begun| begun == *counter)).unwrap_or_default();
    let (mut page, mut read) = (LockoutPage::default(), 0);
    for counter in ORDER.into_iter().skip(from).filter(|counter| query.asks(*counter)) {
        let mut after = query.after.filter(|after| after.what.counter() == counter);
        loop {
            let rows = candidates(link, counter, query, after, rules, now).await?;
            for row in &rows {
                let (place, locked) = judged(row, counter, rules, now)?;
                after = Some(place);
                page.lockouts.extend(locked);
                if page.lockouts.len() >= most as usize {
                    return Ok(LockoutPage { next: after, ..page });
                }
            }
            read += BATCH;
            if rows.len() < BATCH as usize {
                break;
            }
            if read >= MOST_READ {
                return Ok(LockoutPage { next: after, ..page });
            }
        }
    }
    Ok(page)
}

/// The next rows of a counter that may be locked.
async fn candidates(
    link: &mut Link,
    counter: Counter,
    query: &LockoutQuery,
    after: Option<Place>,
    rules: &LockoutRules,
    now: Timestamp,
) -> Result<Vec<Row>, sqlx::Error> {
    let last = after.map(|after| after.last);
    let account = query.account.as_ref().map(Attempted::as_bytes);
    let from = query.address.map(|address| address.to_string());
    let place_account = after.and_then(|after| after.what.account());
    let place_account = place_account.as_ref().map(Attempted::as_bytes);
    let place_address = after.and_then(|after| after.what.address()).map(|address| address.to_string());
    let statement = match counter {
        Counter::Account => Query::new(
            "SELECT account, failures, last_at, pending, pending_until FROM login_accounts \
             WHERE (failures >= $2 OR (failures >= $3 AND last_at > $1)) AND ($4 IS NULL OR account = $4) \
             AND ($5 IS NULL OR last_at < $5 OR (last_at = $5 AND account > $6)) ORDER BY last_at DESC, account LIMIT $7",
        )
        .bind(now.minus(rules.account.slow_most))
        .bind(u64::from(rules.account.hard_stop.get()))
        .bind(u64::from(rules.account.slow_after.get()))
        .bind(account)
        .bind(last)
        .bind(place_account),
        Counter::Address => Query::new(
            "SELECT a.address, a.waits_until, a.last_at, (SELECT count(*) FROM login_pairs p \
             WHERE p.address = a.address AND p.failures > 0 AND p.last_at >= $2 AND p.last_at >= a.counted_from) \
             AS accounts FROM login_addresses a WHERE a.waits_until > $1 AND ($3 IS NULL OR a.address = $3) \
             AND ($4 IS NULL OR a.last_at < $4 OR (a.last_at = $4 AND a.address > $5)) \
             ORDER BY a.last_at DESC, a.address LIMIT $6",
        )
        .bind(now)
        .bind(now.minus(rules.address.window))
        .bind(from.as_deref())
        .bind(last)
        .bind(place_address.as_deref()),
        Counter::Device => Query::new(
            "SELECT nonce, user_id, failures, last_at FROM login_devices WHERE failures >= $1 \
             AND ($2 IS NULL OR user_id = $2) AND ($3 IS NULL OR last_at < $3 OR (last_at = $3 AND nonce > $4)) \
             ORDER BY last_at DESC, nonce LIMIT $5",
        )
        .bind(u64::from(rules.device.failures.get()))
        .bind(query.account.and_then(|account| account.user()))
        .bind(last)
        .bind(after.and_then(|after| match after.what {
            Locked::Device(_, nonce) => Some(UserId(nonce)),
            _ => None,
        })),
        Counter::Pair => Query::new(
            "SELECT address, account, failures, last_at, pending, pending_until FROM login_pairs \
             WHERE last_at > $1 AND failures >= $2 AND ($3 IS NULL OR account = $3) AND ($4 IS NULL OR address = $4) \
             AND ($5 IS NULL OR last_at < $5 OR (last_at = $5 AND (address, account) > ($6, $7))) \
             ORDER BY last_at DESC, address, account LIMIT $8",
        )
        .bind(now.minus(rules.pair.waits.iter().max().copied().unwrap_or_default()))
        .bind(u64::from(rules.pair.free.get()))
        .bind(account)
        .bind(from.as_deref())
        .bind(last)
        .bind(place_address.as_deref())
        .bind(place_account),
    };
    statement.bind(i64::from(BATCH)).rows(link).await
}

/// Where a row stands, and what it is when it is locked.
fn judged(
    row: &Row,
    counter: Counter,
    rules: &LockoutRules,
    now: Timestamp,
) -> Result<(Place, Option<Lockout>), StoreFault> {
    let (what, locked) = match counter {
        Counter::Account => {
            let (what, tally) = (Locked::Account(attempted(row)?), tally_of(row)?);
            (what, lockout(what, &tally, rules.account.judge(&tally, now)))
        }
        Counter::Pair => {
            let (what, tally) = (Locked::Pair(attempted(row)?, address(row)?), tally_of(row)?);
            (what, lockout(what, &tally, rules.pair.judge(&tally, now)))
        }
        Counter::Address => {
            let what = Locked::Address(address(row)?);
            let (failures, until) = (row.count("accounts")?, Some(row.time("waits_until")?));
            (what, Some(Lockout { what, failures, last: row.time("last_at")?, until }))
        }
        Counter::Device => {
            let what = Locked::Device(UserId(row.id("user_id")?), row.id("nonce")?);
            (what, Some(Lockout { what, failures: row.count("failures")?, last: row.time("last_at")?, until: None }))
        }
    };
    Ok((Place { what, last: row.time("last_at")? }, locked))
}

/// What a counter says of what is under way makes nothing locked.
fn lockout(what: Locked, tally: &Tally, verdict: Verdict) -> Option<Lockout> {
    let until = match verdict {
        Verdict::Wait(_, until) => Some(until),
        Verdict::Stopped => None,
        Verdict::Admit | Verdict::Busy(_) => return None,
    };
    Some(Lockout { what, failures: tally.failures, last: tally.last, until })
}

fn attempted(row: &Row) -> Result<Attempted, StoreFault> {
    let odd = || StoreFault::Inconsistent("an account that failures are counted for has an odd id".into());
    Attempted::from_bytes(&row.bytes("account")?).ok_or_else(odd)
}

fn address(row: &Row) -> Result<IpAddr, StoreFault> {
    let text = row.text("address")?;
    text.parse().map_err(|_| StoreFault::Inconsistent("failures are counted for what is no address".into()))
}

async fn lift_pair(
    link: &mut Link,
    account: &Attempted,
    address: IpAddr,
    entry: &AuditEntry,
) -> Result<bool, StoreFault> {
    let address = address.to_string();
    let pairs = Query::new(lifting!("login_pairs", "address = $1 AND account = $3"));
    let lifted = pairs.bind(address.as_str()).bind(entry.at).bind(account.as_bytes()).execute(link).await?;
    if lifted > 0 {
        let detail = entry.detail.clone().text(Particular::Counter, Some(Counter::Pair.as_str()));
        let detail =
            detail.text(Particular::Name, account.digest().as_deref()).text(Particular::Prefix, Some(&address));
        audit::append(link, &AuditEntry { user: account.user(), detail, ..entry.clone() }).await?;
    }
    Ok(lifted > 0)
}
