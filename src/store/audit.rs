//! What an audit row says besides when, what and whom: who did it, how it ended, and a few particulars in closed words.
//! And how rows are asked for, sealed and erased. Never a secret: nothing here takes free text from a request but the
//! `User-Agent` that a session shows its owner anyway.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use crate::{
    clock::{Entropy, Timestamp},
    policy::{
        audit_chain::SealingKey,
        ids::{SessionId, UserId},
    },
};

/// What happened, to whom, from where: one row, written in its cause's transaction. Never a secret.
#[derive(Debug, Clone)]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// What, e.g. `login_succeeded`; it says how it ended, too.
    pub event: AuditEvent,
    /// Who did it.
    pub actor: Actor,
    /// Whom it concerns, when known.
    pub user: Option<UserId>,
    /// Which session, when there is one.
    pub session: Option<SessionId>,
    /// Client address.
    pub address: String,
    /// The request's id.
    pub request_id: String,
    /// Particulars.
    pub detail: Detail,
}

macro_rules! audit_events {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// The closed list of audited events.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum AuditEvent {
            $($(#[$doc])* $name,)*
        }

        impl AuditEvent {
            /// Every event, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable word in the table.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }
        }
    };
}

audit_events! {
    /// An account was made.
    Registered = "registered",
    /// A login succeeded.
    LoginSucceeded = "login_succeeded",
    /// A login failed.
    LoginFailed = "login_failed",
    /// A session was refreshed.
    Refreshed = "refreshed",
    /// An old refresh token came back.
    RefreshReuseDetected = "refresh_reuse_detected",
    /// A refresh token came whose counter was never issued.
    RefreshAhead = "refresh_ahead",
    /// A session was ended by its owner.
    LoggedOut = "logged_out",
    /// A session was ended by its owner, from the list of sessions.
    SessionRevoked = "session_revoked",
    /// A session was ended because its owner had too many.
    SessionLimit = "session_limit",
    /// A profile was changed.
    ProfileChanged = "profile_changed",
    /// An access token, a session, or all of a subject's tokens, was revoked by somebody else than its owner.
    TokenRevoked = "token_revoked",
    /// A user was given other roles or another organisation.
    AuthorizationChanged = "authorization_changed",
    /// A signing key was made and published.
    KeyPublished = "key_published",
    /// A signing key began to sign.
    KeyActivated = "key_activated",
    /// A signing key was removed: the last token it signed is over, or somebody said so.
    KeyRetired = "key_retired",
    /// A login came from what calls itself something this user has not had a session with.
    NewDevice = "new_device",
    /// An authenticated caller lacks the role or scope that a route needs.
    PermissionDenied = "permission_denied",
    /// A webhook was not delivered for as long as deliveries are tried.
    WebhookGivenUp = "webhook_given_up",
    /// A user made an API key.
    ApiKeyCreated = "api_key_created",
    /// An API key was revoked.
    ApiKeyRevoked = "api_key_revoked",
    /// Who and from where was erased from a person's rows.
    AuditErased = "audit_erased",
    /// So many logins to an account failed in a row that no more are tried.
    AccountLocked = "account_locked",
    /// Logins to so many accounts failed from an address that it has to wait.
    AddressLocked = "address_locked",
    /// So many logins with a device cookie failed that it is worth nothing any more.
    DeviceVoided = "device_voided",
    /// Failures to log in were forgotten because somebody said so.
    LockoutLifted = "lockout_lifted",
    /// What was used of a quota was set to nothing because somebody said so.
    QuotaReset = "quota_reset",
    /// An administrator looked at something over the admin API.
    AdminRead = "admin_read",
    /// So many different logins to so many accounts failed from one part of the network that it is refused for a while.
    CredentialStuffingDetected = "credential_stuffing_detected",
}

/// Who did it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Actor {
    /// Nobody who has proven who they are.
    #[default]
    Anonymous,
    /// A user.
    User(UserId),
    /// A subject of another issuer.
    Subject(String),
    /// A client of the gateway's own, by its name.
    Client(String),
    /// The gateway by itself.
    System,
    /// Whoever runs the command line.
    Cli,
}

impl Actor {
    /// The word in the table; `None`: nobody is known.
    #[must_use]
    pub fn word(&self) -> Option<String> {
        match self {
            Self::Anonymous => None,
            Self::User(user) => Some(format!("user:{user}")),
            Self::Subject(subject) => Some(format!("subject:{subject}")),
            Self::Client(name) => Some(format!("client:{name}")),
            Self::System => Some("system".into()),
            Self::Cli => Some("cli".into()),
        }
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// As it was wanted.
    Succeeded,
    /// It was not let happen.
    Refused,
    /// It was let happen and did not.
    Failed,
}

impl Outcome {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Succeeded, Self::Refused, Self::Failed];

    /// The word in the table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl AuditEntry {
    /// Of what no request asked for.
    #[must_use]
    pub fn unasked(event: AuditEvent, at: Timestamp, actor: Actor) -> Self {
        Self {
            at,
            event,
            actor,
            user: None,
            session: None,
            address: String::new(),
            request_id: String::new(),
            detail: Detail::default(),
        }
    }

    /// Of a session, done by whoever has proven to be its owner.
    #[must_use]
    pub fn by_owner(self, user: UserId, session: SessionId) -> Self {
        Self { actor: Actor::User(user), user: Some(user), session: Some(session), ..self }
    }
}

