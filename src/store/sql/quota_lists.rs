//! Accounts of quotas, for operators.

use async_trait::async_trait;

use super::{SqlStore, audit, link::Link, query::Query, quotas::usage_of, read, write};
use crate::{
    clock::Timestamp,
    store::{
        AuditEntry, StoreFault,
        audit::Particular,
        feed::News,
        quota_lists::{QuotaLists, QuotaPage, QuotaPlace, QuotaQuery, QuotaReset, key_text},
    },
};

#[async_trait]
impl QuotaLists for SqlStore {
    async fn quota_page(&self, query: &QuotaQuery, now: Timestamp, most: u32) -> Result<QuotaPage, StoreFault> {
        read!(self, link => page(&mut link, query, now, most))
    }

    async fn reset_quota(&self, what: &QuotaReset, audit: &AuditEntry) -> Result<u64, StoreFault> {
        if what.key.is_some() {
            return write!(self, link => reset_one(&mut link, what, audit));
        }
        let mut accounts = 0;
        for kind in KINDS {
            let mut after = (Vec::new(), Timestamp::from_micros(0));
            // Each part is a transaction of its own: however many there are, it is done within the store's time-out, and
            // nobody waits for more than one. Ends, since no account comes twice.
            while let Some((reset, last)) = write!(self, link => reset_some(&mut link, what, (kind, &after), audit))? {
                accounts += reset;
                after = last;
            }
        }
        Ok(accounts)
    }
}

/// Accounts that are set to nothing in one transaction.
const RESET_AT_ONCE: i64 = 1_000;

/// All that quotas count and for how long.
const KINDS: [&str; 9] = [
    "requests/hour",
    "requests/day",
    "requests/month",
    "tokens/hour",
    "tokens/day",
    "tokens/month",
    "cost/hour",
    "cost/day",
    "cost/month",
];

/// What an account may be of, so that its row is found by the primary key, whatever is configured now.
macro_rules! kinds {
    () => {
        "kind IN ('requests/hour', 'requests/day', 'requests/month', 'tokens/hour', 'tokens/day', 'tokens/month', \
         'cost/hour', 'cost/day', 'cost/month')"
    };
}

/// A page of those that meet a condition on $1 to $4; what is not asked for is bound all the same.
macro_rules! page {
    ($($which:expr),*) => {
        concat!(
            "SELECT quota, kind, key, period_start, period_end, used FROM quota_usage WHERE ",
            $($which,)*
            " AND ($5 OR used < $6 OR (used = $6 AND (quota, kind, key, period_start) > ($7, $8, $9, $10))) \
             ORDER BY used DESC, quota, kind, key, period_start LIMIT $11",
        )
    };
}

const PAGE: &str = page!("period_end > $1 AND ($2 = '' OR quota = $2) AND ($3 OR key = $4)");
const PAGE_OF_ONE: &str = page!("period_end > $1 AND quota = $2 AND NOT $3 AND key = $4 AND ", kinds!());

async fn page(link: &mut Link, query: &QuotaQuery, now: Timestamp, most: u32) -> Result<QuotaPage, StoreFault> {
    let rows = Query::new(if query.quota.is_some() && query.key.is_some() { PAGE_OF_ONE } else { PAGE });
    let (any, key) = (query.key.is_none(), query.key.unwrap_or_default());
    let rows = rows.bind(now).bind(query.quota.as_deref().unwrap_or_default()).bind(any).bind(&key[..]);
    let first = QuotaPlace { used: 0, quota: String::new(), kind: String::new(), key: Vec::new(), start: 0 };
    let after = query.after.as_ref().unwrap_or(&first);
    let rows = rows.bind(query.after.is_none()).bind(after.used).bind(&*after.quota).bind(&*after.kind);
    let rows = rows.bind(&after.key[..]).bind(Timestamp::from_micros(after.start)).bind(i64::from(most) + 1);
    let mut accounts = rows.rows(link).await?.iter().map(usage_of).collect::<Result<Vec<_>, _>>()?;
    let more = accounts.len() > most as usize;
    accounts.truncate(most as usize);
    let next = accounts.last().filter(|_| more).map(QuotaPlace::of);
    Ok(QuotaPage { accounts, next })
}

