//! What operators do from the command line while gateways run: a file for each family of commands. Each opens the store
//! as a gateway does, without claiming it, says what came of it, and ends.

mod api_keys;
mod audit;
mod keys;
mod lockouts;
mod quotas;
mod revoke;
mod users;

use std::{error::Error, io::Write, path::PathBuf};

pub use self::keys::keys;
use crate::{
    app::{Rim, StartFault, keys::KeysFault},
    cli::Beside,
    clock::Timestamp,
    config::settings::{Engine, Settings, Store},
    policy::{
        ids::{ApiKeyId, SessionId},
        keys::Algorithm,
        rfc3339::rfc3339,
    },
    store::{Account, AuditEntry, AuditEvent, Login, SharedStore, Store as Facts, StoreFault, audit::Actor},
};

/// Carries a command out and prints what came of it; `false`: the answer is no.
///
/// # Errors
/// It was not carried out.
pub async fn run(
    command: &Beside,
    settings: &Settings,
    rim: &Rim,
    out: &mut dyn Write,
) -> Result<bool, Box<dyn Error>> {
    let told = match command {
        Beside::Audit(command) => return Ok(audit::run(settings, command, rim, out).await?),
        Beside::ApiKeys(command) => api_keys::api_keys(command, settings, rim).await?,
        Beside::Keys(command) => keys(command, settings, rim).await?,
        Beside::Lockouts(command) => lockouts::lockouts(command, settings, rim).await?,
        Beside::Quotas(command) => quotas::quotas(command, settings, rim).await?,
        Beside::Revoke(command) => revoke::revoke(command, settings, rim).await?,
        Beside::Users(command) => users::users(command, settings, rim).await?,
    };
    writeln!(out, "{told}")?;
    Ok(true)
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CommandFault {
    /// There is nothing to look into.
    #[error(
        "store.url is none: there is no store to look into. The signing keys are those of tokens.signing_key, or made at \
         each start; only a restart changes them"
    )]
    NoStore,
    /// Opening it would make one.
    #[error(
        "{0} is not there: a gateway makes it at its first start. Is this the file, and the folder, that it runs with?"
    )]
    NoDatabase(PathBuf),
    /// The store or its master key.
    #[error(transparent)]
    Start(#[from] StartFault),
    /// The store failed.
    #[error("store: {0}")]
    Store(#[from] StoreFault),
    /// The signing keys.
    #[error(transparent)]
    Keys(#[from] KeysFault),
    /// There is no such key.
    #[error("there is no signing key {0}; `portcullis keys list` shows those there are")]
    UnknownKey(String),
    /// Keys are changed faster than their tokens end.
    #[error("there are too many keys of {0} already: wait until a previous one has gone")]
    TooManyKeys(Algorithm),
    /// There is no such user.
    #[error("there is no user {0}")]
    UnknownUser(String),
    /// There is no such session.
    #[error("there is no session {0}")]
    UnknownSession(SessionId),
    /// The user has no such key.
    #[error("the user has no API key {0}; `portcullis api-keys list` shows those there are")]
    UnknownApiKey(ApiKeyId),
    /// Nothing is locked by this name.
    #[error("nothing is locked that goes by {0}; `portcullis lockouts list` shows what is")]
    UnknownLockout(String),
    /// There is no such quota.
    #[error("no quota is named {0} in the configuration; `portcullis quotas list` shows keys that are used")]
    UnknownQuota(String),
    /// Whose account is meant is not said as the quota counts it.
    #[error("the quota {0} counts by {1}: say that and nothing else, or --key as `portcullis quotas list` shows it")]
    NotCountedBy(String, String),
    /// No key of an account.
    #[error("{0} is no key of an account; `portcullis quotas list` shows those there are")]
    QuotaKey(String),
    /// There is nothing to reset.
    #[error("nothing of the quota {0} is used there; `portcullis quotas list` shows what is")]
    NothingUsed(String),
    /// There is no such issuer.
    #[error("no issuer is named {0} in the configuration")]
    UnknownIssuer(String),
    /// No subject of another issuer's is like this.
    #[error("no subject is like this: visible ASCII, at most 255 bytes")]
    Subject,
    /// No role or organisation is like this.
    #[error("{0:?} can be no role or organisation: visible ASCII without a comma, at most 128 bytes")]
    Word(String),
    /// A role twice.
    #[error("the role {0} twice")]
    Twice(String),
    /// The clocks of two machines differ.
    #[error(
        "the next key was published at {0} by another machine's clock, which is ahead of this one's: set both right"
    )]
    Clock(String),
}

/// The store that the settings name, if it is there.
async fn open(settings: &Settings) -> Result<(&Store, SharedStore), CommandFault> {
    let kept = settings.store.as_ref().ok_or(CommandFault::NoStore)?;
    if let Engine::Sqlite { path } = &kept.engine
        && !path.exists()
    {
        return Err(CommandFault::NoDatabase(path.clone()));
    }
    Ok((kept, crate::store::sql::open(kept).await.map_err(StartFault::from)?))
}

/// The account of this id or e-mail address.
async fn found(store: &dyn Facts, user: &str) -> Result<Account, CommandFault> {
    let account = match user.parse() {
        Ok(id) => store.account(id).await?,
        Err(_) => store.find_login(&Login::Email(user.to_owned())).await?.map(|(account, _)| account),
    };
    account.ok_or_else(|| CommandFault::UnknownUser(user.to_owned()))
}

/// What somebody at the command line has done.
fn by_cli(event: AuditEvent, at: Timestamp) -> AuditEntry {
    AuditEntry::unasked(event, at, Actor::Cli)
}

/// A moment as it is printed: RFC 3339 in UTC, to the second.
fn moment(at: Timestamp) -> String {
    rfc3339(Timestamp::from_seconds(at.seconds())).unwrap_or_else(|| at.micros().to_string())
}
