//! One gateway, or two behind one address on one PostgreSQL and one Redis: what a journey runs on, without knowing
//! which of them answers. Requests go to them in turn.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use portcullis::store::SharedStore;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

use crate::{
    harness::{
        client::Client,
        clock::ManualClock,
        gateway::{Engine, Gateway, InTheWay, Setup, standard},
        invariants::Invariants,
        raw::Raw,
        soon,
        upstream::Upstream,
    },
    support::{postgres, redis::Redis},
};

/// How a gateway is set up in the world. Every journey passes on each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deployment {
    /// One, on a store of its own.
    One(Engine),
    /// Two on one PostgreSQL, with one Redis.
    Two,
}

impl Deployment {
    /// The `store` section, with `more` keys.
    pub(crate) fn store(self, more: &str) -> String {
        let url = match self {
            Self::One(Engine::Sqlite) => r#"url: "sqlite://data/test.db""#,
            Self::One(Engine::Postgres) | Self::Two => r#"url: "${STORE_URL}", master_key: "${MASTER_KEY}""#,
        };
        format!("store: {{{url}, {more}}}\n")
    }

    /// The sections that this takes, unless the YAML has them: two gateways count every call of the portal in Redis.
    fn with_sections(self, yaml: &str) -> String {
        let has = |section: &str| yaml.lines().any(|line| line.starts_with(&format!("{section}:")));
        let mut text = if has("store") { String::new() } else { self.store("pool: 4, timeout: 20s") };
        if self == Self::Two {
            text += "shared_state: {redis: {url: {env: REDIS_URL}, deadline: 20s}}\n";
            if !has("limits") && !has("portal") {
                text += "limits: {everybody: {by: address, rate: 1000/s, burst: 10000, scope: shared, lease: 0}}\n\
                         portal: {limits: [everybody]}\n";
            }
        }
        text + yaml
    }
}

/// See [`Deployment`].
pub(crate) struct Gateways {
    deployment: Deployment,
    pub(crate) all: Vec<Gateway>,
    pub(crate) clock: Arc<ManualClock>,
    invariants: Arc<Invariants>,
    turn: AtomicUsize,
    /// Outlives the gateways: fields go in the order of declaration.
    _redis: Option<Redis>,
}

impl Gateways {
    /// See [`Gateway::start`].
    pub(crate) async fn start(deployment: Deployment, yaml: &str) -> Self {
        Self::start_with(deployment, yaml, |setup| setup).await
    }

    /// The same, each with more to its set-up.
    pub(crate) async fn start_with(deployment: Deployment, yaml: &str, more: impl Fn(Setup) -> Setup) -> Self {
        let (clock, invariants) = (Arc::new(ManualClock::default()), Arc::<Invariants>::default());
        let redis = (deployment == Deployment::Two).then(Redis::private);
        let database = (deployment != Deployment::One(Engine::Sqlite)).then(|| postgres::cluster().create_database());
        let yaml = deployment.with_sections(yaml);
        let mut all = Vec::new();
        for _ in 0..if deployment == Deployment::Two { 2 } else { 1 } {
            // The store is the YAML's to say.
            let mut setup = Setup::new(Engine::Sqlite, &yaml);
            if let Some(database) = &database {
                setup = setup.on(&database.url);
            }
            if let Some(redis) = &redis {
                setup = setup.variable("REDIS_URL", &redis.url());
            }
            all.push(Box::pin(more(setup).start_beside(Arc::clone(&clock), Arc::clone(&invariants))).await);
        }
        Self { deployment, all, clock, invariants, turn: AtomicUsize::new(0), _redis: redis }
    }

    /// See [`Gateway::standard`].
    pub(crate) async fn standard(deployment: Deployment, upstream: &Upstream) -> Self {
        Self::start(deployment, &standard(upstream)).await
    }

    /// Asks them in turn.
    pub(crate) fn client(&self) -> Client {
        let bases: Vec<_> = self.all.iter().map(|gateway| format!("http://{}", gateway.address())).collect();
        Client::in_turn(&bases, &self.invariants)
    }

    /// A connection to the next one.
    pub(crate) async fn raw(&self) -> Raw {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.all[turn % self.all.len()].raw().await
    }

    /// The sum of this line of all their `/metrics`.
    pub(crate) async fn metric(&self, line: &str) -> f64 {
        let mut sum = 0.0;
        for gateway in &self.all {
            sum += gateway.metric(line).await;
        }
        sum
    }

    /// Restarts one after the other, as an operator would.
    pub(crate) async fn restart(&mut self) {
        for gateway in &mut self.all {
            gateway.restart().await;
        }
    }

    /// The same with another configuration.
    pub(crate) async fn restart_with(&mut self, yaml: &str) {
        let yaml = self.deployment.with_sections(yaml);
        for gateway in &mut self.all {
            gateway.restart_with(&yaml).await;
        }
    }

    /// See [`Gateway::store`].
    pub(crate) async fn store(&self) -> SharedStore {
        self.all[0].store().await
    }

    /// See [`Gateway::in_the_way_of_writes`].
    pub(crate) async fn in_the_way_of_writes(&self) -> InTheWay {
        self.all[0].in_the_way_of_writes().await
    }

    /// Waits until each knows which sessions were ended at the others before this call. One by itself knows at once.
    pub(crate) async fn know_what_ended(&self) {
        if self.all.len() > 1 {
            self.know_what_was_told().await;
        }
    }

    /// Waits until each knows what stood in the feed before this call, whoever put it there.
    pub(crate) async fn know_what_was_told(&self) {
        const READ: &str = "portcullis_revocation_reads_total{result=\"ok\"}";
        for gateway in &self.all {
            let before = gateway.metric(READ).await;
            // One may have begun already.
            let read = async { while gateway.metric(READ).await < before + 1.5 {} };
            soon("the feed to be read", read).await;
        }
    }

    /// Waits until each has read the signing keys as they were at this call, or later.
    pub(crate) async fn know_the_keys(&self) {
        const READ: &str = "portcullis_signing_key_reads_total{result=\"ok\"}";
        for gateway in &self.all {
            let before = gateway.metric(READ).await;
            // One may have begun already.
            let read = async { while gateway.metric(READ).await < before + 1.5 {} };
            soon("signing keys to be read", read).await;
        }
    }

    /// One address for all of them, for clients that know only one: each connection goes to the next.
    pub(crate) async fn balanced(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let all: Vec<_> = self.all.iter().map(Gateway::address).collect();
        tokio::spawn(async move {
            let mut turns = all.into_iter().cycle();
            while let (Ok((mut client, _)), Some(gateway)) = (listener.accept().await, turns.next()) {
                tokio::spawn(async move {
                    if let Ok(mut gateway) = TcpStream::connect(gateway).await {
                        let _ = copy_bidirectional(&mut client, &mut gateway).await;
                    }
                });
            }
        });
        address
    }
}
