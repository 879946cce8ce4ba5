//! What a driver's error means: the store is lost, a name is taken, or a row makes no sense.
//!
//! Nothing of a bound value may reach a log through here. A driver's own text is kept only where it speaks of the
//! server's state; elsewhere the code and the constraint's name must do (PostgreSQL quotes the offending value in
//! some messages, a decoder may quote the stored one).

use std::borrow::Cow;

use sqlx::error::{DatabaseError, ErrorKind};

use crate::store::{AccountFault, StoreFault, calls::Failure};

impl From<sqlx::Error> for StoreFault {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => of_database(&*error),
            sqlx::Error::ColumnDecode { index, .. } => Self::Inconsistent(format!("column {index} does not decode")),
            sqlx::Error::Decode(_) => Self::Inconsistent("a value does not decode".into()),
            sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_) => {
                Self::Inconsistent("a value does not fit its column".into())
            }
            sqlx::Error::RowNotFound => Self::Inconsistent("a row is missing".into()),
            sqlx::Error::ColumnNotFound(name) => Self::Inconsistent(format!("there is no column {name}")),
            sqlx::Error::TypeNotFound { type_name } => Self::Inconsistent(format!("there is no type {type_name}")),
            sqlx::Error::ColumnIndexOutOfBounds { index, .. } => Self::Inconsistent(format!("no column {index}")),
            sqlx::Error::Configuration(_) => Self::Unavailable("the connection's settings are not valid".into()),
            // What is left is about reaching the server: sockets, TLS, the pool. None of it has seen a value.
            other => Self::Unavailable(other.to_string()),
        }
    }
}

impl From<sqlx::Error> for AccountFault {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(cause) if cause.kind() == ErrorKind::UniqueViolation => taken(&**cause),
            _ => None,
        }
        .unwrap_or_else(|| Self::Store(error.into()))
    }
}

/// Which name is taken, by PostgreSQL's constraint or the column SQLite tells.
fn taken(error: &dyn DatabaseError) -> Option<AccountFault> {
    match error.constraint().unwrap_or_else(|| error.message()) {
        "users_email_unique" | "UNIQUE constraint failed: users.email_key" => Some(AccountFault::EmailTaken),
        "users_username_unique" | "UNIQUE constraint failed: users.username_key" => Some(AccountFault::UsernameTaken),
        _ => None,
    }
}

/// What a span may tell of an error: its kind, and the database's code.
pub(super) fn failure(error: &sqlx::Error) -> Failure {
    let kind = match error {
        sqlx::Error::Database(error) => {
            return Failure { kind: "database", code: error.code().map(Cow::into_owned) };
        }
        sqlx::Error::Io(_) => "io",
        sqlx::Error::Tls(_) => "tls",
        sqlx::Error::Protocol(_) => "protocol",
        sqlx::Error::PoolTimedOut => "pool_timed_out",
        sqlx::Error::PoolClosed => "pool_closed",
        sqlx::Error::WorkerCrashed => "worker_crashed",
        sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_) => "encode",
        sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => "decode",
        _ => "_OTHER",
    };
    Failure { kind, code: None }
}

fn of_database(error: &dyn DatabaseError) -> StoreFault {
    let code = error.code().unwrap_or_default();
    if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
        return of_sqlite(&code, error.message());
    }
    of_postgres(&code, error.message(), error.constraint())
}

/// By SQLSTATE class (PostgreSQL, appendix A).
fn of_postgres(code: &str, message: &str, constraint: Option<&str>) -> StoreFault {
    match code.get(..2).unwrap_or_default() {
        // Connection, resources, operator intervention, the system, authorisation, a missing or read-only database:
        // their texts speak of the server.
        "08" | "53" | "57" | "58" | "28" | "3D" | "25" => {
            StoreFault::Unavailable(format!("{message} (SQLSTATE {code})"))
        }
        // Serialisation, deadlock, lock time-out, internal: the next try may go through.
        "40" | "55" | "XX" => StoreFault::Unavailable(format!("SQLSTATE {code}")),
        // A table or a right is missing: the text speaks of our constant SQL.
        "42" => StoreFault::Inconsistent(format!("{message} (SQLSTATE {code})")),
        _ => StoreFault::Inconsistent(match constraint {
            Some(constraint) => format!("SQLSTATE {code} at {constraint}"),
            None => format!("SQLSTATE {code}"),
        }),
    }
}

