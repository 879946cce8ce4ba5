//! Three gateways, each a process of its own, on one PostgreSQL and one Redis or Redis Cluster, with links between them
//! that can fail. Real clock, real signals.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use portcullis::store::{SharedStore, sql};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::{
    harness::{
        binary::Binary,
        client::Client,
        gateway::{Engine, MASTER_KEY, Setup},
        invariants::Invariants,
        link::Link,
        upstream::Upstream,
    },
    support::{
        postgres::{Cluster, Database},
        redis::Redis,
        redis_cluster::RedisCluster,
    },
};

/// What they share besides the store.
pub(crate) enum Shared {
    Nothing,
    One(Redis),
    Cluster(RedisCluster),
}

/// Where a gateway runs, again and again.
struct Place {
    folder: TempDir,
    environment: HashMap<String, String>,
    running: Option<Binary>,
    store: Link,
    redis: Option<Link>,
}

/// See the module. Fields go in the order of declaration: the gateways first.
pub(crate) struct Trio {
    places: Vec<Place>,
    /// Where each is reached; `None` while it does not run.
    bases: watch::Sender<Vec<Option<String>>>,
    invariants: Arc<Invariants>,
    database: Database,
    pub(crate) postgres: Cluster,
    pub(crate) shared: Shared,
    _upstream: Upstream,
}

fn yaml(upstream: &Upstream, shared: &Shared, timeout: &str, revocation: &str) -> String {
    let redis = |more: &str| {
        format!(
            "shared_state: {{redis: {{url: {{env: REDIS_URL}}, deadline: 500ms, retry: 100ms{more}}}}}\n\
             limits: {{everybody: {{by: address, rate: 100000/s, burst: 100000, scope: shared, lease: 0}}}}\n\
             portal: {{limits: [everybody]}}\n"
        )
    };
    let shared = match shared {
        Shared::Nothing => String::new(),
        Shared::One(_) => redis(""),
        Shared::Cluster(_) => redis(", cluster: true"),
    };
    format!(
        "listeners: {{public: {{bind: \"127.0.0.1:0\"}}, admin: {{bind: \"127.0.0.1:0\"}}}}\n\
         store: {{url: \"${{STORE_URL}}\", master_key: \"${{MASTER_KEY}}\", pool: 4, timeout: {timeout}}}\n\
         tokens: {{issuer: \"https://gw.test\", audience: gw-test}}\npasswords: {{hash_threads: 1}}\n\
         telemetry: {{access_log: false}}\n{shared}clusters: {{rag: {{endpoints: [\"{}\"]}}}}\nroutes:\n  \
         - {{name: ask, match: {{path: \"/ask/{{*rest}}\"}}, cluster: rag, revocation: {{{revocation}}}}}\n",
        upstream.url()
    )
}

impl Trio {
    /// Stores that nobody harms have all the time they need.
    pub(crate) async fn start(shared: Shared) -> Self {
        Self::start_with(shared, "20s", "max_staleness: 5m").await
    }

    /// The same with this `store.timeout`, and this in the route's `revocation`.
    pub(crate) async fn start_with(shared: Shared, timeout: &str, revocation: &str) -> Self {
        let (upstream, postgres) = (Upstream::start().await, Cluster::private());
        let database = postgres.create_database();
        let (_, socket) = database.url.rsplit_once("host=").unwrap();
        let socket = PathBuf::from(socket).join(".s.PGSQL.5432");
        // postgres://user@localhost/name?host=…
        let name = database.url.rsplit('?').nth(1).and_then(|url| url.rsplit('/').next()).unwrap();
        let yaml = yaml(&upstream, &shared, timeout, revocation);
        let mut places = Vec::new();
        for number in 0..3 {
            let folder = TempDir::new().unwrap();
            std::fs::write(folder.path().join("gateway.yaml"), &yaml).unwrap();
            let store = Link::to(socket.clone()).await;
            let url = format!("postgres://portcullis@{}/{name}?sslmode=disable", store.address());
            let mut environment =
                HashMap::from([("STORE_URL".to_owned(), url), ("MASTER_KEY".to_owned(), MASTER_KEY.to_owned())]);
            let redis = match &shared {
                Shared::One(redis) => Some(Link::to(redis.socket()).await),
                Shared::Nothing | Shared::Cluster(_) => None,
            };
            let url = match (&shared, &redis) {
                // Each begins at another server.
                (Shared::Cluster(cluster), _) => Some(cluster.url(number)),
                (_, redis) => redis.as_ref().map(|link| format!("redis://{}", link.address())),
            };
            environment.extend(url.map(|url| ("REDIS_URL".to_owned(), url)));
            places.push(Place { folder, environment, running: None, store, redis });
        }
        let (bases, _) = watch::channel(vec![None; 3]);
        let invariants = Arc::default();
        let mut trio = Self { places, bases, invariants, database, postgres, shared, _upstream: upstream };
        for number in 0..3 {
            trio.serve(number).await;
        }
        trio
    }

    /// Starts one that does not run.
    pub(crate) async fn serve(&mut self, number: usize) {
        let place = &mut self.places[number];
        let gateway = Binary::serve(&place.folder.path().join("gateway.yaml"), &place.environment).await;
        let base = format!("http://{}", gateway.public);
        place.running = Some(gateway);
        self.bases.send_modify(|bases| bases[number] = Some(base));
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, number: usize) {
        self.bases.send_modify(|bases| bases[number] = None);
        self.places[number].running = None;
    }

    /// Where each is reached; `None` while it does not run.
    pub(crate) fn bases(&self) -> watch::Receiver<Vec<Option<String>>> {
        self.bases.subscribe()
    }

    /// A client of one of them.
    pub(crate) fn client(&self, number: usize) -> Client {
        let base = self.bases.borrow()[number].clone().expect("it runs");
        Client::new(&base, &self.invariants)
    }

    /// Between a gateway and PostgreSQL.
    pub(crate) fn store_link(&self, number: usize) -> &Link {
        &self.places[number].store
    }

    /// Between a gateway and Redis.
    pub(crate) fn redis_link(&self, number: usize) -> &Link {
        self.places[number].redis.as_ref().expect("there is one Redis")
    }

    /// The test's own look at the store, not over a link.
    pub(crate) async fn store(&self) -> SharedStore {
        let settings =
            Setup::new(Engine::Sqlite, "store: {url: \"${STORE_URL}\", master_key: \"${MASTER_KEY}\", pool: 4}\n");
        sql::open(&settings.on(&self.database.url).settings().unwrap().store.unwrap()).await.unwrap()
    }
}
