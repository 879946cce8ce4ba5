//! `portcullis audit …`: is the audit as it was sealed, what does it say, forget a person. What they do is
//! `app/commands/audit.rs`'s.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

/// What to do with the audit.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Walk the whole chain: exit 0, or 1 with the first row that is not as it was sealed.
    Verify {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Print rows, the newest first.
    Query(AuditQueryArgs),
    /// Forget who and from where in all rows of a person. When, what and how it ended stay, and so does the chain.
    Erase {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The user to forget.
        #[arg(long, value_name = "ID", required_unless_present = "subject", conflicts_with = "subject")]
        user: Option<Uuid>,
        /// The subject of another issuer to forget, as `audit query` prints it behind `subject:`.
        #[arg(long, value_name = "SUBJECT")]
        subject: Option<String>,
    },
}

impl AuditCommand {
    /// The configuration file.
    #[must_use]
    pub const fn config(&self) -> &PathBuf {
        match self {
            Self::Verify { config } | Self::Erase { config, .. } => config,
            Self::Query(args) => &args.config,
        }
    }
}

/// Which rows. Each option narrows.
#[derive(Debug, Args)]
pub struct AuditQueryArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Of this user.
    #[arg(long, value_name = "ID")]
    pub user: Option<Uuid>,
    /// Of this session.
    #[arg(long, value_name = "ID")]
    pub session: Option<Uuid>,
    /// Of this event, e.g. `login_failed`.
    #[arg(long, value_name = "NAME")]
    pub event: Option<String>,
    /// That ended so.
    #[arg(long)]
    pub outcome: Option<OutcomeArg>,
    /// Of this request.
    #[arg(long, value_name = "ID")]
    pub request_id: Option<String>,
    /// At or after this moment, e.g. `2026-03-01T00:00:00Z`.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub since: Option<OffsetDateTime>,
    /// Before this moment.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub until: Option<OffsetDateTime>,
    /// At most so many.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub limit: u32,
    /// One JSON object a line.
    #[arg(long)]
    pub json: bool,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutcomeArg {
    /// As it was wanted.
    Succeeded,
    /// It was not let happen.
    Refused,
    /// It was let happen and did not.
    Failed,
}

fn moment(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "expected RFC 3339, e.g. 2026-03-01T00:00:00Z".into())
}
