//! Calls that are paced: GCRA with one moment a subject, when its next call would come at an even pace.

use std::time::Duration;

use crate::{
    clock::Timestamp,
    policy::lockout::Pace,
    store::{
        StoreFault,
        lockouts::Paced,
        sql::{link::Link, query::Query},
    },
};

/// Always the same kind of subjects in the same order, so that nobody waits in a circle: callers see to it.
pub(super) async fn charge(
    link: &mut Link,
    calls: &[Paced<'_>],
    now: Timestamp,
) -> Result<Option<Duration>, StoreFault> {
    let mut due = Vec::with_capacity(calls.len());
    let mut wait = Duration::ZERO;
    for call in calls {
        let next = hold(link, call, now).await?.max(now).plus(interval(call.pace));
        wait = wait.max(next.since(now.plus(call.pace.period)));
        due.push(next);
    }
    if !wait.is_zero() {
        return Ok(Some(wait));
    }
    for (call, due) in calls.iter().zip(due) {
        Query::new("UPDATE paced_calls SET due_at = $3 WHERE purpose = $1 AND subject = $2")
            .bind(call.purpose)
            .bind(call.subject)
            .bind(due)
            .execute(link)
            .await?;
    }
    Ok(None)
}

fn interval(pace: Pace) -> Duration {
    pace.period / pace.calls.get()
}

async fn hold(link: &mut Link, call: &Paced<'_>, now: Timestamp) -> Result<Timestamp, sqlx::Error> {
    let row = Query::new(
        "INSERT INTO paced_calls (purpose, subject, due_at) VALUES ($1, $2, $3) \
         ON CONFLICT (purpose, subject) DO UPDATE SET due_at = paced_calls.due_at RETURNING due_at",
    );
    let row = row.bind(call.purpose).bind(call.subject).bind(now).row(link).await?;
    row.ok_or(sqlx::Error::RowNotFound)?.time("due_at")
}
