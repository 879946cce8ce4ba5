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
        write!(self, link => reset(&mut link, what, audit))
    }
}

async fn page(link: &mut Link, query: &QuotaQuery, now: Timestamp, most: u32) -> Result<QuotaPage, StoreFault> {
    // What is not asked for is bound all the same.
    let rows = Query::new(
        "SELECT quota, kind, key, period_start, period_end, used FROM quota_usage \
         WHERE period_end > $1 AND ($2 = '' OR quota = $2) AND ($3 OR key = $4) \
         AND ($5 OR used < $6 OR (used = $6 AND (quota, kind, key, period_start) > ($7, $8, $9, $10))) \
         ORDER BY used DESC, quota, kind, key, period_start LIMIT $11",
    );
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

async fn reset(link: &mut Link, what: &QuotaReset, entry: &AuditEntry) -> Result<u64, StoreFault> {
    let query = Query::new(
        "UPDATE quota_usage SET used = 0, epoch = epoch + 1 \
         WHERE quota = $1 AND period_end > $2 AND ($3 OR key = $4) AND used > 0",
    );
    let (any, key) = (what.key.is_none(), what.key.unwrap_or_default());
    let accounts = query.bind(&*what.quota).bind(entry.at).bind(any).bind(&key[..]).execute(link).await?;
    if accounts == 0 {
        return Ok(0);
    }
    let key = what.key.map(|key| key_text(&key));
    let detail = entry.detail.clone().text(Particular::Quota, Some(&what.quota));
    let detail = detail.text(Particular::QuotaKey, key.as_deref());
    let detail = detail.count(Particular::Rows, usize::try_from(accounts).unwrap_or(usize::MAX));
    audit::append(link, &AuditEntry { detail, ..entry.clone() }).await?;
    link.tell(entry.at, None, News::Quota(what.clone()));
    Ok(accounts)
}
