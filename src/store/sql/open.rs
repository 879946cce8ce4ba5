//! Opening a store: connect, migrate, check that this gateway may read what is there.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    ConnectOptions, Connection,
    migrate::MigrateError,
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{link::Pools, migrate, query::Query};
use crate::{
    config::settings,
    store::{StoreFault, calls::Server},
};

/// How long a start waits for another one that is migrating the same SQLite file.
const MIGRATION_PATIENCE: Duration = Duration::from_mins(1);
/// Between two looks at the lock file.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// Why a store could not be opened. Never holds the URL's password.
#[derive(Debug, thiserror::Error)]
pub enum OpenFault {
    /// `store.url` does not parse; what is wrong with it is not told, since the text may hold a password.
    #[error("the PostgreSQL URL is not valid")]
    Url,
    /// No answer from the server.
    #[error("cannot reach {place}: {cause}")]
    Unreachable {
        /// `postgres://user@host:port/database`
        place: String,
        /// What went wrong.
        cause: StoreFault,
    },
    /// The folder or a file beside the database.
    #[error("cannot use {path}: {cause}")]
    File {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        cause: io::Error,
    },
    /// A migration failed; the schema is as before that step.
    #[error("cannot migrate {place}: {cause}")]
    Migration {
        /// Which store.
        place: String,
        /// What went wrong.
        cause: String,
    },
    /// Another process has been migrating for longer than we wait.
    #[error("another process holds {0}; is it still migrating?")]
    Locked(PathBuf),
    /// Another gateway serves this SQLite file.
    #[error("another gateway serves {0}: with SQLite there is one; several need store.url: postgres://…")]
    Taken(PathBuf),
    /// A newer gateway has changed the schema in a way this one cannot read.
    #[error(
        "the schema of {place} needs a gateway that knows migration {min_reader}; this one knows up to {reader}: \
         run a newer portcullis"
    )]
    TooNew {
        /// Which store.
        place: String,
        /// What the schema asks for.
        min_reader: u64,
        /// What this gateway knows.
        reader: i64,
    },
}

/// Connects, migrates, checks.
pub(super) async fn pools(settings: &settings::Store) -> Result<Pools, OpenFault> {
    let (pools, place) = match &settings.engine {
        settings::Engine::Postgres { url } => postgres(url, settings).await?,
        settings::Engine::Sqlite { path } => sqlite(path, settings).await?,
    };
    match check(&pools, &place).await {
        Ok(()) => Ok(pools),
        Err(fault) => {
            pools.close().await;
            Err(fault)
        }
    }
}

async fn check(pools: &Pools, place: &str) -> Result<(), OpenFault> {
    let asked = async {
        let mut link = pools.read().await?;
        let row = Query::new("SELECT min_reader FROM schema_compat").row(&mut link).await;
        link.settle(row)?.ok_or(sqlx::Error::RowNotFound)?.count("min_reader")
    };
    let min_reader =
        asked.await.map_err(|error| OpenFault::Unreachable { place: place.into(), cause: error.into() })?;
    let reader = migrate::READER;
    if i64::try_from(min_reader).is_ok_and(|min_reader| min_reader <= reader) {
        return Ok(());
    }
    Err(OpenFault::TooNew { place: place.into(), min_reader, reader })
}

fn migration_fault(place: &str, error: MigrateError) -> OpenFault {
    let cause = match error {
        MigrateError::Execute(error) => StoreFault::from(error).to_string(),
        // A step holds no bound values, so PostgreSQL's own words may be told.
        other => other.to_string(),
    };
    OpenFault::Migration { place: place.into(), cause }
}

