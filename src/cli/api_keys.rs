//! `portcullis api-keys …`: what may be said about API keys. Making one takes its owner's session.

use clap::Subcommand;
use uuid::Uuid;

use super::keys::Store;

/// What to do with a user's API keys.
#[derive(Debug, Subcommand)]
pub enum ApiKeys {
    /// Show a user's keys, without their secrets.
    List {
        /// Where, and how to print.
        #[command(flatten)]
        at: Store,
        /// The user's id or e-mail address.
        #[arg(long, value_name = "USER")]
        user: String,
    },
    /// Refuse a key from now on, at every gateway; its open streams end.
    Revoke {
        /// Where, and how to print.
        #[command(flatten)]
        at: Store,
        /// The user's id or e-mail address.
        #[arg(long, value_name = "USER")]
        user: String,
        /// The key's id.
        #[arg(value_name = "ID")]
        id: Uuid,
    },
}

impl ApiKeys {
    /// Where, and how to print.
    #[must_use]
    pub const fn at(&self) -> &Store {
        match self {
            Self::List { at, .. } | Self::Revoke { at, .. } => at,
        }
    }
}
