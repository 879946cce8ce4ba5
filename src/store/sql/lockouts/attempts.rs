//! Attempts to log in: reserved, and how they end.

use super::{bind_tally, tally_of};
use crate::{
    clock::Timestamp,
    policy::{
        device_cookie::Device,
        lockout::{Counter, LockoutRules, Tally, Verdict},
    },
    store::{
        AuditEntry, AuditEvent, StoreFault,
        audit::Particular,
        lockouts::{Attempt, AttemptEnd, Attempted, Reserved, Ticket},
        sql::{audit, link::Link, query::Query},
    },
};

/// An address and what counts against it.
pub(super) struct Place {
    address: String,
    pub(super) waits_until: Timestamp,
    pub(super) counted_from: Timestamp,
    /// Its failures are accounts, and are counted among the pairs.
    pub(super) tally: Tally,
}

/// Everything that an attempt without a device cookie is judged by; held, if it is to be written.
pub(super) struct Held {
    pub(super) place: Place,
    account: Tally,
    pair: Tally,
}

pub(super) async fn reserve(
    link: &mut Link,
    attempt: &Attempt,
    rules: &LockoutRules,
    now: Timestamp,
) -> Result<Reserved, StoreFault> {
    if let Some(device) = &attempt.device {
        let tally = hold_device(link, device).await?.at(now);
        if let Some(verdict) = rules.device.judge(&tally, now) {
            let admitted = verdict == Verdict::Admit;
            let tally = if admitted { tally.reserved(now, rules.hold) } else { tally };
            keep_device(link, device, &tally).await?;
            let ticket = Ticket { attempt: *attempt, by_device: true, by_address: false };
            return Ok(if admitted { Reserved::Admitted(ticket) } else { Reserved::Refused(verdict) });
        }
    }
    let address = attempt.address.to_string();
    let mut held = hold(link, address, &attempt.account, rules, now).await?;
    let known = held.is_known(rules, now);
    let verdict = held.judge(rules, now);
    let admitted = verdict == Verdict::Admit;
    if admitted {
        if !known {
            held.place.tally = held.place.tally.reserved(now, rules.hold);
        }
        held.account = held.account.reserved(now, rules.hold);
        held.pair = held.pair.reserved(now, rules.hold);
    }
    keep(link, &held, &attempt.account).await?;
    let ticket = Ticket { attempt: *attempt, by_device: false, by_address: !known };
    Ok(if admitted { Reserved::Admitted(ticket) } else { Reserved::Refused(verdict) })
}

pub(super) async fn end(
    link: &mut Link,
    ticket: &Ticket,
    end: AttemptEnd,
    rules: &LockoutRules,
    entry: &AuditEntry,
) -> Result<Vec<Counter>, StoreFault> {
    let locks = match &ticket.attempt.device {
        Some(device) if ticket.by_device => end_by_device(link, ticket, device, end, rules, entry.at).await?,
        _ => end_by_all(link, ticket, end, rules, entry.at).await?,
    };
    if end == AttemptEnd::Failed {
        audit::append(link, entry).await?;
    }
    for lock in &locks {
        audit::append(link, &lock.audited(ticket, entry)).await?;
    }
    Ok(locks.into_iter().map(|lock| lock.counter).collect())
}

/// A counter that locks by this very failure.
struct Lock {
    counter: Counter,
    failures: u64,
    /// Seconds; `None`: no wait ends it.
    wait: Option<u64>,
}