async fn postgres(url: &SecretString, settings: &settings::Store) -> Result<(Pools, String), OpenFault> {
    let options = PgConnectOptions::from_str(url.expose_secret()).map_err(|_| OpenFault::Url)?;
    let options = options.application_name("portcullis");
    let place = format!(
        "postgres://{}@{}:{}/{}",
        options.get_username(),
        options.get_socket().map_or_else(|| options.get_host().into(), |socket| socket.to_string_lossy().into_owned()),
        options.get_port(),
        options.get_database().unwrap_or(options.get_username()),
    );
    let server = Arc::new(match options.get_socket() {
        Some(socket) => Server { address: socket.to_string_lossy().into_owned(), port: None },
        None => Server { address: options.get_host().to_owned(), port: Some(options.get_port()) },
    });
    let unreachable = |cause| OpenFault::Unreachable { place: place.clone(), cause };

    // Migrating has a connection of its own: waiting for the lock, or for a long step, knows no deadline.
    let mut connection = tokio::time::timeout(settings.timeout, options.connect())
        .await
        .map_err(|_| unreachable(StoreFault::Unavailable(format!("no answer within {:?}", settings.timeout))))?
        .map_err(|error| unreachable(error.into()))?;
    migrate::run(&migrate::postgres(), &mut connection).await.map_err(|error| migration_fault(&place, error))?;
    // The lock is the session's: closing in order frees it at once.
    connection.close().await.map_err(|error| unreachable(error.into()))?;

    // The program's deadline comes first; the server's own ends what a dropped call left running there.
    let deadline = format!("{}ms", settings.timeout.as_millis().max(1));
    let options = options.options([
        ("statement_timeout", deadline.as_str()),
        ("idle_in_transaction_session_timeout", deadline.as_str()),
    ]);
    let pool = PgPoolOptions::new()
        .max_connections(settings.pool)
        .acquire_timeout(settings.timeout)
        .connect_lazy_with(options);
    Ok((Pools::Postgres { pool, server }, place))
}

async fn sqlite(path: &Path, settings: &settings::Store) -> Result<(Pools, String), OpenFault> {
    let lock_path = beside(path, ".lock");
    let lock = prepare(path, &lock_path)?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(settings.timeout);
    let place = path.display().to_string();
    let unreachable = |error: sqlx::Error| OpenFault::Unreachable { place: place.clone(), cause: error.into() };

    hold(&lock, &lock_path).await?;
    let mut connection = options.connect().await.map_err(unreachable)?;
    let migrated = migrate::run(&migrate::sqlite(), &mut connection).await;
    connection.close().await.map_err(unreachable)?;
    // Dropping the file frees the lock.
    drop(lock);
    migrated.map_err(|error| migration_fault(&place, error))?;

    // Connections to a file do not go stale: no tests before use, no end of life.
    let pool = SqlitePoolOptions::new()
        .acquire_timeout(settings.timeout)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None);
    let writer = pool.clone().max_connections(1).connect_lazy_with(options.clone());
    let readers = pool.max_connections(settings.pool).connect_lazy_with(options.read_only(true));
    Ok((Pools::Sqlite { readers, writer }, place))
}

/// Makes the folder (0700) and the two files (0600) unless they are there; the database's own WAL files take its mode.
fn prepare(path: &Path, lock: &Path) -> Result<File, OpenFault> {
    let fault = |path: &Path| {
        let path = path.to_owned();
        move |cause| OpenFault::File { path, cause }
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(fault(folder))?;
    }
    let open = |path| OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    open(path).map_err(fault(path))?;
    open(lock).map_err(fault(lock))
}

/// A SQLite store held for one gateway until dropped.
#[derive(Debug)]
pub struct Claim(File);

impl Drop for Claim {
    fn drop(&mut self) {
        // Not left to closing: a child process that is just being started may have inherited the file.
        let _ = self.0.unlock();
    }
}

