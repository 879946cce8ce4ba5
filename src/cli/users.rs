//! `portcullis users …`: what may be said about accounts.

use clap::Subcommand;

use super::keys::Store;

/// What to do with accounts.
#[derive(Debug, Subcommand)]
pub enum Users {
    /// Show an account and where it is logged in.
    Show {
        /// Where, and how to print.
        #[command(flatten)]
        at: Store,
        /// Its id or e-mail address.
        #[arg(value_name = "USER")]
        user: String,
    },
    /// Give an account these roles and no others. It counts at the next request, with tokens that are out there too.
    Roles {
        /// Where, and how to print.
        #[command(flatten)]
        at: Store,
        /// Its id or e-mail address.
        #[arg(value_name = "USER")]
        user: String,
        /// The roles, the highest first.
        #[arg(value_name = "ROLE", required = true)]
        roles: Vec<String>,
        /// The organisation, too; else it stays as it is.
        #[arg(long, value_name = "NAME", conflicts_with = "no_org")]
        org: Option<String>,
        /// No organisation any more.
        #[arg(long)]
        no_org: bool,
    },
}

impl Users {
    /// Where, and how to print.
    #[must_use]
    pub const fn at(&self) -> &Store {
        match self {
            Self::Show { at, .. } | Self::Roles { at, .. } => at,
        }
    }
}
