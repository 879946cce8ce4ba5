//! What is used of quotas: a row for each key in each period, locked while units are taken of it.

use super::{
    link::Link,
    query::{Query, Row},
};
use crate::{
    clock::Timestamp,
    policy::quota::{Window, granted},
    store::{
        StoreFault,
        quotas::{Account, QuotaAsk, QuotaGrant, QuotaReturn, QuotaUsage},
    },
};

/// Rows forgotten at once.
const PRUNED: i64 = 500;

fn of<'q>(account: &'q Account<'_>, sql: &'static str) -> Query<'q> {
    Query::new(sql).bind(account.quota).bind(account.kind).bind(&account.key[..]).bind(account.window.start)
}

/// What is owed is written in any case; the row is locked from then on.
pub(super) async fn take(link: &mut Link, ask: &QuotaAsk<'_>) -> Result<QuotaGrant, StoreFault> {
    let query = of(
        &ask.account,
        "INSERT INTO quota_usage (quota, kind, key, period_start, period_end, used, epoch) \
         VALUES ($1, $2, $3, $4, $5, $6, 0) ON CONFLICT (quota, kind, key, period_start) \
         DO UPDATE SET used = quota_usage.used + $6 RETURNING used, epoch",
    );
    let row = query.bind(ask.account.window.end).bind(ask.owed).row(link).await?;
    let row = row.ok_or_else(|| StoreFault::Inconsistent("a quota's row is not there".into()))?;
    let (used, epoch) = (row.count("used")?, row.count("epoch")?);
    let given = granted(ask.limit.saturating_sub(used), ask.least, ask.wanted);
    if given > 0 {
        let query = of(
            &ask.account,
            "UPDATE quota_usage SET used = used + $5 WHERE quota = $1 AND kind = $2 AND key = $3 AND period_start = $4",
        );
        query.bind(given).execute(link).await?;
    }
    Ok(QuotaGrant { given, used: used.saturating_add(given), epoch })
}

pub(super) async fn give_back(link: &mut Link, returns: &[QuotaReturn<'_>]) -> Result<(), StoreFault> {
    for one in returns {
        let query = of(
            &one.account,
            "UPDATE quota_usage SET used = CASE WHEN used > $5 THEN used - $5 ELSE 0 END \
             WHERE quota = $1 AND kind = $2 AND key = $3 AND period_start = $4 AND epoch = $6",
        );
        query.bind(one.units).bind(one.epoch).execute(link).await?;
    }
    Ok(())
}

pub(super) async fn usage(
    link: &mut Link,
    quota: Option<&str>,
    key: Option<[u8; 16]>,
    now: Timestamp,
    most: u32,
) -> Result<Vec<QuotaUsage>, StoreFault> {
    // An empty text or key is none: either is bound all the same.
    let rows = Query::new(
        "SELECT quota, kind, key, period_start, period_end, used FROM quota_usage \
         WHERE period_end > $1 AND ($2 = '' OR quota = $2) AND ($3 OR key = $4) \
         ORDER BY used DESC, quota, kind, key LIMIT $5",
    );
    let (any, key) = (key.is_none(), key.unwrap_or_default());
    let rows = rows.bind(now).bind(quota.unwrap_or_default()).bind(any).bind(&key[..]).bind(i64::from(most));
    rows.rows(link).await?.iter().map(usage_of).collect()
}

pub(super) fn usage_of(row: &Row) -> Result<QuotaUsage, StoreFault> {
    Ok(QuotaUsage {
        quota: row.text("quota")?,
        kind: row.text("kind")?,
        key: row.bytes("key")?,
        window: Window { start: row.time("period_start")?, end: row.time("period_end")? },
        used: row.count("used")?,
    })
}

macro_rules! prune {
    ($lock:literal) => {
        concat!(
            "DELETE FROM quota_usage WHERE (quota, kind, key, period_start) IN (SELECT quota, kind, key, period_start \
             FROM quota_usage WHERE period_end < $1 LIMIT $2",
            $lock,
            ")"
        )
    };
}

/// Each row goes once, and nobody waits for who is at it.
pub(super) async fn prune(link: &mut Link, before: Timestamp) -> Result<u64, StoreFault> {
    let query = Query::new(prune!("")).on_postgres(prune!(" FOR UPDATE SKIP LOCKED"));
    Ok(query.bind(before).bind(PRUNED).execute(link).await?)
}
