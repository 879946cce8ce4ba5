//! `portcullis lockouts …`: what failed logins have locked. What they do is `app/commands/lockouts.rs`'s.

use std::net::IpAddr;

use clap::{Args, Subcommand, ValueEnum};

use super::keys::Store;

/// What to do with lockouts.
#[derive(Debug, Subcommand)]
pub enum Lockouts {
    /// Show what is locked now: accounts, addresses, device cookies, then accounts from one address.
    List(LockoutListArgs),
    /// Forget the failures that something is locked by. Name exactly one thing.
    Lift {
        /// Where, and how to print.
        #[command(flatten)]
        at: Store,
        /// A lockout, as `lockouts list` names it.
        #[arg(value_name = "ID", required_unless_present_any = ["account", "address"], conflicts_with_all = ["account", "address"])]
        id: Option<String>,
        /// Every failure with this account (id or e-mail address), from wherever.
        #[arg(long, value_name = "USER", conflicts_with = "address")]
        account: Option<String>,
        /// What counts against this address. Single accounts wait on.
        #[arg(long, value_name = "ADDRESS")]
        address: Option<IpAddr>,
    },
}

/// Which lockouts. Each option narrows.
#[derive(Debug, Args)]
pub struct LockoutListArgs {
    /// Where, and how to print.
    #[command(flatten)]
    pub at: Store,
    /// Of this kind.
    #[arg(long)]
    pub kind: Option<KindArg>,
    /// Of this account (id or e-mail address).
    #[arg(long, value_name = "USER")]
    pub account: Option<String>,
    /// Of this address.
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<IpAddr>,
    /// At most so many.
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub limit: u32,
}

/// What is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KindArg {
    /// An account.
    Account,
    /// An address.
    Address,
    /// A device cookie.
    Device,
    /// An account from one address.
    Pair,
}

impl Lockouts {
    /// Where, and how to print.
    #[must_use]
    pub const fn at(&self) -> &Store {
        match self {
            Self::List(LockoutListArgs { at, .. }) | Self::Lift { at, .. } => at,
        }
    }
}
