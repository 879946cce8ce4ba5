//! The feed: what every gateway must know of tokens and API keys that are out there, that signing keys have changed,
//! and that a quota was reset, in the order it was committed.
//!
//! An entry is written in the transaction of its cause (a logout, a caught thief, a changed role, a key's step, a
//! reset) and numbered as the last thing in it, one writer at a time, so that numbers become visible in their order and
//! a reader that goes by them misses none. A [`FeedPosition`] names an entry and, by its link, all before it: a store
//! that was restored or failed over to something older is noticed, and read from the start again.

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    policy::ids::{ApiKeyId, SessionId, UserId},
    store::quota_lists::QuotaReset,
};

/// What there is to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// No token of this session is good any more.
    Session(SessionId),
    /// This one access token of ours is not, by its `jti`.
    Token(String),
    /// What this subject was issued before a moment is not.
    SubjectBefore(SubjectBefore),
    /// A user's rights have changed: they are these, whatever an older token says.
    Authorization(Authorization),
    /// This API key is revoked.
    ApiKey(ApiKeyId),
    /// The signing keys have changed. Which they are now is asked of the store.
    Keys,
    /// What was used of a quota was set to nothing.
    Quota(QuotaReset),
}

/// Tokens of one subject up to a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubjectBefore {
    /// `iss`.
    pub issuer: String,
    /// `sub`, as it is known here: of another issuer's with that issuer's prefix.
    pub subject: String,
    /// `iat` of the first good one, seconds since the epoch.
    pub before: i64,
}

/// A user's rights at one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorization {
    /// Whose.
    #[serde(with = "by_text")]
    pub user: UserId,
    /// `av`: tokens of an older version are read as if they said what is said here.
    pub version: u64,
    /// Role names, the highest first.
    pub roles: Vec<String>,
    /// Scopes.
    pub scopes: Vec<String>,
    /// Active organisation.
    pub org: Option<String>,
}

mod by_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::policy::ids::UserId;

    pub(super) fn serialize<S: Serializer>(id: &UserId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<UserId, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedEntry {
    /// Its number.
    pub seq: u64,
    /// When its cause happened, by the clock of the gateway that wrote it.
    pub at: Timestamp,
    /// Until when it matters; `None`: as long as an access token of ours lives.
    pub until: Option<Timestamp>,
    /// What it says.
    pub news: News,
}

/// How far somebody has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedPosition {
    /// Number of the last entry; 0: none.
    pub seq: u64,
    /// Chains that entry to all before it.
    pub link: [u8; 32],
}

impl FeedPosition {
    /// Before the first entry, of whatever history.
    pub const START: Self = Self { seq: 0, link: [0; 32] };
}

/// Which entries matter.
#[derive(Debug, Clone, Copy)]
pub struct FeedReach {
    /// Entries without an end of their own matter if they are not older than this.
    pub since: Timestamp,
    /// The others if their end is after this.
    pub now: Timestamp,
}

/// Entries in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedPage {
    /// At most as many as were asked for.
    pub entries: Vec<FeedEntry>,
    /// Numbers of those among them that make no sense here: of a kind that a newer gateway knows, or spoilt.
    pub odd: Vec<u64>,
    /// Where to go on.
    pub position: FeedPosition,
    /// Whether that is the end, as of now.
    pub is_last: bool,
}
