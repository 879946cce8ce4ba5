//! Failures to log in, counted for all gateways: what is asked before a password is hashed and told after, and how an
//! account's or address's lockouts are lifted (single ones in [`super::lockout_lists`], which lists them all). What the
//! counts mean is [`crate::policy::lockout`]'s to say.
//!
//! Also the pace of calls that cost somebody else something: registrations, and API keys that are made.

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
    time::Duration,
};

use async_trait::async_trait;
use uuid::Uuid;

use super::{AuditEntry, StoreFault};
use crate::{
    clock::Timestamp,
    policy::{
        device_cookie::Device,
        ids::UserId,
        lockout::{Counter, LockoutRules, Pace, Verdict},
    },
};

/// Whom somebody tries to log in as.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Attempted {
    /// A user, by whichever name.
    User(UserId),
    /// Nobody: the name's digest, under a key of ours.
    Unknown([u8; 32]),
}

impl Attempted {
    /// As it is kept.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::User(user) => user.0.as_bytes(),
            Self::Unknown(digest) => digest,
        }
    }

    /// From how it is kept.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let user = || Uuid::from_slice(bytes).ok().map(|id| Self::User(UserId(id)));
        bytes.try_into().ok().map(Self::Unknown).or_else(user)
    }

    /// The user.
    #[must_use]
    pub const fn user(&self) -> Option<UserId> {
        match self {
            Self::User(user) => Some(*user),
            Self::Unknown(_) => None,
        }
    }

    /// The digest in hex, of a name that no account has.
    #[must_use]
    pub fn digest(&self) -> Option<String> {
        let Self::Unknown(digest) = self else { return None };
        Some(digest.iter().fold(String::with_capacity(64), |mut hex, byte| {
            // Writing to a string has no way to fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        }))
    }
}

impl fmt::Debug for Attempted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => write!(f, "{user:?}"),
            Self::Unknown(_) => write!(f, "Unknown({})", self.digest().unwrap_or_default()),
        }
    }
}

/// An attempt that somebody wants to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// As whom.
    pub account: Attempted,
    /// From where: [`crate::policy::forwarded::limit_prefix`].
    pub address: IpAddr,
    /// With which device cookie; it is this account's.
    pub device: Option<Device>,
}

/// An attempt that may be made and is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// Which.
    pub attempt: Attempt,
    /// Whether it stands among those of its device cookie alone.
    pub by_device: bool,
    /// Whether it stands among those of its address, too.
    pub by_address: bool,
}

/// What is said of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// It may be made. How it ends must be told.
    Admitted(Ticket),
    /// It may not; never [`Verdict::Admit`].
    Refused(Verdict),
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptEnd {
    /// With a wrong password, or an account that may not log in.
    Failed,
    /// Well.
    Succeeded,
    /// Not at all: no password was compared, or nobody will learn what came of it.
    Released,
}

/// Who or what is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Locked {
    /// An account from one address.
    Pair(Attempted, IpAddr),
    /// An account.
    Account(Attempted),
    /// An address.
    Address(IpAddr),
    /// A user's device cookie, by its nonce.
    Device(UserId, Uuid),
}

impl Locked {
    /// Which counter says so.
    #[must_use]
    pub const fn counter(&self) -> Counter {
        match self {
            Self::Pair(..) => Counter::Pair,
            Self::Account(_) => Counter::Account,
            Self::Address(_) => Counter::Address,
            Self::Device(..) => Counter::Device,
        }
    }
}

/// Something that is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lockout {
    /// What.
    pub what: Locked,
    /// Failures; of an address: accounts.
    pub failures: u64,
    /// The last of them.
    pub last: Timestamp,
    /// Until when; `None`: until somebody lifts it.
    pub until: Option<Timestamp>,
}

/// What is to be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lift {
    /// Every failure with this account, from wherever.
    Account(Attempted),
    /// What counts against this address: its wait, and the accounts that were counted. Of single accounts it waits on.
    Address(IpAddr),
    /// Failures with this device cookie.
    Device(Uuid),
}

/// Somebody whose calls are paced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paced<'a> {
    /// What is called, e.g. `register`.
    pub purpose: &'static str,
    /// For whom or by whom: an address, a digest.
    pub subject: &'a [u8],
    /// How often.
    pub pace: Pace,
}

/// Failures to log in, and calls that are paced.
#[async_trait]
pub trait Lockouts: Send + Sync {
    /// Says whether an attempt may be made and, if so, counts it among those under way, in one transaction. However many
    /// ask at once and at whichever gateway, no more are under way than could fail without a wait. Nothing is written for
    /// [`Verdict::Busy`], so that whoever waits may ask again and again.
    async fn reserve_attempt(
        &self,
        attempt: &Attempt,
        rules: &LockoutRules,
        now: Timestamp,
    ) -> Result<Reserved, StoreFault>;

    /// Counts how an attempt under way ended at `audit.at`, in one transaction. A failure writes the audit row
    /// (`login_failed`) and another for each counter that locks by it, which are given (`account_locked`,
    /// `address_locked`, `device_voided`). A success forgets failures with the account, and with it from this address.
    async fn end_attempt(
        &self,
        ticket: &Ticket,
        end: AttemptEnd,
        rules: &LockoutRules,
        audit: &AuditEntry,
    ) -> Result<Vec<Counter>, StoreFault>;

    /// Forgets failures and writes the audit row `lockout_lifted`, in one transaction. Gives whether there were any; no row
    /// when there were none.
    async fn lift_lockout(&self, what: &Lift, audit: &AuditEntry) -> Result<bool, StoreFault>;

    /// Drops some of the rows that say nothing any more, at most so many of a kind; gives how many, 0 once none is left.
    async fn prune_lockouts(&self, rules: &LockoutRules, now: Timestamp, most: u32) -> Result<u64, StoreFault>;

    /// Counts one call of each, in one transaction, if all of them may be made now. Otherwise none is counted, and the
    /// longest time until it may is given.
    async fn pace(&self, calls: &[Paced<'_>], now: Timestamp) -> Result<Option<Duration>, StoreFault>;
}
