//! Calls to a database, told to whoever watches the request that waits for them: for the spans of its trace.
//!
//! The watcher is not handed down through every call of the store. A request that is watched is polled inside
//! [`watched`]; the few places that take a connection, run a statement or ask Redis look whether there is one. A
//! request that nobody watches costs that look. What is told is fixed text of ours and the server's codes, never a
//! value that was sent or read.

use std::sync::Arc;

use futures_util::future::Either;

tokio::task_local! {
    static WATCHER: Arc<dyn Watcher>;
}

/// Watches the calls of one request.
pub trait Watcher: Send + Sync + 'static {
    /// A call begins. `None`: it need not be told how it ends.
    fn began(self: Arc<Self>, call: &Call<'_>) -> Option<Box<dyn Ending>>;
}

/// Is told how a call ended. Dropped instead: whoever waited for it has gone, or its deadline has passed.
pub trait Ending: Send {
    /// It has ended.
    fn ended(self: Box<Self>, failure: Option<Failure>);
}

/// A call to a database.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// What kind of database.
    pub system: System,
    /// What it is asked.
    pub asked: Asked,
    /// Where it is; `None`: in a file.
    pub server: Option<&'a Server>,
    /// It waits for its turn, behind other calls: for one of our connections while all are in use, or for the one writer
    /// that SQLite has. Else it is the database that is waited for.
    pub queues: bool,
}

/// What begins a transaction that writes, on SQLite: there is one at a time, of all processes.
pub(super) const BEGIN_WRITING: &str = "BEGIN IMMEDIATE";

/// A kind of database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// PostgreSQL.
    PostgreSql,
    /// SQLite.
    Sqlite,
    /// Redis.
    Redis,
}

/// What a database is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// For a connection out of the pool, a new one if there is none.
    Connection,
    /// A statement: constant SQL, its values are bound apart.
    Statement(&'static str),
    /// A command.
    Command(&'static str),
}

/// Where a database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Host name, address, or the path of a socket.
    pub address: String,
    /// TCP port.
    pub port: Option<u16>,
}

/// Why a call failed, in words and codes without a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind of error.
    pub kind: &'static str,
    /// The database's own code: SQLSTATE, SQLite's result code, Redis' error word.
    pub code: Option<String>,
}

/// The first word of a statement, and the table it is about.
#[must_use]
pub fn operation(sql: &'static str) -> (&'static str, Option<&'static str>) {
    let mut words = sql.split([' ', ',', '(', ')']).filter(|word| !word.is_empty());
    let first = words.next().unwrap_or_default();
    let before = match first {
        "SELECT" | "DELETE" => "FROM",
        "INSERT" => "INTO",
        "LOCK" => "TABLE",
        "UPDATE" => return (first, words.next()),
        _ => return (first, None),
    };
    (first, words.skip_while(|word| *word != before).nth(1))
}

/// Does something on behalf of a request that is watched.
pub fn watched<R>(watcher: Arc<dyn Watcher>, work: impl FnOnce() -> R) -> R {
    WATCHER.sync_scope(watcher, work)
}

/// Work whose calls are told to a watcher of its own.
pub(super) fn watched_by<F: Future>(watcher: Arc<dyn Watcher>, work: F) -> impl Future<Output = F::Output> {
    WATCHER.scope(watcher, work)
}

/// Work for a task of its own that is watched as the request is that hands it over.
pub fn still_watched<F: Future>(work: F) -> impl Future<Output = F::Output> {
    match WATCHER.try_with(Arc::clone) {
        Ok(watcher) => Either::Left(WATCHER.scope(watcher, work)),
        Err(_) => Either::Right(work),
    }
}

/// A call under way, and who is told of its end.
pub(super) struct Telling(Option<Box<dyn Ending>>);

impl Telling {
    /// Tells whoever watches, if anybody does.
    pub(super) fn begin(system: System, asked: Asked, server: Option<&Server>) -> Self {
        Self::of(&Call { system, asked, server, queues: asked == Asked::Statement(BEGIN_WRITING) })
    }

