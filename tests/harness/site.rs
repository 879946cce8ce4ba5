//! What is attacked: one gateway on a store of its own, or three on one PostgreSQL with one Redis, each behind a link to
//! it that can fail. In processes of their own, by the machine's clock; or within the test's, by a clock that only the
//! test moves. Whoever asks them goes to each in turn.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use portcullis::store::SharedStore;
use tokio::net::{TcpSocket, TcpStream};

use crate::{
    harness::{
        binary::Binary,
        client::Client,
        clock::ManualClock,
        gateway::{Engine, Gateway, Setup},
        invariants::Invariants,
        link::Link,
        page,
        raw::Raw,
        sample, soon,
    },
    support::{
        postgres::{Database, cluster},
        redis::Redis,
    },
};

/// How many gateways there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nodes {
    One,
    Three,
}

impl Nodes {
    pub(crate) const fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Three => 3,
        }
    }

    /// What a limit says of who counts: several do it together, with leases of so many.
    pub(crate) fn scope(self, lease: usize) -> String {
        match self {
            Self::One => "scope: local".to_owned(),
            Self::Three => format!("scope: shared, lease: {lease}"),
        }
    }

    /// What several need to count together. A machine that is busy must not make a Redis that is well look lost.
    pub(crate) const fn shared_state(self) -> &'static str {
        match self {
            Self::One => "",
            Self::Three => "shared_state: {redis: {url: {env: REDIS_URL}, deadline: 20s, retry: 60s}}\n",
        }
    }
}

enum Form {
    Within(Box<Gateway>),
    Process(Box<Process>),
}

struct Process {
    binary: Binary,
    setup: Setup,
}

/// Fields go in the order of declaration: the gateway first.
struct Node {
    form: Form,
    redis: Option<Link>,
}

/// See the module.
pub(crate) struct Site {
    nodes: Vec<Node>,
    /// Of gateways within the test; the others do not look at it.
    pub(crate) clock: Arc<ManualClock>,
    invariants: Arc<Invariants>,
    turn: AtomicUsize,
    /// There is one if the YAML asks for it, by `REDIS_URL`.
    pub(crate) redis: Option<Redis>,
    _database: Option<Database>,
}

impl Site {
    /// Each in a process of its own.
    pub(crate) async fn start(nodes: Nodes, yaml: &str) -> Self {
        Self::build(nodes, yaml, false).await
    }

    /// Each within the test, by the site's clock.
    pub(crate) async fn within(nodes: Nodes, yaml: &str) -> Self {
        Self::build(nodes, yaml, true).await
    }

    async fn build(nodes: Nodes, yaml: &str, within: bool) -> Self {
        let (clock, invariants) = (Arc::<ManualClock>::default(), Arc::<Invariants>::default());
        let redis = yaml.contains("REDIS_URL").then(Redis::private);
        let (database, store) = match nodes {
            Nodes::One => (None, "url: \"sqlite://data/test.db\""),
            Nodes::Three => (Some(cluster().create_database()), r#"url: "${STORE_URL}", master_key: "${MASTER_KEY}""#),
        };
        // Stores that nobody harms have all the time they need.
        let yaml = format!("store: {{{store}, pool: 4, timeout: 30s}}\n{yaml}");
        let mut all = Vec::new();
        for _ in 0..nodes.count() {
            let mut setup = Setup::new(Engine::Sqlite, &yaml);
            if let Some(database) = &database {
                setup = setup.on(&database.url);
            }
            let link = match &redis {
                Some(redis) => Some(Link::to(redis.socket()).await),
                None => None,
            };
            if let Some(link) = &link {
                setup = setup.variable("REDIS_URL", &format!("redis://{}", link.address()));
            }
            let form = if within {
                Form::Within(Box::new(Box::pin(setup.start_beside(Arc::clone(&clock), Arc::clone(&invariants))).await))
            } else {
                Form::Process(Box::new(Process { binary: setup.serve().await, setup }))
            };
            all.push(Node { form, redis: link });
        }
        Self { nodes: all, clock, invariants, turn: AtomicUsize::new(0), redis, _database: database }
    }

    /// All of them, another first each time: who asks but once does not always ask the same one.
    fn bases(&self) -> Vec<String> {
        let mut bases: Vec<_> = self.addresses().iter().map(|address| format!("http://{address}")).collect();
        bases.rotate_left(self.turn.fetch_add(1, Ordering::Relaxed) % self.nodes.len());
        bases
    }

    /// Where each listens.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let address = |node: &Node| match &node.form {
            Form::Within(gateway) => gateway.address(),
            Form::Process(process) => process.binary.public,
        };
        self.nodes.iter().map(address).collect()
    }

    /// From this loopback address to each in turn.
    pub(crate) fn client_at(&self, address: &str) -> Client {
        Client::in_turn_from(&self.bases(), &self.invariants, address.parse().unwrap())
    }

    /// The same, to this one alone.
    pub(crate) fn client_to(&self, number: usize, address: &str) -> Client {
        let base = format!("http://{}", self.addresses()[number]);
        Client::from(&base, &self.invariants, address.parse().unwrap())
    }

    /// A connection from this loopback address to the next one.
    pub(crate) async fn raw_at(&self, address: &str) -> Raw {
        let addresses = self.addresses();
        let to = addresses[self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len()];
        Raw::over(connect(address, to).await, &self.invariants)
    }

    /// The same, to this one.
    pub(crate) async fn raw_to(&self, number: usize, address: &str) -> Raw {
        Raw::over(connect(address, self.addresses()[number]).await, &self.invariants)
    }

    /// What each says for itself of this line of `/metrics`.
    pub(crate) async fn metrics(&self, line: &str) -> Vec<f64> {
        let mut all = Vec::new();
        for node in &self.nodes {
            all.push(sample(&node.admin("/metrics").await.1, line));
        }
        all
    }

    /// The sum of that.
    pub(crate) async fn metric(&self, line: &str) -> f64 {
        self.metrics(line).await.iter().sum()
    }

    /// Each one's status and `/readyz`.
    pub(crate) async fn readiness(&self) -> Vec<(u16, String)> {
        let mut all = Vec::new();
        for node in &self.nodes {
            all.push(node.admin("/readyz").await);
        }
        all
    }

    /// Between each and Redis.
    pub(crate) fn redis_links(&self) -> impl Iterator<Item = &Link> {
        self.nodes.iter().map(|node| node.redis.as_ref().expect("there is a Redis"))
    }

    /// The most memory each ever had resident, KiB.
    pub(crate) fn peaks_kib(&self) -> Vec<u64> {
        let peak = |node: &Node| match &node.form {
            Form::Within(_) => panic!("it has no memory of its own"),
            Form::Process(process) => process.binary.peak_kib(),
        };
        self.nodes.iter().map(peak).collect()
    }

    /// The test's own look at the store.
    pub(crate) async fn store(&self) -> SharedStore {
        match &self.nodes[0].form {
            Form::Within(gateway) => gateway.store().await,
            Form::Process(process) => process.setup.store().await,
        }
    }
}

impl Node {
    async fn admin(&self, path: &str) -> (u16, String) {
        match &self.form {
            Form::Within(gateway) => gateway.admin(path).await,
            Form::Process(process) => page(process.binary.admin, path).await,
        }
    }
}

/// A connection from this loopback address.
pub(crate) async fn connect(from: &str, to: SocketAddr) -> TcpStream {
    try_connect(from, to).await.unwrap()
}

/// The same, that may be closed at once.
pub(crate) async fn try_connect(from: &str, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from.parse::<IpAddr>().unwrap(), 0))?;
    soon("a connection", socket.connect(to)).await
}