impl Lock {
    fn audited(&self, ticket: &Ticket, entry: &AuditEntry) -> AuditEntry {
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let detail = entry.detail.clone().count(Particular::Failures, count(self.failures));
        let detail = match self.wait {
            Some(seconds) => detail.count(Particular::Wait, count(seconds)),
            None => detail,
        };
        let (event, detail) = match self.counter {
            // An address is locked for what it did to all of them.
            Counter::Address => {
                let prefix = ticket.attempt.address.to_string();
                let detail = detail.text(Particular::Prefix, Some(&prefix));
                return AuditEntry { event: AuditEvent::AddressLocked, user: None, detail, ..entry.clone() };
            }
            Counter::Device => (AuditEvent::DeviceVoided, detail),
            Counter::Account | Counter::Pair => {
                let digest = ticket.attempt.account.digest();
                (AuditEvent::AccountLocked, detail.text(Particular::Name, digest.as_deref()))
            }
        };
        AuditEntry { event, user: ticket.attempt.account.user(), detail, ..entry.clone() }
    }
}

async fn end_by_device(
    link: &mut Link,
    ticket: &Ticket,
    device: &Device,
    end: AttemptEnd,
    rules: &LockoutRules,
    now: Timestamp,
) -> Result<Vec<Lock>, StoreFault> {
    let before = hold_device(link, device).await?.at(now);
    // A success leaves its failures: whoever logs in gets a new cookie, and this one may have been copied.
    let after = if end == AttemptEnd::Failed { before.failed(now) } else { before.released() };
    keep_device(link, device, &after).await?;
    if end == AttemptEnd::Succeeded {
        let (address, account) = (ticket.attempt.address.to_string(), ticket.attempt.account);
        let mut held = hold(link, address, &account, rules, now).await?;
        (held.account.failures, held.pair.failures) = (0, 0);
        keep(link, &held, &account).await?;
    }
    let voided = !rules.device.voids(before.failures) && rules.device.voids(after.failures);
    let lock = Lock { counter: Counter::Device, failures: after.failures, wait: None };
    Ok(voided.then_some(lock).into_iter().collect())
}

async fn end_by_all(
    link: &mut Link,
    ticket: &Ticket,
    end: AttemptEnd,
    rules: &LockoutRules,
    now: Timestamp,
) -> Result<Vec<Lock>, StoreFault> {
    let (address, account) = (ticket.attempt.address.to_string(), ticket.attempt.account);
    let mut held = hold(link, address, &account, rules, now).await?;
    let was_known = held.is_known(rules, now);
    let was_stopped = rules.account.stops(held.account.failures);
    if ticket.by_address {
        held.place.tally = held.place.tally.released();
    }
    let step = |tally: Tally| match end {
        AttemptEnd::Failed => tally.failed(now),
        AttemptEnd::Succeeded => tally.succeeded(),
        AttemptEnd::Released => tally.released(),
    };
    (held.account, held.pair) = (step(held.account), step(held.pair));
    let mut locks = Vec::new();
    if end == AttemptEnd::Failed {
        held.place.tally.last = held.place.tally.last.max(now);
        if !was_known {
            let accounts = held.place.tally.failures + 1;
            let wait = rules.address.wait(accounts);
            if !wait.is_zero() {
                held.place.waits_until = held.place.waits_until.max(now.plus(wait));
            }
            if rules.address.is_rung(accounts) {
                locks.push(Lock { counter: Counter::Address, failures: accounts, wait: Some(wait.as_secs()) });
            }
        }
        if !was_stopped && rules.account.stops(held.account.failures) {
            locks.push(Lock { counter: Counter::Account, failures: held.account.failures, wait: None });
        }
    }
    keep(link, &held, &account).await?;
    Ok(locks)
}

impl Held {
    /// As it stands at `now`. The address's own failures are those of the accounts it failed with.
    pub(super) fn new(place: Place, account: Tally, pair: Tally, rules: &LockoutRules, now: Timestamp) -> Self {
        let pair = pair.at(now).since(now.minus(rules.address.window));
        Self { place, account: rules.account.remembered(account.at(now), now), pair }
    }

    /// What all three counters say.
    pub(super) fn judge(&self, rules: &LockoutRules, now: Timestamp) -> Verdict {
        rules
            .address
            .judge(&self.place.tally, self.place.waits_until, self.is_known(rules, now), now)
            .and(rules.account.judge(&self.account, now))
            .and(rules.pair.judge(&self.pair, now))
    }