/// By primary result code. SQLite's messages name tables and columns, never values.
fn of_sqlite(code: &str, message: &str) -> StoreFault {
    const ERROR: u32 = 1;
    const CORRUPT: u32 = 11;
    const SCHEMA: u32 = 17;
    const CONSTRAINT: u32 = 19;
    const MISMATCH: u32 = 20;
    const NOT_A_DATABASE: u32 = 26;
    let told = format!("{message} (SQLite {code})");
    match code.parse::<u32>().unwrap_or(ERROR) & 0xff {
        ERROR | CORRUPT | SCHEMA | CONSTRAINT | MISMATCH | NOT_A_DATABASE => StoreFault::Inconsistent(told),
        // Busy, full, read-only, I/O, cannot open, no memory, interrupted.
        _ => StoreFault::Unavailable(told),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn lost(fault: &StoreFault) -> bool {
        matches!(fault, StoreFault::Unavailable(_))
    }

    #[test]
    fn what_is_about_reaching_the_server_is_unavailable() {
        for error in [
            sqlx::Error::Io(io::ErrorKind::ConnectionReset.into()),
            sqlx::Error::PoolTimedOut,
            sqlx::Error::PoolClosed,
            sqlx::Error::WorkerCrashed,
            sqlx::Error::Protocol("unexpected message".into()),
            sqlx::Error::Tls("bad certificate".into()),
        ] {
            let fault = StoreFault::from(error);
            assert!(lost(&fault), "{fault}");
        }
    }

    #[test]
    fn what_is_about_a_row_is_inconsistent_and_does_not_quote_it() {
        let planted = || "planted-4f1c".into();
        for error in [
            sqlx::Error::ColumnDecode { index: "salt".into(), source: planted() },
            sqlx::Error::Decode(planted()),
            sqlx::Error::Encode(planted()),
            sqlx::Error::RowNotFound,
        ] {
            let fault = StoreFault::from(error);
            assert!(!lost(&fault) && !fault.to_string().contains("planted"), "{fault}");
        }
    }

    #[test]
    fn a_postgres_that_restarts_fails_over_or_is_full_is_unavailable() {
        // cannot_connect_now, admin_shutdown, too_many_connections, read_only (a demoted primary), deadlock,
        // statement time-out, a role that was dropped.
        for code in ["57P03", "57P01", "53300", "25006", "40P01", "57014", "28000"] {
            assert!(lost(&of_postgres(code, "", None)), "{code}");
        }
    }

    #[test]
    fn a_postgres_message_that_may_quote_a_value_is_not_told() {
        for code in ["22P02", "22021", "23505", "23514", "XX000", "40001", ""] {
            let fault = of_postgres(code, "invalid input: \"planted-4f1c\"", Some("users_email_unique"));
            assert!(!fault.to_string().contains("planted"), "{fault}");
        }
        assert!(of_postgres("23514", "", Some("sessions_salt_check")).to_string().contains("sessions_salt_check"));
    }

    #[test]
    fn a_busy_or_full_sqlite_is_unavailable_and_a_broken_one_is_not() {
        // busy, busy_snapshot, locked, read-only, I/O error, full, cannot open
        for code in ["5", "517", "6", "8", "266", "13", "14"] {
            assert!(lost(&of_sqlite(code, "")), "{code}");
        }
        // error, corrupt, constraint (unique), mismatch, not a database
        for code in ["1", "11", "2067", "20", "26", ""] {
            assert!(!lost(&of_sqlite(code, "")), "{code}");
        }
    }
}
