//! A fresh store and the rows the tests put into it.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use portcullis::{
    clock::{Entropy, SystemEntropy, Timestamp},
    config::settings::{self, Engine},
    policy::{
        ids::{SessionId, UserId},
        refresh::{Delivery, RefreshRules},
    },
    store::{
        Account, AuditEntry, AuditEvent, NewAccount, NewSession, RefreshOutcome, SessionLimit, SharedStore, Use,
        audit::{Actor, Detail},
        feed::{FeedPosition, FeedReach, News},
        sql,
    },
};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{Connection, PgConnection, SqliteConnection};
use tempfile::TempDir;

use crate::support::postgres::cluster;

/// Every test's now, odd to the microsecond.
pub(crate) const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_123_457);

/// Reaches every entry of the feed.
pub(crate) const EVERYTHING: FeedReach =
    FeedReach { since: Timestamp::from_seconds(0), now: Timestamp::from_seconds(0) };

pub(crate) const RULES: RefreshRules = RefreshRules {
    idle: Duration::from_hours(7 * 24),
    absolute: Duration::from_hours(30 * 24),
    grace: Duration::from_secs(10),
};

pub(crate) const NO_LIMIT: SessionLimit = SessionLimit { most: None, rules: RULES };

/// A fresh store.
pub(crate) struct Fixture {
    pub(crate) store: SharedStore,
    pub(crate) settings: settings::Store,
    /// Kept until the test ends.
    _folder: Option<TempDir>,
}

impl Fixture {
    pub(crate) async fn postgres() -> Self {
        Self::open(postgres_settings(cluster().create_database().url), None).await
    }

    pub(crate) async fn sqlite() -> Self {
        let folder = TempDir::new().unwrap();
        Self::open(sqlite_settings(folder.path().join("data/portcullis.db")), Some(folder)).await
    }

    /// On a store of these settings.
    pub(crate) async fn of(settings: settings::Store) -> Self {
        Self::open(settings, None).await
    }

    async fn open(settings: settings::Store, folder: Option<TempDir>) -> Self {
        Self { store: sql::open(&settings).await.unwrap(), settings, _folder: folder }
    }

    /// Runs SQL behind the store's back.
    pub(crate) async fn tamper(&self, sql: &'static str) {
        self.tampered(sql).await.unwrap();
    }

    /// The same, when the database may have a say.
    pub(crate) async fn tampered(&self, sql: &'static str) -> Result<(), sqlx::Error> {
        match &self.settings.engine {
            Engine::Postgres { url } => {
                let mut connection = PgConnection::connect(url.expose_secret()).await.unwrap();
                sqlx::raw_sql(sql).execute(&mut connection).await.map(drop)
            }
            Engine::Sqlite { path } => {
                let url = format!("sqlite://{}", path.display());
                let mut connection = SqliteConnection::connect(&url).await.unwrap();
                sqlx::raw_sql(sql).execute(&mut connection).await.map(drop)
            }
        }
    }

    /// Runs SQL that may fail.
    pub(crate) async fn execute(&self, sql: &str) -> Result<(), sqlx::Error> {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        match &self.settings.engine {
            Engine::Postgres { url } => {
                sqlx::raw_sql(sql).execute(&mut PgConnection::connect(url.expose_secret()).await?).await.map(drop)
            }
            Engine::Sqlite { path } => {
                let mut connection = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await?;
                sqlx::raw_sql(sql).execute(&mut connection).await.map(drop)
            }
        }
    }

    /// How many audit rows there are of an event.
    pub(crate) async fn audited(&self, event: &str) -> i64 {
        self.count(&format!("SELECT count(*) FROM audit WHERE event = '{event}'")).await
    }

    /// The same, of those that name this key.
    pub(crate) async fn audited_of(&self, event: &str, kid: &str) -> i64 {
        self.count(&format!("SELECT count(*) FROM audit WHERE event = '{event}' AND detail LIKE '%{kid}%'")).await
    }

    /// Rows of a table.
    pub(crate) async fn rows_of(&self, table: &str) -> i64 {
        self.count(&format!("SELECT count(*) FROM {table}")).await
    }

    async fn count(&self, sql: &str) -> i64 {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        match &self.settings.engine {
            Engine::Postgres { url } => {
                let mut connection = PgConnection::connect(url.expose_secret()).await.unwrap();
                sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
            }
            Engine::Sqlite { path } => {
                let mut connection = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
                sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
            }
        }
    }

