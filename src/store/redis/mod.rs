//! Redis: counts the limits that several gateways share, and carries their calls (`wake`). Holds nothing that may not
//! be lost.
//!
//! One multiplexed connection, one deadline, and a breaker without half-states: the first question that fails or is
//! late drops the connection, and from then on nobody asks. A task of its own looks every `retry` whether Redis is
//! back, with the very script that requests use (a server that is full or read-only is not back), on a fresh
//! connection (the old one may lead to a host that is gone). So a lost Redis costs the requests that were waiting one
//! deadline, and no later request anything.
//!
//! Few questions are asked at once. A server that must answer a thousand is late for the last, and whoever can send so
//! many requests at a time could have it taken for lost again and again, and every shared limit with it.

mod wake;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, RedisError, RedisResult, Script, TlsCertificates,
    aio::MultiplexedConnection,
};
use secrecy::ExposeSecret;
use tokio::{
    sync::{Notify, Semaphore},
    time::{sleep, timeout},
};

use super::{
    calls::{Asked, Failure, Server, System, Telling},
    memory::leases::Grant,
};
use crate::config::settings;

/// How long connecting may take, TLS included. No request waits for it.
const CONNECT: Duration = Duration::from_secs(1);

/// Questions that may be on their way at once. Redis answers so many well within the shortest deadline that makes sense,
/// for several gateways, and tens of thousands a second are asked all the same.
const AT_ONCE: usize = 64;

/// Why a question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A request waits for it.
    Charge,
    /// Requests are taken ahead; none waits.
    Lease,
    /// Whether Redis answers; no request waits.
    Probe,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallResult {
    /// Redis answered.
    Answered,
    /// No connection, or an error.
    Failed,
    /// No answer within the deadline.
    Timeout,
}

/// Is told what happens, for metrics.
pub trait Observer: Send + Sync + 'static {
    /// A question was asked.
    fn called(&self, purpose: Purpose, result: CallResult);
    /// Redis was lost, or is back.
    fn lost(&self, lost: bool);
    /// A shared limit was decided by this gateway alone.
    fn counted_alone(&self);
}

/// Why Redis cannot be used at all: a mistake in the configuration.
#[derive(Debug, thiserror::Error)]
#[error("shared_state.redis: {0}")]
pub struct UrlFault(String);

/// Redis is lost, or has enough to answer; what it would have said is decided here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unasked;

/// A bucket of one limit, and how it fills.
#[derive(Debug, Clone)]
pub(super) struct Quota {
    /// Microseconds one request costs.
    each_micros: f64,
    burst: u32,
}

impl Quota {
    pub(super) fn of(limit: &settings::Limit) -> Self {
        let each = limit.period.as_secs_f64() * 1e6 / f64::from(limit.requests.get());
        // A microsecond is Redis's own grain; a million a second is no limit for one client.
        Self { each_micros: each.max(1.0), burst: limit.burst.get() }
    }
}

/// The Redis of this gateway.
pub struct Redis {
    client: Client,
    server: Server,
    /// `None` while Redis is lost.
    connection: ArcSwapOption<MultiplexedConnection>,
    script: Script,
    prefix: Arc<str>,
    deadline: Duration,
    retry: Duration,
    questions: Semaphore,
    lost: Notify,
    /// Told once for each loss, and not before it was ever there.
    told_lost: AtomicBool,
    observer: Box<dyn Observer>,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").field("up", &self.is_up()).finish_non_exhaustive()
    }
}

impl Redis {
    /// Connects, if Redis is there; else [`Self::maintain`] goes on trying.
    ///
    /// # Errors
    /// [`UrlFault`] when the URL or the certificates make no sense.
    pub async fn open(settings: &settings::Redis, observer: Box<dyn Observer>) -> Result<Self, UrlFault> {
        let url = settings.url.expose_secret();
        // The driver's words for a bad URL do not quote it, but nothing promises that they never will.
        let fault = |error: RedisError| UrlFault(format!("the URL cannot be used: {:?}", error.kind()));
        let client = match &settings.ca {
            None => Client::open(url),
            Some(ca) => Client::build_with_tls(url, TlsCertificates { client_tls: None, root_cert: Some(ca.clone()) }),
        };
        let client = client.map_err(fault)?;
        let redis = Self {
            server: server_of(client.get_connection_info().addr()),
            client,
            connection: ArcSwapOption::empty(),
            script: Script::new(include_str!("gcra.lua")),
            prefix: Arc::clone(&settings.prefix),
            deadline: settings.deadline,
            retry: settings.retry,
            questions: Semaphore::new(AT_ONCE),
            lost: Notify::new(),
            told_lost: AtomicBool::new(false),
            observer,
        };
        if redis.check().await.is_err() {
            redis.tell_lost();
        }
        Ok(redis)
    }

