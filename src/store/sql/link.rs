//! Connections: one type for both engines, so that every statement is written once.
//!
//! A [`Link`] is one pooled connection for one store call. A call that is dropped half-way (the deadline passed, the
//! client hung up) leaves its connection in an unknown state, perhaps waiting for a server that will never answer:
//! such a link is closed, never given back to the pool, and the server rolls its transaction back.

use std::{sync::Arc, time::Duration};

use sqlx::{
    Database, PgPool, Pool, Postgres, Sqlite, SqlitePool,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};

use tokio::time::timeout;

use super::{
    fault,
    feed::{self, Told},
    query::Query,
};
use crate::{
    clock::Timestamp,
    policy::webhook::SecurityEvent,
    store::{
        PoolStats, StoreFault,
        calls::{Asked, BEGIN_WRITING, Server, System, Telling},
        feed::News,
        security::SecurityWatch,
    },
};

/// After so long without a call it is asked whether the connection still leads anywhere.
const QUIET: Duration = Duration::from_secs(5);

/// The connections of one store.
#[derive(Debug)]
pub(super) enum Pools {
    /// One pool for everything.
    Postgres {
        /// Its connections.
        pool: PgPool,
        /// Where they lead.
        server: Arc<Server>,
    },
    /// SQLite takes one writer at a time; a pool of one queues them fairly instead of letting them spin.
    Sqlite {
        /// Read-only connections.
        readers: SqlitePool,
        /// The one that writes.
        writer: SqlitePool,
    },
}

impl Pools {
    pub(super) fn stats(&self) -> PoolStats {
        let (size, idle) = match self {
            Self::Postgres { pool, .. } => (pool.size(), pool.num_idle()),
            Self::Sqlite { readers, writer } => {
                (readers.size() + writer.size(), readers.num_idle() + writer.num_idle())
            }
        };
        PoolStats { idle, busy: usize::try_from(size).unwrap_or(usize::MAX).saturating_sub(idle) }
    }
}

/// A connection out of a pool, for one call.
pub(super) struct Link {
    pub(super) connection: Connection,
    /// Nothing is under way on it: it may be given back.
    settled: bool,
    /// What the transaction has to tell every gateway.
    told: Vec<Told>,
    /// Who is told of security events.
    pub(super) watch: Option<Arc<SecurityWatch>>,
    /// Security events of this transaction.
    pub(super) noted: Vec<SecurityEvent>,
}

/// Which engine's connection.
pub(super) enum Connection {
    /// PostgreSQL.
    Postgres(PoolConnection<Postgres>, Arc<Server>),
    /// SQLite.
    Sqlite(PoolConnection<Sqlite>),
}

impl Pools {
    /// A link for single statements that only read. End the call with [`Link::settle`].
    pub(super) async fn read(&self) -> Result<Link, sqlx::Error> {
        let connection = match self {
            Self::Postgres { pool, server } => postgres(pool, server).await?,
            Self::Sqlite { readers, .. } => sqlite(readers).await?,
        };
        Ok(Link { connection, settled: false, told: Vec::new(), watch: None, noted: Vec::new() })
    }

    /// A link with an open transaction. End the call with [`Link::finish`].
    pub(super) async fn write(&self) -> Result<Link, sqlx::Error> {
        let (connection, begin) = match self {
            Self::Postgres { pool, server } => (postgres(pool, server).await?, "BEGIN"),
            // IMMEDIATE: what is read in the transaction cannot change before it writes, and a busy database is
            // noticed here, not half-way.
            Self::Sqlite { writer, .. } => (sqlite(writer).await?, BEGIN_WRITING),
        };
        let mut link = Link { connection, settled: false, told: Vec::new(), watch: None, noted: Vec::new() };
        Query::new(begin).execute(&mut link).await?;
        Ok(link)
    }

