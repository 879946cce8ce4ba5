//! `portcullis revoke …`: what is to be refused from now on, at every gateway.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use uuid::Uuid;

/// What to revoke.
#[derive(Debug, Subcommand)]
pub enum Revoke {
    /// A session: every token of it, and what flows for it.
    Session {
        /// Where.
        #[command(flatten)]
        at: At,
        /// Its id: `sid` of its tokens, or as `users show` prints it.
        #[arg(value_name = "SID")]
        session: Uuid,
    },
    /// Every session of a user.
    User {
        /// Where.
        #[command(flatten)]
        at: At,
        /// Its id or e-mail address.
        #[arg(value_name = "USER")]
        user: String,
    },
    /// One access token of ours; its session goes on, and its next token is good.
    Token {
        /// Where.
        #[command(flatten)]
        at: At,
        /// Its `jti`.
        #[arg(value_name = "JTI")]
        jti: String,
    },
    /// What another issuer's user was given up to now.
    Subject {
        /// Where.
        #[command(flatten)]
        at: At,
        /// The issuer's name in the configuration.
        #[arg(long, value_name = "NAME")]
        issuer: String,
        /// `sub`, as the issuer says it.
        #[arg(value_name = "SUB")]
        subject: String,
    },
}

impl Revoke {
    /// The configuration file.
    #[must_use]
    pub const fn config(&self) -> &PathBuf {
        match self {
            Self::Session { at, .. } | Self::User { at, .. } | Self::Token { at, .. } | Self::Subject { at, .. } => {
                &at.config
            }
        }
    }
}

/// Whose store.
#[derive(Debug, Args)]
pub struct At {
    /// The gateways' configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}
