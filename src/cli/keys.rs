//! `portcullis keys …`: what may be said about signing keys.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What to do with the signing keys.
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Show every key and where it stands: next, current or previous.
    List {
        /// Where, and how to print.
        #[command(flatten)]
        at: Store,
    },
    /// Publish a next key of each algorithm in use; it signs after `tokens.rotation.publish_ahead`.
    Rotate {
        /// Where, and how to print.
        #[command(flatten)]
        at: Store,
        /// Let it sign within seconds: as soon as every gateway has read of it. Services that keep an older key set
        /// refuse identities until they read it again.
        #[arg(long)]
        now: bool,
    },
    /// Remove a key that leaked: it neither signs nor verifies from now on, and its tokens are refused. Where it was
    /// the current one, another signs at once.
    Retire {
        /// Where, and how to print.
        #[command(flatten)]
        at: Store,
        /// Its name, as `list` prints it.
        #[arg(value_name = "KID", allow_hyphen_values = true)]
        kid: String,
    },
}

impl Keys {
    /// Where, and how to print.
    #[must_use]
    pub const fn at(&self) -> &Store {
        match self {
            Self::List { at } | Self::Rotate { at, .. } | Self::Retire { at, .. } => at,
        }
    }
}

/// The store to look into, and how to print what is found.
#[derive(Debug, Args)]
pub struct Store {
    /// The gateways' configuration file: where the store is, and its master key.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
