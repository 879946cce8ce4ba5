//! Sessions as the store knows them: one login on one device, and what a refresh comes to.

use std::num::NonZeroU32;

use super::Account;
use crate::{
    clock::Timestamp,
    policy::{
        ids::{SessionId, UserId},
        refresh::{Delivery, RefreshRules, SessionFacts},
    },
};

/// A new session: one login on one device.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// Its id, made by the caller.
    pub id: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// 32 random bytes the refresh MAC key is derived with.
    pub salt: [u8; 32],
    /// How its refresh token travels.
    pub delivery: Delivery,
    /// `amr` values (RFC 8176).
    pub methods: Vec<String>,
    /// `User-Agent`, cut to 256 characters.
    pub user_agent: Option<String>,
    /// Client address, as text.
    pub address: String,
    /// Now.
    pub created_at: Timestamp,
}

/// A session row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// Refresh MAC salt.
    pub salt: [u8; 32],
    /// How its refresh token travels.
    pub delivery: Delivery,
    /// `amr` values.
    pub methods: Vec<String>,
    /// `User-Agent` of the login, cut to 256 characters.
    pub user_agent: Option<String>,
    /// Client address of the login, as text.
    pub address: String,
    /// Counter of the newest refresh token; 1 after login.
    pub counter: u64,
    /// Highest generation whose access token any gateway has seen used; 0: none.
    pub seen_generation: u64,
    /// Login time; also `auth_time`.
    pub created_at: Timestamp,
    /// Last rotation (or login).
    pub rotated_at: Timestamp,
    /// When the newest refresh token was last handed out while nobody was known to have used it.
    pub handed_out_at: Timestamp,
    /// Login, last rotation, or last use of an access token that was noted, whichever is latest.
    pub last_seen_at: Timestamp,
    /// Ended by logout, reuse or the limit of sessions.
    pub ended_at: Option<Timestamp>,
}

impl Session {
    /// What its refresh tokens are judged by; `active`: whether its account may refresh.
    #[must_use]
    pub const fn facts(&self, active: bool) -> SessionFacts {
        SessionFacts {
            counter: self.counter,
            seen_generation: self.seen_generation,
            created_at: self.created_at,
            rotated_at: self.rotated_at,
            handed_out_at: self.handed_out_at,
            ended: self.ended_at.is_some(),
            active,
        }
    }
}

/// How many live sessions a user may have, and which ones live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLimit {
    /// At most so many; `None`: any number.
    pub most: Option<NonZeroU32>,
    /// When a session has ended by itself.
    pub rules: RefreshRules,
}

/// What came of opening a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Whose it is, as it is then.
    pub account: Account,
    /// The user's older sessions that had to end for it.
    pub ended: Vec<SessionId>,
}

/// An access token that was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Of this session.
    pub session: SessionId,
    /// Its generation.
    pub generation: u64,
}

/// What came of a refresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefreshOutcome {
    /// Rotated, or the same successor again: mint for `session.counter`.
    Granted {
        /// The session after the step.
        session: Box<Session>,
        /// Its owner, active.
        account: Box<Account>,
        /// True when an earlier answer was repeated.
        repeated: bool,
    },
    /// Older than the grace allows: the session was ended in this very transaction.
    Reused {
        /// Whose session it was.
        user: UserId,
    },
    /// Unknown session, ended, expired, inactive account, or a counter never issued.
    Refused,
}
