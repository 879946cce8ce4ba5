//! `limits:` as `config/limits.rs` leaves them: what is counted, how much of it, and by whom.

use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

use http::HeaderName;

/// What a limit counts by, or one half of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPart {
    /// The session (`sid`) of a token of our own.
    Session,
    /// The API key.
    ApiKey,
    /// The authenticated subject.
    Subject,
    /// The client that the token was issued to (`client_id`).
    Client,
    /// The organisation that the token names.
    Org,
    /// The client address (/32, /64).
    Address,
    /// What a trusted proxy says in this header; the address where none said it.
    Header(HeaderName),
    /// The route: one bucket for all who call it.
    Route,
}

impl KeyPart {
    /// Narrow before wide: of whom fewer requests come first. What a caller proves comes before what any stranger shares.
    const fn width(&self) -> u8 {
        match self {
            Self::Session => 0,
            Self::ApiKey => 1,
            Self::Subject => 2,
            Self::Client => 3,
            Self::Org => 4,
            Self::Address => 5,
            Self::Header(_) => 6,
            Self::Route => 7,
        }
    }

    /// Whether only an authenticated request has it.
    #[must_use]
    pub const fn needs_caller(&self) -> bool {
        !matches!(self, Self::Address | Self::Header(_) | Self::Route)
    }
}

impl fmt::Display for KeyPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Session => "session",
            Self::ApiKey => "api_key",
            Self::Subject => "subject",
            Self::Client => "client",
            Self::Org => "org",
            Self::Address => "address",
            Self::Route => "route",
            Self::Header(name) => return write!(f, "header:{name}"),
        })
    }
}

/// What a limit counts by: one thing, or each pair of two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitKey {
    narrow: KeyPart,
    wide: Option<KeyPart>,
}

impl LimitKey {
    /// By one thing.
    #[must_use]
    pub const fn one(part: KeyPart) -> Self {
        Self { narrow: part, wide: None }
    }

    /// By two together, in either order.
    #[must_use]
    pub fn pair(one: KeyPart, other: KeyPart) -> Self {
        let (narrow, wide) = if one.width() <= other.width() { (one, other) } else { (other, one) };
        Self { narrow, wide: Some(wide) }
    }

    /// The narrower part.
    #[must_use]
    pub const fn narrow(&self) -> &KeyPart {
        &self.narrow
    }

    /// The other one, of a pair.
    #[must_use]
    pub const fn wide(&self) -> Option<&KeyPart> {
        self.wide.as_ref()
    }

    /// Whether only an authenticated request has it.
    #[must_use]
    pub fn needs_caller(&self) -> bool {
        // The narrower part, since parts that need one are narrower than parts that do not.
        self.narrow.needs_caller()
    }

    /// In what order limits are charged: by their narrower part, pairs before the part alone.
    #[must_use]
    pub fn order(&self) -> (u8, u8) {
        (self.narrow.width(), self.wide.as_ref().map_or(u8::MAX, KeyPart::width))
    }
}

impl fmt::Display for LimitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.wide {
            None => self.narrow.fmt(f),
            Some(wide) => write!(f, "{} and {wide}", self.narrow),
        }
    }
}

/// Who counts a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitScope {
    /// Each gateway for itself.
    Local,
    /// All gateways together, in Redis.
    Shared {
        /// Requests of a busy key that one gateway may take ahead; 0: none.
        lease: u32,
    },
}

/// One named limit of a rate (GCRA).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Its name in the file and in the `RateLimit` headers.
    pub name: Arc<str>,
    /// What it counts by.
    pub key: LimitKey,
    /// Requests in `period`.
    pub requests: NonZeroU32,
    /// The period those requests spread over.
    pub period: Duration,
    /// Requests that may come at once.
    pub burst: NonZeroU32,
    /// Who counts it. `Shared` only with [`Settings::shared_state`](super::Settings::shared_state).
    pub scope: LimitScope,
    /// It counts and tells, and refuses nothing.
    pub shadow: bool,
    /// Keys it keeps count of at once; beyond, those that matter least make room.
    pub max_keys: usize,
}

/// What a cap counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnderWay {
    /// Requests, each from its admission on.
    Requests,
    /// Those of them whose answer is a stream ([`crate::policy::streams`]) or a tunnel.
    Streams,
}

/// One named cap on what is under way at the same time, counted by each gateway for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cap {
    /// Its name in the file and in the `RateLimit` headers.
    pub name: Arc<str>,
    /// What it counts by.
    pub key: LimitKey,
    /// What it counts.
    pub of: UnderWay,
    /// How many of them at once.
    pub most: NonZeroU32,
    /// It counts and tells, and refuses nothing.
    pub shadow: bool,
}

/// What a route or the portal is held to, in the order in which it is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limiting {
    /// Rates.
    pub rates: Vec<Arc<Limit>>,
    /// Caps on what is under way.
    pub caps: Vec<Arc<Cap>>,
}
