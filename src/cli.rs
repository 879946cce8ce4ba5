//! The command line: `serve`, `check`, `schema`, `health`, and a file for each family of commands beside running
//! gateways (`api-keys`, `audit`, `keys`, `lockouts`, `quotas`, `revoke`, `users`). The question that `health` puts to
//! an admin listener is asked here too; the others are `main.rs`'s to do, and the families' `app/commands`'s.

pub mod api_keys;
pub mod keys;
pub mod lockouts;
pub mod quotas;
pub mod revoke;
pub mod users;

mod audit;

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    path::PathBuf,
    time::Duration,
};

use clap::{Parser, Subcommand};

pub use self::audit::{AuditCommand, AuditQueryArgs, OutcomeArg};

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
    /// What is done beside running gateways.
    #[command(flatten)]
    Beside(Beside),
    /// Ask a running gateway's admin listener whether it lives: exit 0 or 1. For container health checks.
    Health {
        /// `host:port` of the admin listener.
        #[arg(long, default_value = "127.0.0.1:9090")]
        admin: String,
    },
}

/// What is done beside running gateways.
#[derive(Debug, Subcommand)]
pub enum Beside {
    /// Look at users' API keys and revoke them.
    #[command(subcommand)]
    ApiKeys(api_keys::ApiKeys),
    /// What was done, by whom, from where.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Look after the signing keys.
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Look at what failed logins have locked, and lift it.
    #[command(subcommand)]
    Lockouts(lockouts::Lockouts),
    /// Look at what is used of quotas, and set it to nothing.
    #[command(subcommand)]
    Quotas(quotas::Quotas),
    /// Refuse a session, a user's sessions, or tokens from now on.
    #[command(subcommand)]
    Revoke(revoke::Revoke),
    /// Look at accounts and give them roles.
    #[command(subcommand)]
    Users(users::Users),
}

impl Beside {
    /// The gateways' configuration file.
    #[must_use]
    pub const fn config(&self) -> &PathBuf {
        match self {
            Self::ApiKeys(command) => &command.at().config,
            Self::Audit(command) => command.config(),
            Self::Keys(command) => &command.at().config,
            Self::Lockouts(command) => &command.at().config,
            Self::Quotas(command) => &command.at().config,
            Self::Revoke(command) => command.config(),
            Self::Users(command) => &command.at().config,
        }
    }
}

/// How long `health` waits for a connection, and then for a byte of the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the gateway behind an admin listener answers `/livez` with 200; two seconds of silence are a no. Plain
/// blocking sockets: the health check of a container should cost next to nothing.
pub fn lives(admin: &str) -> io::Result<bool> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in admin.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return answers(stream, admin),
            Err(fault) => last = fault,
        }
    }
    Err(last)
}

fn answers(mut stream: TcpStream, admin: &str) -> io::Result<bool> {
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /livez HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    Ok(head == *b"HTTP/1.1 200")
}
