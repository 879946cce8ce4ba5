//! The command line: `serve`, `check`, `schema`, `health`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// An edge auth gateway for RAG backends.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve until SIGTERM or SIGINT.
    Serve {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Check a configuration without starting anything: exit 0, or 64 with every mistake.
    Check {
        /// The configuration file.
        #[arg(value_name = "FILE")]
        config: PathBuf,
    },
    /// Print the JSON schema of the configuration file.
    Schema,
    /// Ask a running gateway's admin listener whether it lives: exit 0 or 1. For container health checks.
    Health {
        /// `host:port` of the admin listener.
        #[arg(long, default_value = "127.0.0.1:9090")]
        admin: String,
    },
}