    /// Whether its account is counted against the address already.
    fn is_known(&self, rules: &LockoutRules, now: Timestamp) -> bool {
        self.pair.since(self.place.counts_since(rules, now)).failures > 0
    }
}

impl Place {
    /// An address that nothing is known of.
    pub(super) fn unknown(address: String) -> Self {
        let never = Tally::NONE.last;
        Self { address, waits_until: never, counted_from: never, tally: Tally::NONE }
    }

    /// What is said of whoever comes from it in its wait.
    pub(super) fn wait(&self) -> Verdict {
        Verdict::Wait(Counter::Address, self.waits_until)
    }

    fn counts_since(&self, rules: &LockoutRules, now: Timestamp) -> Timestamp {
        self.counted_from.max(now.minus(rules.address.window))
    }
}

async fn hold(
    link: &mut Link,
    address: String,
    account: &Attempted,
    rules: &LockoutRules,
    now: Timestamp,
) -> Result<Held, StoreFault> {
    let mut place = hold_address(link, address).await?;
    place.tally = place.tally.at(now);
    // Those have failed with their pairs, which is where they are counted.
    place.tally.failures = accounts_failed(link, &place, rules, now).await?;
    let held = hold_account(link, account).await?;
    let pair = hold_pair(link, &place.address, account).await?;
    Ok(Held::new(place, held, pair, rules, now))
}

/// Writes what was held; what says nothing any more goes.
async fn keep(link: &mut Link, held: &Held, account: &Attempted) -> Result<(), sqlx::Error> {
    keep_address(link, &held.place).await?;
    keep_account(link, account, &held.account).await?;
    keep_pair(link, &held.place.address, account, &held.pair).await
}

async fn hold_address(link: &mut Link, address: String) -> Result<Place, StoreFault> {
    let row = Query::new(
        "INSERT INTO login_addresses (address, waits_until, counted_from, last_at, pending, pending_until) \
         VALUES ($1, $2, $2, $2, 0, $2) ON CONFLICT (address) DO UPDATE SET pending = login_addresses.pending \
         RETURNING waits_until, counted_from, last_at, pending, pending_until",
    );
    let row = row.bind(address.as_str()).bind(Tally::NONE.last).row(link).await?.ok_or(sqlx::Error::RowNotFound)?;
    Ok(Place {
        address,
        waits_until: row.time("waits_until")?,
        counted_from: row.time("counted_from")?,
        tally: Tally {
            failures: 0,
            last: row.time("last_at")?,
            pending: row.count("pending")?,
            pending_until: row.time("pending_until")?,
        },
    })
}

async fn keep_address(link: &mut Link, place: &Place) -> Result<(), sqlx::Error> {
    let never = Tally::NONE.last;
    let none = place.tally.pending == 0 && place.tally.last == never && place.counted_from == never;
    if none {
        return Query::new("DELETE FROM login_addresses WHERE address = $1")
            .bind(place.address.as_str())
            .execute(link)
            .await
            .map(drop);
    }
    Query::new(
        "UPDATE login_addresses SET waits_until = $2, last_at = $3, pending = $4, pending_until = $5 \
         WHERE address = $1",
    )
    .bind(place.address.as_str())
    .bind(place.waits_until)
    .bind(place.tally.last)
    .bind(place.tally.pending)
    .bind(place.tally.pending_until)
    .execute(link)
    .await
    .map(drop)
}

/// How many accounts somebody has failed to log in to from an address.
pub(super) async fn accounts_failed(
    link: &mut Link,
    place: &Place,
    rules: &LockoutRules,
    now: Timestamp,
) -> Result<u64, StoreFault> {
    let row = Query::new(
        "SELECT count(*) AS accounts FROM login_pairs WHERE address = $1 AND ((failures > 0 AND last_at >= $2) \
         OR (pending > 0 AND pending_until >= $2 AND pending_until <= $3))",
    );
    let row = row.bind(place.address.as_str()).bind(place.counts_since(rules, now)).bind(now).row(link).await?;
    Ok(row.ok_or(sqlx::Error::RowNotFound)?.count("accounts")?)
}

