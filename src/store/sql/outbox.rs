//! Messages for webhooks: written with their cause, claimed by one gateway for a while, gone when delivered, given up,
//! erased with their user, too many or too old.

use uuid::Uuid;

use super::{audit, link::Link, query::Query};
use crate::{
    clock::Timestamp,
    store::{
        AuditEntry, StoreFault,
        security::{Message, body},
    },
};

/// Notes that an event was audited, for whoever is told of such events.
pub(super) async fn note(link: &mut Link, entry: &AuditEntry) -> Result<(), sqlx::Error> {
    let Some((watch, event)) = link.watch.clone().zip(entry.event.security()) else { return Ok(()) };
    link.noted.push(event);
    let id = watch.entropy.uuid_v7(entry.at);
    for webhook in watch.webhooks.iter().filter(|webhook| webhook.events.contains(&event)) {
        Query::new(
            "INSERT INTO webhook_outbox (webhook, id, user_id, body, created_at, attempts, due_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $5)",
        )
        .bind(&*webhook.name)
        .bind(id)
        .bind(entry.user)
        .bind(body(id, entry).as_str())
        .bind(entry.at)
        .bind(0_i64)
        .execute(link)
        .await?;
    }
    Ok(())
}

macro_rules! claim {
    ($lock:literal) => {
        concat!(
            "UPDATE webhook_outbox SET attempts = attempts + 1, due_at = $3 WHERE webhook = $1 AND id IN \
             (SELECT id FROM webhook_outbox WHERE webhook = $1 AND due_at <= $2 ORDER BY due_at, id LIMIT $4",
            $lock,
            ") RETURNING id, body, attempts, created_at"
        )
    };
}

pub(super) async fn claim(
    link: &mut Link,
    webhook: &str,
    now: Timestamp,
    until: Timestamp,
    most: u32,
) -> Result<Vec<Message>, StoreFault> {
    let query = Query::new(claim!("")).on_postgres(claim!(" FOR UPDATE SKIP LOCKED"));
    let rows = query.bind(webhook).bind(now).bind(until).bind(i64::from(most)).rows(link).await?;
    rows.iter()
        .map(|row| {
            Ok(Message {
                id: row.id("id")?,
                created_at: row.time("created_at")?,
                attempts: row.count("attempts")?,
                body: row.text("body")?,
            })
        })
        .collect()
}

/// Only as it was claimed: whoever has claimed it since decides.
pub(super) async fn retry(link: &mut Link, webhook: &str, message: &Message, at: Timestamp) -> Result<(), StoreFault> {
    Query::new("UPDATE webhook_outbox SET due_at = $4 WHERE webhook = $1 AND id = $2 AND attempts = $3")
        .bind(webhook)
        .bind(message.id)
        .bind(message.attempts)
        .bind(at)
        .execute(link)
        .await?;
    Ok(())
}

pub(super) async fn delivered(link: &mut Link, webhook: &str, id: Uuid) -> Result<bool, StoreFault> {
    let query = Query::new("DELETE FROM webhook_outbox WHERE webhook = $1 AND id = $2");
    Ok(query.bind(webhook).bind(id).execute(link).await? > 0)
}

pub(super) async fn given_up(link: &mut Link, webhook: &str, id: Uuid, entry: &AuditEntry) -> Result<(), StoreFault> {
    if delivered(link, webhook, id).await? {
        audit::append(link, entry).await?;
    }
    Ok(())
}

/// The newest of a webhook's stay; what nobody is told any more, since its webhook is gone from the configuration, goes
/// when it is too old for any.
pub(super) async fn trim(link: &mut Link, webhook: &str, keep: u32, before: Timestamp) -> Result<u64, StoreFault> {
    let surplus = Query::new(
        "DELETE FROM webhook_outbox WHERE webhook = $1 AND id < (SELECT id FROM webhook_outbox WHERE webhook = $1 \
         ORDER BY id DESC LIMIT 1 OFFSET $2)",
    );
    let surplus = surplus.bind(webhook).bind(i64::from(keep.saturating_sub(1))).execute(link).await?;
    let old = Query::new("DELETE FROM webhook_outbox WHERE created_at < $1").bind(before).execute(link).await?;
    Ok(surplus + old)
}
