//! The real gateway, wired by the same [`App`] as in production, from YAML, on ports the system picks, on a store of
//! its own, with the test's clock.

use std::{collections::HashMap, fmt::Write, net::SocketAddr, path::PathBuf, process::Output, sync::Arc};

use clap::Parser;
use portcullis::{
    app::{
        App, Rim, Running, StartFault,
        commands::{self, CommandFault},
    },
    cli::{Cli, Command, keys::Keys},
    clock::SystemEntropy,
    config::{
        self, ConfigErrors, Source,
        settings::{self, Settings},
    },
    policy::keys::SigningKey,
    store::{KeyState, SharedStore, master_key::master_key, sql},
    telemetry::metrics::ReloadResult,
};
use secrecy::ExposeSecret;
use serde_json::Value;
use sqlx::{Connection, PgConnection, SqliteConnection};
use tempfile::TempDir;

use crate::{
    harness::{
        binary::{self, Binary},
        client::Client,
        clock::ManualClock,
        invariants::Invariants,
        page,
        raw::Raw,
        sample, soon,
        upstream::Upstream,
    },
    support::postgres,
};

/// `iss` of the gateway under test, unless its YAML says otherwise.
pub(crate) const ISSUER: &str = "https://gw.test";

/// `aud` of its access tokens.
pub(crate) const AUDIENCE: &str = "gw-test";

/// A master key as good as any.
pub(crate) const MASTER_KEY: &str = "q83vASNFZ4mrze/+3LqYdlQyEBEiM0RVZneImaq7zN0=";

