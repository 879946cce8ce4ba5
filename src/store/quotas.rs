//! Quotas: how much of something may be used in a calendar period, whichever gateway is asked, and after a restart too.
//!
//! This file is the contract of the store, which has the truth. No request waits for it that need not: a gateway takes
//! units ahead and spends them by itself. `ledger` is one quota as a gateway keeps it, `held` what it knows of one key,
//! `tend` what it does unasked, `reservation` what one request has set aside, `book` what all ledgers share.
//!
//! The rule whenever it is not known what became of a call: a unit counts as used. So a crash, an eviction or a lost
//! answer costs a client the units a gateway held ahead, and gives nobody a unit twice.

mod book;
mod doubts;
mod held;
mod ledger;
mod reservation;
mod strays;
mod tend;

use async_trait::async_trait;

pub use self::{
    book::{Book, Told},
    doubts::Doubts,
    ledger::{Ledger, Outcome, Reserve, Standing, Verdict},
    reservation::{Budget, Reservation},
};
use super::{StoreFault, memory::limits::CounterKey};
use crate::{clock::Timestamp, policy::quota::Window};

/// Whose units are counted, of what, when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account<'a> {
    /// The quota's name.
    pub quota: &'a str,
    /// What it counts and for how long, e.g. `requests/day`: a quota that is changed to another kind begins anew.
    pub kind: &'a str,
    /// See [`hashed`].
    pub key: [u8; 16],
    /// The period.
    pub window: Window,
}

/// A gateway asks for units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaAsk<'a> {
    /// Whose.
    pub account: Account<'a>,
    /// All there is in a period.
    pub limit: u64,
    /// Units it has spent without having been given them; they are written down first, whatever the limit.
    pub owed: u64,
    /// It has no use for fewer; 0: only what is owed is to be written down.
    pub least: u64,
    /// So many it could spend at once.
    pub wanted: u64,
}

/// What it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaGrant {
    /// By [`crate::policy::quota::granted`].
    pub given: u64,
    /// Used by all gateways, these included.
    pub used: u64,
    /// What it was given in; see [`QuotaReturn::epoch`].
    pub epoch: u64,
}

/// Units that a gateway was given and has no use for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaReturn<'a> {
    /// Whose.
    pub account: Account<'a>,
    /// They count only in the epoch they were given in.
    pub epoch: u64,
    /// How many.
    pub units: u64,
}

/// How an account stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaUsage {
    /// The quota's name.
    pub quota: String,
    /// See [`Account::kind`].
    pub kind: String,
    /// See [`hashed`].
    pub key: Vec<u8>,
    /// The period.
    pub window: Window,
    /// Units that are spent or lie at gateways.
    pub used: u64,
}

/// What the store knows of quotas.
#[async_trait]
pub trait Quotas {
    /// Writes down what is owed and gives what [`crate::policy::quota::granted`] says of the rest, in one transaction
    /// that locks the account's row: however many gateways ask at once, they are given no more than the limit.
    async fn take_quota(&self, ask: &QuotaAsk<'_>) -> Result<QuotaGrant, StoreFault>;

    /// Takes units back, all in one transaction.
    async fn return_quota(&self, returns: &[QuotaReturn<'_>]) -> Result<(), StoreFault>;

    /// Accounts of periods that are not over at `now`, of this quota and of this key if one is named, the most used
    /// first, at most `most`.
    async fn quota_usage(
        &self,
        quota: Option<&str>,
        key: Option<[u8; 16]>,
        now: Timestamp,
        most: u32,
    ) -> Result<Vec<QuotaUsage>, StoreFault>;

    /// Forgets some of the periods that were over before this moment; gives how many, 0 once none is left. Several
    /// gateways that do so are not in each other's way.
    async fn prune_quotas(&self, before: Timestamp) -> Result<u64, StoreFault>;
}

/// A key as the store keeps it: the first half of a SHA-256, so that all are as long and none tells an address.
#[must_use]
pub fn hashed(key: &CounterKey) -> [u8; 16] {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.to_string().as_bytes());
    let mut half = [0; 16];
    half.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
    half
}