    /// The same, of a call for a connection while all are in use.
    pub(super) fn in_queue(system: System, server: Option<&Server>) -> Self {
        Self::of(&Call { system, asked: Asked::Connection, server, queues: true })
    }

    fn of(call: &Call<'_>) -> Self {
        Self(WATCHER.try_with(|watcher| Arc::clone(watcher).began(call)).ok().flatten())
    }

    /// Tells how it ended, and gives that on.
    pub(super) fn ended<T, E>(self, outcome: Result<T, E>, why: impl FnOnce(&E) -> Failure) -> Result<T, E> {
        if let Some(ending) = self.0 {
            ending.ended(outcome.as_ref().err().map(why));
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_statement_is_told_by_its_operation_and_table() {
        for (sql, expected) in [
            ("SELECT u.id, r.role FROM users u LEFT JOIN user_roles r ON r.user_id = u.id", ("SELECT", Some("users"))),
            ("INSERT INTO audit (at, event) VALUES ($1, $2)", ("INSERT", Some("audit"))),
            ("UPDATE sessions SET ended_at = $2 WHERE id = $1 RETURNING id", ("UPDATE", Some("sessions"))),
            ("DELETE FROM sessions WHERE id = $1", ("DELETE", Some("sessions"))),
            ("LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE", ("LOCK", Some("signing_keys"))),
            ("SELECT id FROM sessions WHERE user_id = (SELECT user_id FROM users)", ("SELECT", Some("sessions"))),
            ("BEGIN IMMEDIATE", ("BEGIN", None)),
            ("COMMIT", ("COMMIT", None)),
            ("", ("", None)),
        ] {
            assert_eq!(operation(sql), expected, "{sql}");
        }
    }

    /// Writes down what it is told.
    #[derive(Default)]
    struct Notes(Mutex<Vec<String>>);

    struct Note(Arc<Notes>);

    impl Watcher for Notes {
        fn began(self: Arc<Self>, call: &Call<'_>) -> Option<Box<dyn Ending>> {
            self.0.lock().unwrap().push(format!("{:?}", call.asked));
            Some(Box::new(Note(self)))
        }
    }

    impl Ending for Note {
        fn ended(self: Box<Self>, failure: Option<Failure>) {
            self.0.0.lock().unwrap().push(format!("{:?}", failure.map(|failure| failure.kind)));
        }
    }

    async fn call(outcome: Result<(), ()>) -> Result<(), ()> {
        let telling = Telling::begin(System::Redis, Asked::Command("PING"), None);
        tokio::task::yield_now().await;
        telling.ended(outcome, |()| Failure { kind: "broken", code: None })
    }

    #[tokio::test]
    async fn calls_are_told_to_the_watcher_of_their_request_alone() {
        let notes = Arc::new(Notes::default());
        let watcher: Arc<dyn Watcher> = Arc::<Notes>::clone(&notes);
        let told = || std::mem::take(&mut *notes.0.lock().unwrap()).join(" ");

        assert_eq!(call(Ok(())).await, Ok(()));
        assert_eq!(told(), "");
        let mut watched_call = Box::pin(call(Err(())));
        let polled = std::future::poll_fn(|cx| watched(Arc::clone(&watcher), || watched_call.as_mut().poll(cx)));
        assert_eq!(polled.await, Err(()));
        assert_eq!(told(), "Command(\"PING\") Some(\"broken\")");

        let spawned = watched(Arc::clone(&watcher), || tokio::spawn(still_watched(call(Ok(())))));
        let unwatched = watched(Arc::clone(&watcher), || tokio::spawn(call(Ok(()))));
        assert_eq!((spawned.await.unwrap(), unwatched.await.unwrap()), (Ok(()), Ok(())));
        assert_eq!(told(), "Command(\"PING\") None");
    }
}
