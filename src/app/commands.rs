//! What operators do from the command line while gateways run: a file for each family of commands. Each opens the store
//! as a gateway does, without claiming it, says what came of it, and ends.

mod keys;

use std::path::PathBuf;

pub use self::keys::keys;
use crate::{
    app::{StartFault, keys::KeysFault},
    clock::Timestamp,
    config::settings::{Engine, Settings, Store},
    policy::{keys::Algorithm, rfc3339::rfc3339},
    store::{SharedStore, StoreFault},
};

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

/// A moment as it is printed: RFC 3339 in UTC, to the second.
fn moment(at: Timestamp) -> String {
    rfc3339(Timestamp::from_seconds(at.seconds())).unwrap_or_else(|| at.micros().to_string())
}