/// What a test's YAML need not say. A section that the YAML does have is left out here.
const PREAMBLE: [(&str, &str); 4] = [
    ("listeners", r#"{public: {bind: "127.0.0.1:0"}, admin: {bind: "127.0.0.1:0"}}"#),
    ("tokens", r#"{issuer: "https://gw.test", audience: gw-test}"#),
    ("passwords", "{hash_threads: 1}"),
    ("telemetry", "{access_log: false}"),
];

/// Which store a gateway stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

/// A gateway about to be started.
pub(crate) struct Setup {
    engine: Engine,
    yaml: String,
    folder: TempDir,
    environment: HashMap<String, String>,
}

impl Setup {
    /// The sections of a configuration that matter to the test; see [`PREAMBLE`] for the others.
    pub(crate) fn new(engine: Engine, yaml: &str) -> Self {
        let setup =
            Self { engine, yaml: whole(engine, yaml), folder: TempDir::new().unwrap(), environment: HashMap::new() };
        match engine {
            Engine::Sqlite => setup,
            Engine::Postgres => setup.on(&postgres::cluster().create_database().url),
        }
    }

    /// On this PostgreSQL database.
    pub(crate) fn on(self, url: &str) -> Self {
        self.variable("STORE_URL", url).variable("MASTER_KEY", MASTER_KEY)
    }

    /// A file beside the configuration.
    pub(crate) fn file(self, name: &str, text: &str) -> Self {
        std::fs::write(self.folder.path().join(name), text).unwrap();
        self
    }

    /// A variable of its environment.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// What the checks make of the configuration.
    pub(crate) fn settings(&self) -> Result<Settings, ConfigErrors> {
        let source = Source { name: "test.yaml", text: &self.yaml, base_dir: self.folder.path() };
        config::parse(&source, &self.environment)
    }

    /// A connection of the test's own to the store.
    pub(crate) async fn store(&self) -> SharedStore {
        sql::open(&self.settings().unwrap().store.unwrap()).await.unwrap()
    }

    /// Writes the configuration down; gives its file.
    fn write(&self) -> PathBuf {
        let file = self.folder.path().join("portcullis.yaml");
        std::fs::write(&file, &self.yaml).unwrap();
        file
    }

    /// In a process of its own, by the machine's clock.
    pub(crate) async fn serve(&self) -> Binary {
        Binary::serve(&self.write(), &self.environment).await
    }

    pub(crate) async fn start(self) -> Gateway {
        self.start_beside(Arc::default(), Arc::default()).await
    }

    /// The same, beside others that share a clock and ids of requests.
    pub(crate) async fn start_beside(self, clock: Arc<ManualClock>, invariants: Arc<Invariants>) -> Gateway {
        let running = run(&self, &clock).await.expect("the gateway starts");
        Gateway { setup: self, clock, invariants, running: Some(running) }
    }
}

fn whole(engine: Engine, yaml: &str) -> String {
    let has = |section: &str| yaml.lines().any(|line| line.starts_with(&format!("{section}:")));
    let mut text = String::new();
    for (section, value) in PREAMBLE {
        if !has(section) {
            writeln!(text, "{section}: {value}").unwrap();
        }
    }
    if !has("store") {
        text.push_str(match engine {
            Engine::Sqlite => "store: {url: \"sqlite://data/test.db\", pool: 4}\n",
            Engine::Postgres => "store: {url: \"${STORE_URL}\", master_key: \"${MASTER_KEY}\", pool: 4}\n",
        });
    }
    text.push_str(yaml);
    text
}

async fn run(setup: &Setup, clock: &Arc<ManualClock>) -> Result<Running, StartFault> {
    let settings = setup.settings().unwrap_or_else(|errors| panic!("{errors}\n{}", setup.yaml));
    let rim = Rim { clock: Arc::<ManualClock>::clone(clock), entropy: Arc::new(SystemEntropy) };
    soon("the gateway to start", App::start(settings, Arc::default(), rim)).await
}

/// A running gateway.
pub(crate) struct Gateway {
    setup: Setup,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) invariants: Arc<Invariants>,
    running: Option<Running>,
}

impl Gateway {
    /// From YAML; see [`Setup::new`].
    pub(crate) async fn start(engine: Engine, yaml: &str) -> Self {
        Setup::new(engine, yaml).start().await
    }

    /// With the routes most tests are content with, all to one upstream:
    /// `/ask/…` for the authenticated, `/maybe/…` for those who like to say who they are, `/open/…` for everybody.
    pub(crate) async fn standard(engine: Engine, upstream: &Upstream) -> Self {
        Self::start(engine, &standard(upstream)).await
    }

    /// The running app.
    pub(crate) fn running(&self) -> &Running {
        self.running.as_ref().expect("the gateway was stopped")
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running().public_addr()
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&format!("http://{}", self.address()), &self.invariants)
    }

    /// A client on another loopback address, such as 127.0.0.2.
    pub(crate) fn client_at(&self, address: &str) -> Client {
        Client::from(&format!("http://{}", self.address()), &self.invariants, address.parse().unwrap())
    }

    /// A client that speaks TLS and trusts `ca` alone.
    pub(crate) fn tls_client(&self, ca: &str) -> Client {
        Client::tls(&format!("https://localhost:{}", self.address().port()), &self.invariants, ca)
    }

    /// A client of the admin listener.
    pub(crate) fn admin_client(&self) -> Client {
        Client::new(&format!("http://{}", self.running().admin_addr()), &self.invariants)
    }

    pub(crate) async fn raw(&self) -> Raw {
        Raw::connect(self.address(), &self.invariants).await
    }

    /// Status and body of a page for operators.
    pub(crate) async fn admin(&self, path: &str) -> (u16, String) {
        page(self.running().admin_addr(), path).await
    }

    /// The value of one line of `/metrics`, e.g. `portcullis_requests_in_flight`; 0 when it is not there.
    pub(crate) async fn metric(&self, line: &str) -> f64 {
        sample(&self.admin("/metrics").await.1, line)
    }

    /// Ends the process, as far as one can within a test: listeners, requests, tasks.
    pub(crate) async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            soon("the gateway to stop", running.stop()).await;
        }
    }

    /// Stops and starts again: same configuration, same store, same clock, another port.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.running = Some(run(&self.setup, &self.clock).await.expect("the gateway starts again"));
    }

    /// The same with another configuration on the same store.
    pub(crate) async fn restart_with(&mut self, yaml: &str) {
        self.setup.yaml = whole(self.setup.engine, yaml);
        self.restart().await;
    }

    /// Another configuration for the gateway that runs; see [`Setup::new`].
    pub(crate) async fn reload(&mut self, yaml: &str) -> ReloadResult {
        self.setup.yaml = whole(self.setup.engine, yaml);
        self.reload_files().await
    }

    /// The same configuration read again: a file beside it may have changed.
    pub(crate) async fn reload_files(&mut self) -> ReloadResult {
        // Boxed: it holds several whole settings, and every test's future would hold it.
        soon("the reload", Box::pin(self.running().reload(self.setup.settings()))).await
    }

    /// Runs the program with these arguments on this gateway's configuration.
    pub(crate) fn portcullis(&self, arguments: &[&str]) -> Output {
        let file = self.setup.write();
        binary::run(&[arguments, &["--config", file.to_str().unwrap()]].concat(), &self.setup.environment)
    }

    /// What the program would do with these arguments beside this gateway, by the test's clock; `Err`: its fault.
    pub(crate) async fn beside(&self, arguments: &[&str]) -> Result<String, String> {
        let all = [&["portcullis"], arguments, &["--config", "unread"]].concat();
        let Command::Beside(command) = Cli::try_parse_from(all).map_err(|fault| fault.to_string())?.command else {
            panic!("not beside a gateway")
        };
        let settings = self.setup.settings().unwrap();
        let rim = Rim { clock: Arc::<ManualClock>::clone(&self.clock), entropy: Arc::new(SystemEntropy) };
        let mut out = Vec::new();
        let run = commands::run(&command, &settings, &rim, &mut out);
        soon("the command to end", run).await.map_err(|fault| fault.to_string())?;
        Ok(String::from_utf8(out).unwrap())
    }

    /// Runs SQL as somebody does who owns the tables: no trigger of the audit's is in the way.
    pub(crate) async fn tamper_with_audit(&self, sql: &'static str) {
        match self.setup.settings().unwrap().store.unwrap().engine {
            settings::Engine::Sqlite { path } => {
                let mut hand = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
                let drop = "DROP TRIGGER IF EXISTS audit_append_only; DROP TRIGGER IF EXISTS audit_not_deleted";
                sqlx::raw_sql(drop).execute(&mut hand).await.unwrap();
                sqlx::raw_sql(sql).execute(&mut hand).await.unwrap();
            }
            settings::Engine::Postgres { url } => {
                let mut hand = PgConnection::connect(url.expose_secret()).await.unwrap();
                sqlx::raw_sql("ALTER TABLE audit DISABLE TRIGGER USER").execute(&mut hand).await.unwrap();
                sqlx::raw_sql(sql).execute(&mut hand).await.unwrap();
            }
        }
    }

    /// What lies beside the configuration.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.setup.folder.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Writes a file beside the configuration.
    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.setup.folder.path().join(name), text).unwrap();
    }

    /// A connection of the test's own to the gateway's store.
    pub(crate) async fn store(&self) -> SharedStore {
        self.setup.store().await
    }

    /// What `portcullis keys …` does beside this gateway, by the test's clock.
    pub(crate) async fn keys(&self, command: &Keys) -> Result<Value, CommandFault> {
        let settings = self.setup.settings().unwrap();
        let rim = Rim { clock: Arc::<ManualClock>::clone(&self.clock), entropy: Arc::new(SystemEntropy) };
        let told = soon("the command to end", commands::keys(command, &settings, &rim)).await?;
        Ok(serde_json::from_str(&told).unwrap())
    }

    /// Until it is dropped no session can be changed: a transaction of the test's own stands in the way.
    pub(crate) async fn in_the_way_of_writes(&self) -> InTheWay {
        match self.setup.settings().unwrap().store.unwrap().engine {
            settings::Engine::Sqlite { path } => {
                let mut rival = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
                sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut rival).await.unwrap();
                InTheWay::Sqlite { _rival: rival }
            }
            settings::Engine::Postgres { url } => {
                let mut rival = PgConnection::connect(url.expose_secret()).await.unwrap();
                sqlx::raw_sql("BEGIN; LOCK TABLE sessions IN EXCLUSIVE MODE").execute(&mut rival).await.unwrap();
                InTheWay::Postgres(rival)
            }
        }
    }

    /// The private key the gateway signs with, for tokens that only a broken gateway would make.
    pub(crate) async fn signing_key(&self) -> SigningKey {
        let settings = self.setup.settings().unwrap().store.unwrap();
        let master = master_key(&settings, true, &SystemEntropy).unwrap();
        let keys = self.store().await.signing_keys().await.unwrap();
        let key = keys.into_iter().find(|key| key.life.state == KeyState::Current).unwrap();
        let pkcs8 = master.open("signing-key", &key.life.kid, &key.sealed_pkcs8).unwrap();
        SigningKey::from_pkcs8(key.life.algorithm, pkcs8.expose_secret()).unwrap()
    }
}