/// Holds a SQLite store: what a second gateway revoked, this one would not know of. `None` for PostgreSQL, which serves
/// several.
pub fn claim(settings: &settings::Store) -> Result<Option<Claim>, OpenFault> {
    let settings::Engine::Sqlite { path } = &settings.engine else { return Ok(None) };
    let claimed = beside(path, ".gateway");
    let file = prepare(path, &claimed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Claim(file))),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenFault::Taken(path.clone())),
        Err(std::fs::TryLockError::Error(cause)) => Err(OpenFault::File { path: claimed, cause }),
    }
}

/// Waits for the lock without blocking a thread of the runtime.
async fn hold(lock: &File, path: &Path) -> Result<(), OpenFault> {
    let waiting = async {
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(()),
                Err(std::fs::TryLockError::WouldBlock) => tokio::time::sleep(LOCK_POLL).await,
                Err(std::fs::TryLockError::Error(cause)) => {
                    return Err(OpenFault::File { path: path.to_owned(), cause });
                }
            }
        }
    };
    tokio::time::timeout(MIGRATION_PATIENCE, waiting).await.map_err(|_| OpenFault::Locked(path.to_owned()))?
}

/// `folder/name` with `ending` after it.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    async fn sqlite_in(folder: &TempDir) -> Pools {
        let engine = settings::Engine::Sqlite { path: folder.path().join("portcullis.db") };
        pools(&settings::Store { engine, master_key: None, pool: 2, timeout: Duration::from_mins(1) }).await.unwrap()
    }

    #[tokio::test]
    async fn sqlite_commits_are_on_the_disk_when_they_return() {
        let folder = TempDir::new().unwrap();
        let pools = sqlite_in(&folder).await;
        let mut link = pools.write().await.unwrap();
        for (pragma, column, full) in
            [("PRAGMA synchronous", "synchronous", 2), ("PRAGMA foreign_keys", "foreign_keys", 1)]
        {
            let row = Query::new(pragma).row(&mut link).await.unwrap().unwrap();
            assert_eq!(row.count(column).unwrap(), full, "{pragma}");
        }
        let row = Query::new("PRAGMA journal_mode").row(&mut link).await.unwrap().unwrap();
        assert_eq!(row.text("journal_mode").unwrap(), "wal");
        link.settle(Ok::<_, sqlx::Error>(())).unwrap();
    }

    #[test]
    fn a_sqlite_file_serves_one_gateway_at_a_time() {
        let folder = TempDir::new().unwrap();
        let engine = settings::Engine::Sqlite { path: folder.path().join("portcullis.db") };
        let settings = settings::Store { engine, master_key: None, pool: 2, timeout: Duration::from_mins(1) };
        let first = claim(&settings).unwrap();
        let second = claim(&settings).unwrap_err();
        assert!(second.to_string().contains("store.url"), "{second}");
        drop(first);
        assert!(claim(&settings).is_ok());
    }

    #[tokio::test]
    async fn sqlite_readers_cannot_write() {
        let folder = TempDir::new().unwrap();
        let pools = sqlite_in(&folder).await;
        let mut link = pools.read().await.unwrap();
        let refused = Query::new("UPDATE schema_compat SET min_reader = 2").execute(&mut link).await;
        assert!(matches!(refused.map_err(StoreFault::from), Err(StoreFault::Unavailable(_))));
    }

    #[tokio::test]
    async fn a_transaction_dropped_half_way_is_rolled_back() {
        let folder = TempDir::new().unwrap();
        let pools = sqlite_in(&folder).await;
        let mut link = pools.write().await.unwrap();
        Query::new("UPDATE schema_compat SET min_reader = 3").execute(&mut link).await.unwrap();
        drop(link);
        let mut link = pools.write().await.unwrap();
        let row = Query::new("SELECT min_reader FROM schema_compat").row(&mut link).await.unwrap().unwrap();
        assert_eq!(row.count("min_reader").unwrap(), 7);
    }

    #[test]
    fn the_lock_lies_beside_the_database() {
        assert_eq!(beside(Path::new("/data/p.db"), ".lock"), Path::new("/data/p.db.lock"));
    }
}
