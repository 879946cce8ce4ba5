//! What a driver's error means: the store is lost, a name is taken, or a row makes no sense.
//!
//! Nothing of a bound value may reach a log through here. A driver's own text is kept only where it speaks of the
//! server's state; elsewhere the code and the constraint's name must do (PostgreSQL quotes the offending value in
//! some messages, a decoder may quote the stored one).

use sqlx::error::{DatabaseError, ErrorKind};

use crate::store::{AccountFault, StoreFault};

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

fn of_database(error: &dyn DatabaseError) -> StoreFault {
    let code = error.code().unwrap_or_default();
    if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
        return of_sqlite(&code, error.message());
    }
    of_postgres(&code, error)
}

/// By SQLSTATE class (PostgreSQL, appendix A).
fn of_postgres(code: &str, error: &dyn DatabaseError) -> StoreFault {
    match code.get(..2).unwrap_or_default() {
        // Connection, resources, operator intervention, the system, authorisation, a missing or read-only database:
        // their texts speak of the server.
        "08" | "53" | "57" | "58" | "28" | "3D" | "25" => {
            StoreFault::Unavailable(format!("{} (SQLSTATE {code})", error.message()))
        }
        // Serialisation, deadlock, lock time-out, internal: the next try may go through.
        "40" | "55" | "XX" => StoreFault::Unavailable(format!("SQLSTATE {code}")),
        _ => StoreFault::Inconsistent(match error.constraint() {
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
