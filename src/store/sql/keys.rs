//! Signing keys: rows whose private part is sealed before it comes here. What is done with them is
//! [`crate::policy::key_life`]'s to decide; here it is done, each step once.

use super::{
    audit,
    link::{Connection, Link},
    query::{Query, Row},
};
use crate::{
    clock::Timestamp,
    policy::{
        key_life::{Step, plan},
        keys::Algorithm,
    },
    store::{
        AuditEntry, AuditEvent, KeyAsk, KeyLife, KeyState, KeysAdvanced, NewKey, StoreFault, StoredKey,
        audit::{Detail, Particular},
        feed::News,
    },
};

pub(super) async fn all(link: &mut Link) -> Result<Vec<StoredKey>, StoreFault> {
    let rows = Query::new(
        "SELECT kid, algorithm, state, sealed_pkcs8, created_at, activated_at, verifies_until FROM signing_keys \
         ORDER BY created_at, kid",
    )
    .rows(link)
    .await?;
    rows.iter().map(key_of).collect()
}

/// Who comes second waits for the lock, then decides by what the first one left.
pub(super) async fn advance(link: &mut Link, ask: &KeyAsk<'_>, spares: &[NewKey]) -> Result<KeysAdvanced, StoreFault> {
    if matches!(link.connection, Connection::Postgres(..)) {
        // Two that read the same would both act; SQLite's transaction has locked the database already.
        Query::new("LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE").execute(link).await?;
    }
    let keys = all(link).await?;
    let lives: Vec<_> = keys.iter().map(|key| key.life.clone()).collect();
    let steps = plan(&lives, ask.needed, ask.rules, ask.order, ask.now);
    let spare = |algorithm| spares.iter().find(|spare| spare.algorithm == algorithm);
    let missing: Vec<_> = steps.iter().filter_map(Step::makes).filter(|made| spare(*made).is_none()).collect();
    if !missing.is_empty() {
        return Ok(KeysAdvanced::Needs(missing));
    }
    if steps.is_empty() {
        return Ok(KeysAdvanced::Done(steps, keys));
    }
    for step in &steps {
        take(link, step, step.makes().and_then(spare), ask).await?;
    }
    link.tell(ask.now, None, News::Keys);
    Ok(KeysAdvanced::Done(steps, all(link).await?))
}

async fn take(link: &mut Link, step: &Step, new: Option<&NewKey>, ask: &KeyAsk<'_>) -> Result<(), StoreFault> {
    match step {
        Step::Publish(_) => insert(link, new, KeyState::Next, ask).await,
        Step::Begin(_) => insert(link, new, KeyState::Current, ask).await,
        Step::Demote(kid, until) => demote(link, kid, *until).await,
        Step::Activate(kid) => {
            Query::new("UPDATE signing_keys SET state = 'current', activated_at = $2 WHERE kid = $1")
                .bind(kid.as_str())
                .bind(ask.now)
                .execute(link)
                .await?;
            tell(link, AuditEvent::KeyActivated, kid, ask).await
        }
        Step::Remove(kid) => {
            Query::new("DELETE FROM signing_keys WHERE kid = $1").bind(kid.as_str()).execute(link).await?;
            tell(link, AuditEvent::KeyRetired, kid, ask).await
        }
    }
}

/// No row in the audit: what is told is that another one signs.
async fn demote(link: &mut Link, kid: &str, until: Timestamp) -> Result<(), StoreFault> {
    Query::new("UPDATE signing_keys SET state = 'previous', verifies_until = $2 WHERE kid = $1")
        .bind(kid)
        .bind(until)
        .execute(link)
        .await?;
    Ok(())
}

async fn insert(link: &mut Link, new: Option<&NewKey>, state: KeyState, ask: &KeyAsk<'_>) -> Result<(), StoreFault> {
    // Looked for before anything was written.
    let Some(new) = new else { return Err(StoreFault::Inconsistent("a new signing key was not given".into())) };
    Query::new(
        "INSERT INTO signing_keys (kid, algorithm, state, sealed_pkcs8, created_at, activated_at) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(new.kid.as_str())
    .bind(new.algorithm.name())
    .bind(state.as_str())
    .bind(new.sealed_pkcs8.as_slice())
    .bind(ask.now)
    .bind((state == KeyState::Current).then_some(ask.now))
    .execute(link)
    .await?;
    tell(link, AuditEvent::KeyPublished, &new.kid, ask).await?;
    if state == KeyState::Current { tell(link, AuditEvent::KeyActivated, &new.kid, ask).await } else { Ok(()) }
}

/// No request stands behind it.
async fn tell(link: &mut Link, event: AuditEvent, kid: &str, ask: &KeyAsk<'_>) -> Result<(), StoreFault> {
    let detail = Detail::default().text(Particular::Key, Some(kid));
    let entry = AuditEntry { detail, ..AuditEntry::unasked(event, ask.now, ask.by.clone()) };
    Ok(audit::append(link, &entry).await?)
}

fn key_of(row: &Row) -> Result<StoredKey, StoreFault> {
    let kid = row.text("kid")?;
    let (algorithm, state) = (row.text("algorithm")?, row.text("state")?);
    let odd = |column: &str| StoreFault::Inconsistent(format!("signing key {kid} has an odd {column}"));
    let life = KeyLife {
        algorithm: Algorithm::from_name(&algorithm).ok_or_else(|| odd("algorithm"))?,
        state: KeyState::ALL.iter().copied().find(|known| known.as_str() == state).ok_or_else(|| odd("state"))?,
        published_at: row.time("created_at")?,
        activated_at: row.maybe_time("activated_at")?,
        verifies_until: row.maybe_time("verifies_until")?,
        kid,
    };
    Ok(StoredKey { life, sealed_pkcs8: row.bytes("sealed_pkcs8")? })
}
