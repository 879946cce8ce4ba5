//! The first look at an attempt, which holds and writes nothing. It refuses an address in its wait, and whoever asks
//! while as many attempts are under way as could fail; all else is decided by `attempts`, with the rows held.

use super::{
    attempts::{Held, Place, accounts_failed},
    tally_of,
};
use crate::{
    clock::Timestamp,
    policy::{
        device_cookie::Device,
        lockout::{LockoutRules, Tally, Verdict},
    },
    store::{
        StoreFault,
        lockouts::Attempt,
        sql::{link::Link, query::Query},
    },
};

/// An address's wait, or that as many attempts are under way as could fail. Whatever else it is, is decided and written
/// while everything is held.
pub(super) async fn refusal(
    link: &mut Link,
    attempt: &Attempt,
    rules: &LockoutRules,
    now: Timestamp,
) -> Result<Option<Verdict>, StoreFault> {
    if let Some(device) = &attempt.device {
        let tally = device_tally(link, device).await?.at(now);
        if let Some(verdict) = rules.device.judge(&tally, now) {
            return Ok(busy(verdict));
        }
    }
    let held = seen(link, attempt, rules, now).await?;
    if now < held.place.waits_until {
        return Ok(Some(held.place.wait()));
    }
    Ok(busy(held.judge(rules, now)))
}

fn busy(verdict: Verdict) -> Option<Verdict> {
    matches!(verdict, Verdict::Busy(_)).then_some(verdict)
}

/// What it will be judged by; what has no row says nothing.
async fn seen(link: &mut Link, attempt: &Attempt, rules: &LockoutRules, now: Timestamp) -> Result<Held, StoreFault> {
    let address = attempt.address.to_string();
    let rows = Query::new(
        "SELECT CAST(0 AS bigint) AS kind, CAST(0 AS bigint) AS failures, last_at, pending, pending_until, \
         waits_until, counted_from FROM login_addresses WHERE address = $1 \
         UNION ALL SELECT 1, failures, last_at, pending, pending_until, last_at, last_at FROM login_accounts \
         WHERE account = $2 \
         UNION ALL SELECT 2, failures, last_at, pending, pending_until, last_at, last_at FROM login_pairs \
         WHERE address = $1 AND account = $2",
    );
    let rows = rows.bind(address.as_str()).bind(attempt.account.as_bytes()).rows(link).await?;
    let mut place = Place::unknown(address);
    let (mut account, mut pair) = (Tally::NONE, Tally::NONE);
    for row in &rows {
        let tally = tally_of(row)?;
        match row.count("kind")? {
            0 => {
                place.tally = tally.at(now);
                (place.waits_until, place.counted_from) = (row.time("waits_until")?, row.time("counted_from")?);
            }
            1 => account = tally,
            _ => pair = tally,
        }
    }
    // With none of its attempts under way it is not busy, however many accounts it has failed with.
    if place.tally.pending > 0 {
        place.tally.failures = accounts_failed(link, &place, rules, now).await?;
    }
    Ok(Held::new(place, account, pair, rules, now))
}

async fn device_tally(link: &mut Link, device: &Device) -> Result<Tally, sqlx::Error> {
    let row = Query::new("SELECT failures, last_at, pending, pending_until FROM login_devices WHERE nonce = $1");
    row.bind(device.nonce).row(link).await?.as_ref().map_or(Ok(Tally::NONE), tally_of)
}