impl AuditEvent {
    /// How such an event has ended.
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::LoginFailed
            | Self::RefreshReuseDetected
            | Self::RefreshAhead
            | Self::PermissionDenied
            | Self::AccountLocked
            | Self::AddressLocked
            | Self::CredentialStuffingDetected
            | Self::DeviceVoided => Outcome::Refused,
            Self::WebhookGivenUp => Outcome::Failed,
            _ => Outcome::Succeeded,
        }
    }

    /// The event of this name.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|event| event.as_str() == word)
    }
}

/// What a particular is about. The list is closed: whatever is not on it is not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Particular {
    /// An API key, by its id.
    ApiKey,
    /// Accounts that were tried, about.
    Accounts,
    /// How many of the kind happened within the minute that one row stands for.
    Count,
    /// Attempts that were made.
    Attempts,
    /// A signing key, by its `kid`.
    Key,
    /// Why, as answered to the client.
    Reason,
    /// The route, by its name in the configuration.
    Route,
    /// Rows.
    Rows,
    /// Sessions that ended with it.
    Sessions,
    /// A subject of another issuer, whom it concerns.
    Subject,
    /// An access token, by its `jti`.
    Token,
    /// What the client calls itself.
    UserAgent,
    /// A webhook, by its name in the configuration.
    Webhook,
    /// Which counter of failures.
    Counter,
    /// Failures that were counted.
    Failures,
    /// A name that no account has, by its digest under a key.
    Name,
    /// An address as failures are counted by it: of IPv6 the /64.
    Prefix,
    /// A wait, seconds.
    Wait,
    /// A quota, by its name in the configuration.
    Quota,
    /// Whose account of it, by the store's key: a hash.
    QuotaKey,
}

/// A particular's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// How many.
    Count(u64),
    /// Words.
    Text(String),
}

/// Particulars of an audit row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detail(BTreeMap<Particular, Value>);

impl Detail {
    /// With a number more.
    #[must_use]
    pub fn count(mut self, what: Particular, count: usize) -> Self {
        self.0.insert(what, Value::Count(u64::try_from(count).unwrap_or(u64::MAX)));
        self
    }

    /// With words more; `None`: without.
    #[must_use]
    pub fn text(mut self, what: Particular, text: Option<&str>) -> Self {
        if let Some(text) = text {
            self.0.insert(what, Value::Text(text.to_owned()));
        }
        self
    }

    /// As JSON; `None`: there is nothing to tell.
    #[must_use]
    pub fn to_json(&self) -> Option<String> {
        if self.0.is_empty() { None } else { serde_json::to_string(&self.0).ok() }
    }
}

/// A row as it lies there. A newer gateway may have written it: words are taken as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Its number.
    pub seq: u64,
    /// Its place in the chain, once it is sealed.
    pub position: Option<u64>,
    /// When.
    pub at: Timestamp,
    /// What.
    pub event: String,
    /// How it ended; unknown of rows older than the column.
    pub outcome: Option<String>,
    /// Who.
    pub actor: Option<String>,
    /// Whom.
    pub user: Option<UserId>,
    /// Which session.
    pub session: Option<SessionId>,
    /// From where.
    pub address: Option<String>,
    /// In which request.
    pub request_id: Option<String>,
    /// Particulars: a JSON object.
    pub detail: Option<String>,
    /// Who, whom, from where and the particulars were erased.
    pub erased: bool,
}

impl PartialEq<AuditEvent> for String {
    fn eq(&self, event: &AuditEvent) -> bool {
        self == event.as_str()
    }
}

/// Which rows are asked for; `None`: whatever it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Of this user.
    pub user: Option<UserId>,
    /// Of this session.
    pub session: Option<SessionId>,
    /// Of this event.
    pub event: Option<String>,
    /// Ended so.
    pub outcome: Option<Outcome>,
    /// Of this request.
    pub request_id: Option<String>,
    /// At or after.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
    /// With a smaller number: where the page before ended.
    pub before: Option<u64>,
}

/// What sealing stands on.
pub struct Sealing<'a> {
    /// Signs.
    pub key: &'a SealingKey,
    /// Salts.
    pub entropy: &'a dyn Entropy,
    /// Now.
    pub at: Timestamp,
    /// Rows at once.
    pub most: u32,
}

impl fmt::Debug for Sealing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealing")
            .field("key", &self.key)
            .field("at", &self.at)
            .field("most", &self.most)
            .finish_non_exhaustive()
    }
}

/// What came of sealing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    /// Another gateway is at it.
    Elsewhere,
    /// So many rows, up to this position; none when all were sealed already.
    Here {
        /// Rows sealed now.
        rows: u64,
        /// The last one's place; 0: there is none yet.
        last: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn particulars_are_json_with_keys_in_order() {
        assert_eq!(Detail::default().to_json(), None);
        let detail = Detail::default().text(Particular::UserAgent, Some("a \"b\"")).count(Particular::Count, 3);
        assert_eq!(detail.to_json().unwrap(), r#"{"count":3,"user_agent":"a \"b\""}"#);
        assert_eq!(Detail::default().text(Particular::Route, None), Detail::default());
    }

    #[test]
    fn an_actor_is_told_from_another_of_the_same_name() {
        assert_eq!(Actor::Anonymous.word(), None);
        assert_ne!(Actor::Client("system".into()).word(), Actor::System.word());
        assert_ne!(Actor::Client("x".into()).word(), Actor::Subject("x".into()).word());
    }
}