async fn hold_account(link: &mut Link, account: &Attempted) -> Result<Tally, sqlx::Error> {
    let row = Query::new(
        "INSERT INTO login_accounts (account, failures, last_at, pending, pending_until) VALUES ($1, 0, $2, 0, $2) \
         ON CONFLICT (account) DO UPDATE SET pending = login_accounts.pending \
         RETURNING failures, last_at, pending, pending_until",
    );
    let row = row.bind(account.as_bytes()).bind(Tally::NONE.last).row(link).await?;
    tally_of(&row.ok_or(sqlx::Error::RowNotFound)?)
}

async fn keep_account(link: &mut Link, account: &Attempted, tally: &Tally) -> Result<(), sqlx::Error> {
    if tally.is_none() {
        let gone = Query::new("DELETE FROM login_accounts WHERE account = $1").bind(account.as_bytes());
        return gone.execute(link).await.map(drop);
    }
    let query = Query::new(
        "UPDATE login_accounts SET failures = $2, last_at = $3, pending = $4, pending_until = $5 WHERE account = $1",
    );
    bind_tally(query.bind(account.as_bytes()), tally).execute(link).await.map(drop)
}

async fn hold_pair(link: &mut Link, address: &str, account: &Attempted) -> Result<Tally, sqlx::Error> {
    let row = Query::new(
        "INSERT INTO login_pairs (address, account, failures, last_at, pending, pending_until) \
         VALUES ($1, $2, 0, $3, 0, $3) ON CONFLICT (address, account) DO UPDATE SET pending = login_pairs.pending \
         RETURNING failures, last_at, pending, pending_until",
    );
    let row = row.bind(address).bind(account.as_bytes()).bind(Tally::NONE.last).row(link).await?;
    tally_of(&row.ok_or(sqlx::Error::RowNotFound)?)
}

async fn keep_pair(link: &mut Link, address: &str, account: &Attempted, tally: &Tally) -> Result<(), sqlx::Error> {
    if tally.is_none() {
        let gone = Query::new("DELETE FROM login_pairs WHERE address = $1 AND account = $2");
        return gone.bind(address).bind(account.as_bytes()).execute(link).await.map(drop);
    }
    let query = Query::new(
        "UPDATE login_pairs SET failures = $3, last_at = $4, pending = $5, pending_until = $6 \
         WHERE address = $1 AND account = $2",
    );
    bind_tally(query.bind(address).bind(account.as_bytes()), tally).execute(link).await.map(drop)
}

async fn hold_device(link: &mut Link, device: &Device) -> Result<Tally, sqlx::Error> {
    let row = Query::new(
        "INSERT INTO login_devices (nonce, user_id, expires_at, failures, last_at, pending, pending_until) \
         VALUES ($1, $2, $3, 0, $4, 0, $4) ON CONFLICT (nonce) DO UPDATE SET pending = login_devices.pending \
         RETURNING failures, last_at, pending, pending_until",
    );
    let row = row.bind(device.nonce).bind(device.user).bind(device.expires).bind(Tally::NONE.last).row(link).await?;
    tally_of(&row.ok_or(sqlx::Error::RowNotFound)?)
}

async fn keep_device(link: &mut Link, device: &Device, tally: &Tally) -> Result<(), sqlx::Error> {
    if tally.is_none() {
        let gone = Query::new("DELETE FROM login_devices WHERE nonce = $1").bind(device.nonce);
        return gone.execute(link).await.map(drop);
    }
    let query = Query::new(
        "UPDATE login_devices SET failures = $2, last_at = $3, pending = $4, pending_until = $5 WHERE nonce = $1",
    );
    bind_tally(query.bind(device.nonce), tally).execute(link).await.map(drop)
}
