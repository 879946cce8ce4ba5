//! `portcullis quotas …`: what is used of quotas. What they do is `app/commands/quotas.rs`'s.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use uuid::Uuid;

use super::keys::Store;

/// What to do with what is used of quotas.
#[derive(Debug, Subcommand)]
pub enum Quotas {
    /// Show what is used in periods that are not over, the most used first.
    List {
        /// Where, and how to print.
        #[command(flatten)]
        at: Store,
        /// Of this quota.
        #[arg(long, value_name = "NAME")]
        quota: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 1_000, value_name = "N")]
        limit: u32,
    },
    /// Show what one account has used of a quota.
    Show {
        /// Where, and how to print.
        #[command(flatten)]
        at: Store,
        /// The quota's name.
        quota: String,
        /// Whose.
        #[command(flatten)]
        whose: WhoseArgs,
    },
    /// Set what is used to nothing. What gateways hold ahead of it is void as soon as they hear of it.
    Reset {
        /// Where, and how to print.
        #[command(flatten)]
        at: Store,
        /// The quota's name.
        quota: String,
        /// Whose.
        #[command(flatten)]
        whose: WhoseArgs,
        /// Everybody's.
        #[arg(long, conflicts_with_all = ["user", "api_key", "org", "address", "route", "key"])]
        all: bool,
    },
}

/// Whose account: what the quota counts by, or the key that `quotas list` shows.
#[derive(Debug, Clone, Default, Args)]
pub struct WhoseArgs {
    /// A user (id or e-mail address), of a quota by subject.
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// An API key's id, of a quota by `api_key`.
    #[arg(long, value_name = "ID")]
    pub api_key: Option<Uuid>,
    /// An organisation, of a quota by org.
    #[arg(long, value_name = "ORG")]
    pub org: Option<String>,
    /// A client address, of a quota by address.
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<IpAddr>,
    /// A route's name, of a quota by route.
    #[arg(long, value_name = "NAME")]
    pub route: Option<String>,
    /// A key, as `quotas list` shows it.
    #[arg(long, value_name = "KEY", conflicts_with_all = ["user", "api_key", "org", "address", "route"])]
    pub key: Option<String>,
}

impl Quotas {
    /// Where, and how to print.
    #[must_use]
    pub const fn at(&self) -> &Store {
        match self {
            Self::List { at, .. } | Self::Show { at, .. } | Self::Reset { at, .. } => at,
        }
    }
}