    /// Whether it answered when it was last asked.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.connection.load().is_some()
    }

    /// Looks after a lost Redis, for ever.
    pub async fn maintain(&self) {
        loop {
            if self.is_up() {
                self.lost.notified().await;
            } else {
                sleep(self.retry).await;
                let _ = self.check().await;
            }
        }
    }

    /// Whether it answers now; connects when it was lost. The error is for the operator.
    ///
    /// # Errors
    /// What stands in the way, in words without a secret.
    pub async fn check(&self) -> Result<(), String> {
        let connection = match self.connection.load_full() {
            Some(connection) => connection,
            None => match self.connect().await {
                Ok(connection) => Arc::new(connection),
                Err(error) => {
                    self.observer.called(Purpose::Probe, CallResult::Failed);
                    return Err(words(&error));
                }
            },
        };
        // Full again at once, so that every probe writes.
        let probe = Quota { each_micros: 1.0, burst: 1 };
        let key = format!("{}probe", self.prefix);
        let asked = self.run(&connection, &key, &probe, 1, Purpose::Probe).await;
        asked.map_err(|why| why.unwrap_or_else(|| format!("no answer within {:?}", self.deadline)))?;
        self.connection.store(Some(connection));
        if self.told_lost.swap(false, Ordering::Relaxed) {
            tracing::info!("Redis answers: shared limits are counted by all gateways together");
        }
        self.observer.lost(false);
        Ok(())
    }

    /// Asks for requests of one bucket, unless too much is being asked; late or failed, Redis is lost from then on.
    pub(super) async fn ask(&self, key: &str, quota: &Quota, wanted: u32, purpose: Purpose) -> Result<Grant, Unasked> {
        let _place = self.questions.try_acquire().map_err(|_| Unasked)?;
        let connection = self.connection.load_full().ok_or(Unasked)?;
        self.run(&connection, key, quota, wanted, purpose).await.map_err(|_| Unasked)
    }

    /// A shared limit is decided by this gateway alone.
    pub(super) fn counted_alone(&self) {
        self.observer.counted_alone();
    }

    /// The key of a limit's bucket begins with this.
    pub(super) fn prefix_of(&self, limit: &str) -> String {
        format!("{}limit:{limit}:", self.prefix)
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        // The deadline is ours: it holds for the whole question, waiting for the connection included.
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(None);
        let connecting = self.client.get_multiplexed_async_connection_with_config(&config);
        // A server that is frozen takes the connection and then says nothing.
        match timeout(CONNECT, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(RedisError::from((ErrorKind::Io, "no connection in time"))),
        }
    }

    /// The error is for the operator; `None`: late.
    async fn run(
        &self,
        connection: &Arc<MultiplexedConnection>,
        key: &str,
        quota: &Quota,
        wanted: u32,
        purpose: Purpose,
    ) -> Result<Grant, Option<String>> {
        let mut script = self.script.key(key);
        script.arg(quota.each_micros).arg(quota.burst).arg(wanted).arg(u8::from(purpose == Purpose::Lease));
        let mut channel = MultiplexedConnection::clone(connection);
        // EVALSHA, and the script itself when the server does not know it (any more).
        let told = Telling::begin(System::Redis, Asked::Command("EVALSHA"), Some(&self.server));
        let asked = timeout(self.deadline, script.invoke_async::<(u32, u32, u64, u64)>(&mut channel)).await;
        let asked =
            told.ended(asked.map_err(|_| None).and_then(|asked| asked.map_err(Some)), |why| failure(why.as_ref()));
        let (result, outcome) = match asked {
            Ok((given, remaining, full_in, retry_after)) => {
                let (full_in, retry_after) = (Duration::from_micros(full_in), Duration::from_micros(retry_after));
                (CallResult::Answered, Ok(Grant { given, remaining, full_in, retry_after }))
            }
            Err(Some(error)) => (CallResult::Failed, Err(Some(words(&error)))),
            Err(None) => (CallResult::Timeout, Err(None)),
        };
        self.observer.called(purpose, result);
        if let Err(why) = &outcome {
            self.lose(connection, why.as_deref());
        }
        outcome
    }

    /// Drops this connection, unless it has been replaced already.
    fn lose(&self, connection: &Arc<MultiplexedConnection>, why: Option<&str>) {
        let before = self.connection.compare_and_swap(connection, None);
        if before.as_ref().is_some_and(|held| Arc::ptr_eq(held, connection)) {
            self.tell_lost();
            let why = why.unwrap_or("no answer within the deadline");
            tracing::warn!(error = why, "Redis is lost: each gateway counts shared limits for itself");
            self.lost.notify_one();
        }
    }

    fn tell_lost(&self) {
        self.told_lost.store(true, Ordering::Relaxed);
        self.observer.lost(true);
    }
}

fn server_of(address: &ConnectionAddr) -> Server {
    match address {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Server { address: host.clone(), port: Some(*port) }
        }
        ConnectionAddr::Unix(path) => Server { address: path.to_string_lossy().into_owned(), port: None },
        _ => Server { address: String::new(), port: None },
    }
}

/// What a span may tell of an error; `None`: late.
fn failure(error: Option<&RedisError>) -> Failure {
    match error {
        None => Failure { kind: "timeout", code: None },
        Some(error) => {
            Failure { kind: if error.is_io_error() { "io" } else { "database" }, code: error.code().map(str::to_owned) }
        }
    }
}

/// An error for log and operator. The server's own words may hold what was sent to it, a password included.
fn words(error: &RedisError) -> String {
    match error.code() {
        Some(code) => format!("Redis answers {code}"),
        None if error.is_io_error() => error.to_string(),
        None => error.category().to_owned(),
    }
}