/// See [`Gateway::in_the_way_of_writes`].
pub(crate) enum InTheWay {
    Sqlite { _rival: SqliteConnection },
    Postgres(PgConnection),
}

impl InTheWay {
    /// Waits until a gateway wants to change a session. PostgreSQL says so itself.
    pub(crate) async fn until_somebody_waits(&mut self, gateway: &Gateway) {
        let waits = async {
            match self {
                // A request that has been there for more than a second, and cannot end.
                Self::Sqlite { .. } => {
                    while gateway.metric("portcullis_requests_in_flight").await < 0.5 {}
                    let reads = "portcullis_revocation_reads_total{result=\"ok\"}";
                    let before = gateway.metric(reads).await;
                    while gateway.metric(reads).await < before + 2.5 {}
                }
                Self::Postgres(rival) => while !waited_for(rival).await {},
            }
        };
        soon("the store to be asked", waits).await;
    }
}

async fn waited_for(rival: &mut PgConnection) -> bool {
    let waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'sessions'::regclass AND NOT granted)";
    sqlx::query_scalar(waiting).fetch_one(rival).await.unwrap()
}

/// See [`Gateway::standard`].
pub(crate) fn standard(upstream: &Upstream) -> String {
    format!(
        r#"
clusters:
  rag: {{endpoints: ["{}"]}}
routes:
  - {{name: ask, match: {{path: "/ask/{{*rest}}"}}, cluster: rag}}
  - {{name: maybe, match: {{path: "/maybe/{{*rest}}"}}, auth: optional, cluster: rag}}
  - {{name: open, match: {{path: "/open/{{*rest}}"}}, auth: none, cluster: rag}}
"#,
        upstream.url()
    )
}