    /// Calls `wake` for what is told on `channel`, and whenever something may have been missed, until the server is lost.
    /// SQLite calls nobody. The connection is one of its own: it is never idle, and may not end by a time-out.
    pub(super) async fn listen(
        &self,
        channel: &str,
        patience: Duration,
        wake: &(dyn Fn() + Send + Sync),
    ) -> Result<(), StoreFault> {
        let Self::Postgres { pool, .. } = self else { return Ok(()) };
        let options = PgConnectOptions::clone(&pool.connect_options()).options([("statement_timeout", "0")]);
        let own = PgPoolOptions::new().max_connections(1).acquire_timeout(patience).connect_lazy_with(options);
        let mut listener = PgListener::connect_with(&own).await?;
        listener.listen(channel).await?;
        // What came before the connection stood is read now.
        wake();
        loop {
            match timeout(QUIET, listener.try_recv()).await {
                Ok(Ok(Some(_))) => {}
                // The connection was lost. Whoever called comes again.
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(error)) => return Err(error.into()),
                // A host that is gone says no goodbye, and whoever only listens never finds out.
                Err(_) => {
                    let asked = timeout(patience, sqlx::query("SELECT 1").execute(&mut listener)).await;
                    asked.map_err(|_| StoreFault::Unavailable(format!("no answer within {patience:?}")))??;
                }
            }
            wake();
        }
    }

    /// Closes every connection.
    pub(super) async fn close(&self) {
        match self {
            Self::Postgres { pool, .. } => pool.close().await,
            Self::Sqlite { readers, writer } => {
                readers.close().await;
                writer.close().await;
            }
        }
    }
}

async fn postgres(pool: &PgPool, server: &Arc<Server>) -> Result<Connection, sqlx::Error> {
    let connection = acquire(pool, System::PostgreSql, Some(server)).await?;
    Ok(Connection::Postgres(connection, Arc::clone(server)))
}

async fn sqlite(pool: &SqlitePool) -> Result<Connection, sqlx::Error> {
    Ok(Connection::Sqlite(acquire(pool, System::Sqlite, None).await?))
}

async fn acquire<DB: Database>(
    pool: &Pool<DB>,
    system: System,
    server: Option<&Server>,
) -> Result<PoolConnection<DB>, sqlx::Error> {
    let in_use = pool.num_idle() == 0 && pool.size() >= pool.options().get_max_connections();
    let told =
        if in_use { Telling::in_queue(system, server) } else { Telling::begin(system, Asked::Connection, server) };
    told.ended(pool.acquire().await, fault::failure)
}

impl Link {
    /// Ends a reading call: the connection may be used again.
    pub(super) fn settle<T, E>(mut self, outcome: Result<T, E>) -> Result<T, E> {
        self.settled = true;
        outcome
    }

    /// Every gateway is to know this once the transaction is committed; `until`: how long, if not as long as access
    /// tokens of ours live.
    pub(super) fn tell(&mut self, at: Timestamp, until: Option<Timestamp>, news: News) {
        self.told.push(Told { at, until, news });
    }

    /// Ends a writing call: commits what succeeded, with what it has told, and rolls back what did not.
    pub(super) async fn finish<T, E: From<sqlx::Error> + From<StoreFault>>(
        mut self,
        mut outcome: Result<T, E>,
    ) -> Result<T, E> {
        if outcome.is_ok() {
            let told = std::mem::take(&mut self.told);
            if let Err(fault) = feed::flush(&mut self, told).await {
                outcome = Err(fault.into());
            }
        }
        if outcome.is_ok() {
            Query::new("COMMIT").execute(&mut self).await?;
            self.settled = true;
            if let Some(watch) = &self.watch {
                self.noted.iter().for_each(|event| (watch.told)(*event));
            }
        } else {
            // The first error is the one worth telling. A rollback that fails too leaves the link unsettled: closed.
            self.settled = Query::new("ROLLBACK").execute(&mut self).await.is_ok();
        }
        outcome
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if !self.settled {
            match &mut self.connection {
                Connection::Postgres(connection, _) => connection.close_on_drop(),
                Connection::Sqlite(connection) => connection.close_on_drop(),
            }
        }
    }
}
