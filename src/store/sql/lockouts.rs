//! Failures to log in: looked at (`glance`) and reserved before a password is hashed, settled after it (`attempts`),
//! listed (`pages`), lifted and forgotten (`lifted`); calls that are paced (`paced`).
//!
//! A row that is read to decide an attempt is held until the transaction ends (`glance` holds none, and only refuses),
//! always in this order: device, address, account, pair. So attempts at the same thing follow each other on every
//! gateway, and none waits in a circle.

mod attempts;
mod glance;
mod lifted;
mod paced;
mod pages;

use std::time::Duration;

use async_trait::async_trait;

use super::{
    SqlStore,
    query::{Query, Row},
    read, write,
};
use crate::{
    clock::Timestamp,
    policy::lockout::{Counter, LockoutRules, Tally},
    store::{
        AuditEntry, StoreFault,
        lockouts::{Attempt, AttemptEnd, Lift, Lockouts, Paced, Reserved, Ticket},
    },
};

#[async_trait]
impl Lockouts for SqlStore {
    async fn reserve_attempt(
        &self,
        attempt: &Attempt,
        rules: &LockoutRules,
        now: Timestamp,
    ) -> Result<Reserved, StoreFault> {
        if let Some(verdict) = read!(self, link => glance::refusal(&mut link, attempt, rules, now))? {
            return Ok(Reserved::Refused(verdict));
        }
        write!(self, link => attempts::reserve(&mut link, attempt, rules, now))
    }

    async fn end_attempt(
        &self,
        ticket: &Ticket,
        end: AttemptEnd,
        rules: &LockoutRules,
        audit: &AuditEntry,
    ) -> Result<Vec<Counter>, StoreFault> {
        write!(self, link => attempts::end(&mut link, ticket, end, rules, audit))
    }

    async fn lift_lockout(&self, what: &Lift, audit: &AuditEntry) -> Result<bool, StoreFault> {
        write!(self, link => lifted::lift(&mut link, what, audit))
    }

    async fn prune_lockouts(&self, rules: &LockoutRules, now: Timestamp, most: u32) -> Result<u64, StoreFault> {
        write!(self, link => lifted::prune(&mut link, rules, now, most))
    }

    async fn pace(&self, calls: &[Paced<'_>], now: Timestamp) -> Result<Option<Duration>, StoreFault> {
        write!(self, link => paced::charge(&mut link, calls, now))
    }
}

/// The counts of a row that has all of them.
fn tally_of(row: &Row) -> Result<Tally, sqlx::Error> {
    Ok(Tally {
        failures: row.count("failures")?,
        last: row.time("last_at")?,
        pending: row.count("pending")?,
        pending_until: row.time("pending_until")?,
    })
}

/// Binds the counts in the order of the columns.
fn bind_tally<'q>(query: Query<'q>, tally: &Tally) -> Query<'q> {
    query.bind(tally.failures).bind(tally.last).bind(tally.pending).bind(tally.pending_until)
}
