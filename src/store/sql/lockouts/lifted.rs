//! How a lockout is lifted, and what is forgotten by itself.

use std::time::Duration;

use crate::{
    clock::Timestamp,
    policy::{
        ids::UserId,
        lockout::{Counter, LockoutRules, Tally},
    },
    store::{
        AuditEntry, StoreFault,
        audit::Particular,
        lockouts::Lift,
        sql::{
            audit,
            link::Link,
            query::{Bind, Query},
        },
    },
};

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

/// What says nothing any more of one table, for each engine: rows that somebody holds are in use. `$1`: of before when;
/// `$2`: at most so many; `$3`: what else the rule goes by, if it does.
macro_rules! old {
    ($table:literal, $key:literal, $which:literal, by $age:literal) => {
        [old!($table, $key, $which, $age, ""), old!($table, $key, $which, $age, " FOR UPDATE SKIP LOCKED")]
    };
    ($table:literal, $key:literal, $which:literal, $age:literal, $lock:literal) => {
        concat!(
            "DELETE FROM ",
            $table,
            " WHERE (",
            $key,
            ") IN (SELECT ",
            $key,
            " FROM ",
            $table,
            " WHERE ",
            $which,
            " ORDER BY ",
            $age,
            " LIMIT $2",
            $lock,
            ")"
        )
    };
}

/// A user's hard stop stays until it is lifted; what is not a user's is a mere name's.
const ACCOUNTS: [&str; 2] = old!(
    "login_accounts",
    "account",
    "last_at < $1 AND pending_until < $1 AND (failures < $3 OR length(account) > 16)",
    by "last_at"
);
const PAIRS: [&str; 2] = old!("login_pairs", "address, account", "last_at < $1 AND pending_until < $1", by "last_at");
const ADDRESSES: [&str; 2] =
    old!("login_addresses", "address", "last_at < $1 AND pending_until < $1 AND waits_until < $3", by "last_at");
const DEVICES: [&str; 2] = old!("login_devices", "nonce", "expires_at < $1", by "expires_at");
const PACED: [&str; 2] = old!("paced_calls", "purpose, subject", "due_at < $1", by "due_at");

/// Each statement holds rows of one table only, so that no attempt waits for it in a circle.
pub(super) async fn prune(link: &mut Link, rules: &LockoutRules, now: Timestamp, most: u32) -> Result<u64, StoreFault> {
    let (forgotten, window) = (now.minus(rules.account.forget_after), now.minus(rules.address.window));
    let stop = u64::from(rules.account.hard_stop.get());
    let mut gone = 0;
    for ([anywhere, on_postgres], before, more) in [
        (ACCOUNTS, forgotten, Some(Bind::from(stop))),
        (PAIRS, window, None),
        (ADDRESSES, window, Some(Bind::from(now))),
        (DEVICES, now, None),
        (PACED, now, None),
    ] {
        let query = Query::new(anywhere).on_postgres(on_postgres).bind(before).bind(i64::from(most));
        let query = match more {
            Some(more) => query.bind(more),
            None => query,
        };
        gone += query.execute(link).await?;
    }
    Ok(gone)
}
