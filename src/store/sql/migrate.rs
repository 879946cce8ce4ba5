//! Migrations: embedded, forward only, one step a file, the same numbers on both engines.
//!
//! Steps expand first (an older gateway goes on reading) and contract later (it no longer can); a contracting step
//! raises `schema_compat.min_reader`, and a gateway that knows fewer steps than that refuses to start. Gateways that
//! start at once migrate once: sqlx takes an advisory lock on PostgreSQL; on SQLite it takes none, so the caller
//! holds a lock file of ours.

use std::borrow::Cow;

use sqlx::{
    SqlSafeStr,
    migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator},
};

macro_rules! steps {
    ($($version:literal $name:literal,)*) => {
        /// Number and name of every step, in order.
        #[cfg(test)]
        const STEPS: &[(i64, &str)] = &[$(($version, $name),)*];

        /// The number of the newest step this gateway knows: what it can read.
        pub(super) const READER: i64 = {
            let steps = [$($version,)*];
            steps[steps.len() - 1]
        };

        /// PostgreSQL's texts.
        pub(super) fn postgres() -> Migrator {
            migrator(vec![$(step($version, $name, include_str!(concat!("../../../migrations/postgres/", $name, ".sql"))),)*])
        }

        /// SQLite's texts.
        pub(super) fn sqlite() -> Migrator {
            migrator(vec![$(step($version, $name, include_str!(concat!("../../../migrations/sqlite/", $name, ".sql"))),)*])
        }
    };
}

steps! {
    1 "0001_schema_compat",
    2 "0002_users",
    3 "0003_sessions",
    4 "0004_signing_keys",
    5 "0005_audit",
    6 "0006_rsa_signing_keys",
    7 "0007_feed",
    8 "0008_key_life",
    9 "0009_session_activity",
    10 "0010_audit_chain",
    11 "0011_webhook_outbox",
    12 "0012_lockouts",
}

fn step(version: i64, name: &'static str, sql: &'static str) -> Migration {
    Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, sql.into_sql_str(), false)
}

fn migrator(steps: Vec<Migration>) -> Migrator {
    let mut migrator = Migrator::with_migrations(steps);
    // A newer gateway may have gone ahead; whether we can still read what it left is `min_reader`'s to say.
    migrator.set_ignore_missing(true);
    migrator
}

/// Takes the steps that are missing.
pub(super) async fn run<C: Migrate>(migrator: &Migrator, connection: &mut C) -> Result<(), MigrateError> {
    migrator.run_direct(None, connection, false).await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_in_both_folders_is_a_step() {
        let listed: BTreeSet<String> = STEPS.iter().map(|(_, name)| format!("{name}.sql")).collect();
        for engine in ["postgres", "sqlite"] {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(engine);
            let files: BTreeSet<String> = std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            assert_eq!(files, listed, "migrations/{engine}");
        }
    }

    #[test]
    fn numbers_count_up_without_gaps_and_open_the_names() {
        for (expected, (version, name)) in (1..).zip(STEPS) {
            assert_eq!(*version, expected);
            assert!(name.starts_with(&format!("{version:04}_")), "{name}");
        }
        assert_eq!(READER, STEPS.last().unwrap().0);
    }
}