macro_rules! next {
    ($lock:literal) => {
        concat!(
            "SELECT key, period_start FROM quota_usage WHERE quota = $1 AND kind = $2 AND period_end > $3 \
             AND (key, period_start) > ($4, $5) ORDER BY key, period_start LIMIT $6",
            $lock
        )
    };
}

const RESET_SOME: &str = "UPDATE quota_usage SET used = 0, epoch = epoch + 1 WHERE quota = $1 AND kind = $2 \
    AND key BETWEEN $4 AND $6 AND period_end > $3 AND (key, period_start) > ($4, $5) \
    AND (key, period_start) <= ($6, $7) AND used > 0";

const RESET_ONE: &str = concat!(
    "UPDATE quota_usage SET used = 0, epoch = epoch + 1 WHERE quota = $1 AND period_end > $2 AND used > 0 \
     AND key = $3 AND ",
    kinds!()
);

async fn reset_one(link: &mut Link, what: &QuotaReset, entry: &AuditEntry) -> Result<u64, StoreFault> {
    let key = what.key.unwrap_or_default();
    let accounts = Query::new(RESET_ONE).bind(&*what.quota).bind(entry.at).bind(&key[..]).execute(link).await?;
    if accounts > 0 {
        tell(link, what, accounts, entry).await?;
    }
    Ok(accounts)
}

/// A key and the period's first moment.
type Place = (Vec<u8>, Timestamp);

/// The next of one kind behind a place, locked in the order in which gateways give back, so that neither waits for the other.
/// Of how many anything was used, and the last of them; `None`: there are no more.
async fn reset_some(
    link: &mut Link,
    what: &QuotaReset,
    (kind, after): (&str, &Place),
    entry: &AuditEntry,
) -> Result<Option<(u64, Place)>, StoreFault> {
    let next = Query::new(next!("")).on_postgres(next!(" FOR UPDATE"));
    let next = next.bind(&*what.quota).bind(kind).bind(entry.at).bind(&after.0[..]).bind(after.1);
    let rows = next.bind(RESET_AT_ONCE).rows(link).await?;
    let Some(row) = rows.last() else { return Ok(None) };
    let last = (row.bytes("key")?, row.time("period_start")?);
    let query = Query::new(RESET_SOME).bind(&*what.quota).bind(kind).bind(entry.at).bind(&after.0[..]).bind(after.1);
    let accounts = query.bind(&last.0[..]).bind(last.1).execute(link).await?;
    if accounts > 0 {
        tell(link, what, accounts, entry).await?;
    }
    Ok(Some((accounts, last)))
}

/// In the same transaction: who did it, and what gateways are to know.
async fn tell(link: &mut Link, what: &QuotaReset, accounts: u64, entry: &AuditEntry) -> Result<(), StoreFault> {
    let key = what.key.map(|key| key_text(&key));
    let detail = entry.detail.clone().text(Particular::Quota, Some(&what.quota));
    let detail = detail.text(Particular::QuotaKey, key.as_deref());
    let detail = detail.count(Particular::Rows, usize::try_from(accounts).unwrap_or(usize::MAX));
    audit::append(link, &AuditEntry { detail, ..entry.clone() }).await?;
    link.tell(entry.at, None, News::Quota(what.clone()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};

    use super::*;
    use crate::policy::quota::{Period, Unit};

    #[test]
    fn every_kind_of_quota_is_looked_for() {
        for unit in [Unit::Requests, Unit::Tokens, Unit::Cost] {
            for period in [Period::Hour, Period::Day, Period::Month] {
                let kind = format!("{}/{}", unit.as_str(), period.as_str());
                assert!(KINDS.contains(&&*kind) && kinds!().contains(&format!("'{kind}'")), "{kind}");
            }
        }
    }

    /// On SQLite, whose plan does not hang on how much there is.
    #[tokio::test]
    async fn one_account_is_found_by_the_primary_key() {
        let mut link = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        let table = include_str!("../../../migrations/sqlite/0012_quota_usage.sql");
        sqlx::raw_sql(table).execute(&mut link).await.unwrap();
        for sql in [PAGE_OF_ONE, RESET_ONE] {
            let plan = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")));
            let plan = plan.fetch_all(&mut link).await.unwrap();
            let plan: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
            assert!(plan.iter().any(|step| step.contains("(quota=? AND kind=? AND key=?)")), "{sql}: {plan:?}");
        }
    }
}