    /// Runs SQL as somebody does who owns the tables: no trigger of the audit's is in the way.
    pub(crate) async fn tamper_with_audit(&self, sql: &'static str) {
        self.tamper(match &self.settings.engine {
            Engine::Postgres { .. } => {
                "ALTER TABLE audit DISABLE TRIGGER USER; ALTER TABLE audit_seals DISABLE TRIGGER USER"
            }
            Engine::Sqlite { .. } => {
                "DROP TRIGGER IF EXISTS audit_append_only; DROP TRIGGER IF EXISTS audit_not_deleted; \
                 DROP TRIGGER IF EXISTS audit_seals_append_only; DROP TRIGGER IF EXISTS audit_seals_not_deleted"
            }
        })
        .await;
        self.tamper(sql).await;
    }

    /// A connection of the test's own, to stand in the store's way on PostgreSQL.
    pub(crate) async fn rival(&self) -> PgConnection {
        let Engine::Postgres { url } = &self.settings.engine else { panic!("only PostgreSQL takes rivals") };
        PgConnection::connect(url.expose_secret()).await.unwrap()
    }

    /// Waits until somebody in this database waits for a lock.
    pub(crate) async fn somebody_waits(&self) {
        let mut watcher = self.rival().await;
        let sql = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut watcher).await.unwrap() == 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Registers an account with this e-mail, no username, and a first session.
    pub(crate) async fn registered(&self, email: &str) -> (Account, SessionId) {
        let account = new_account(email);
        let session = new_session(account.id, NOW);
        let made = self.store.register(&account, &session, &entry(AuditEvent::Registered, NOW)).await.unwrap();
        (made, session.id)
    }

    /// One more session of an account.
    pub(crate) async fn logged_in(&self, user: UserId, at: Timestamp) -> SessionId {
        let session = new_session(user, at);
        self.store.open_session(&session, &NO_LIMIT, &entry(AuditEvent::LoginSucceeded, at)).await.unwrap().unwrap();
        session.id
    }

    pub(crate) async fn refresh(&self, id: SessionId, counter: u64, at: Timestamp) -> RefreshOutcome {
        self.store.refresh(id, counter, &RULES, &entry(AuditEvent::Refreshed, at)).await.unwrap()
    }

    /// Notes that an access token of this generation was used.
    pub(crate) async fn used(&self, session: SessionId, generation: u64, at: Timestamp) {
        self.store.note_uses(&[Use { session, generation }], at).await.unwrap();
    }

    /// All that the feed says.
    pub(crate) async fn news(&self) -> Vec<News> {
        let page = self.store.feed(&FeedPosition::START, EVERYTHING, 1_000).await.unwrap().unwrap();
        page.entries.into_iter().map(|entry| entry.news).collect()
    }

    /// The events audited of a user, oldest first.
    pub(crate) async fn events(&self, user: UserId) -> Vec<AuditEvent> {
        self.store
            .audit_of(user, 1_000)
            .await
            .unwrap()
            .into_iter()
            .map(|row| AuditEvent::named(&row.event).unwrap())
            .collect()
    }
}

pub(crate) fn postgres_settings(url: String) -> settings::Store {
    settings::Store {
        engine: Engine::Postgres { url: SecretString::from(url) },
        master_key: None,
        pool: 8,
        // Far beyond what any call takes on a busy machine; the tests of the deadline set their own.
        timeout: Duration::from_mins(1),
    }
}

pub(crate) fn sqlite_settings(path: PathBuf) -> settings::Store {
    settings::Store { engine: Engine::Sqlite { path }, ..postgres_settings(String::new()) }
}

pub(crate) fn user_id() -> UserId {
    UserId(SystemEntropy.uuid_v7(NOW))
}

pub(crate) fn session_id() -> SessionId {
    SessionId(SystemEntropy.uuid_v7(NOW))
}

pub(crate) fn new_account(email: &str) -> NewAccount {
    NewAccount {
        id: user_id(),
        email: email.into(),
        username: None,
        full_name: None,
        password_hash: SecretString::from("$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA"),
        roles: vec!["user".into()],
        created_at: NOW,
    }
}

pub(crate) fn new_session(user: UserId, at: Timestamp) -> NewSession {
    let mut salt = [0; 32];
    SystemEntropy.fill(&mut salt);
    NewSession {
        id: session_id(),
        user,
        salt,
        delivery: Delivery::Body,
        methods: vec!["pwd".into()],
        user_agent: Some("contract".into()),
        address: "192.0.2.7".into(),
        created_at: at,
    }
}

/// An audit entry with a request id of its own.
pub(crate) fn entry(event: AuditEvent, at: Timestamp) -> AuditEntry {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    AuditEntry {
        at,
        event,
        user: None,
        session: None,
        address: "192.0.2.7".into(),
        request_id: format!("req-{}", NUMBER.fetch_add(1, Ordering::Relaxed)),
        actor: Actor::Anonymous,
        detail: Detail::default(),
    }
}

pub(crate) fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
