//! Redis: counts the limits that several gateways share, and carries their calls (`wake`). Holds nothing that may not
//! be lost.
//!
//! One multiplexed connection a server (`node`), one deadline, and a breaker without half-states: the first question
//! that fails or is late drops the connection, and from then on nobody asks. A task of its own (`care`) looks every
//! `retry` whether the server is back, with the very script that requests use (a server that is full or read-only is not
//! back), on a fresh connection (the old one may lead to a host that is gone). So a lost Redis costs the requests that
//! were waiting one deadline, and no later request anything.
//!
//! A Redis Cluster is several such servers and a map of who counts what (`slots`). Each has its own breaker: what a
//! lost master counts is counted here, and nothing else. A server that says that a key has moved is followed at once,
//! within the same deadline, and the map is read again. Decision 0014 tells why this is not the driver's cluster
//! client.
//!
//! With Redis Sentinel it is one server, and which one the sentinels say (`sentinel`): asked whenever it is lost, and
//! now and then in between, since one that was replaced may answer on.
//!
//! Few questions are asked at once. A server that must answer a thousand is late for the last, and whoever can send so
//! many requests at a time could have it taken for lost again and again, and every shared limit with it.

mod care;
mod node;
mod sentinel;
mod slots;
mod wake;

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use redis::{Client, RedisError, Script, TlsCertificates, aio::MultiplexedConnection};
use secrecy::ExposeSecret;
use tokio::{
    sync::Notify,
    time::{Sleep, sleep},
};

use self::{
    node::{Node, Redirect},
    sentinel::Sentinels,
    slots::Map,
};
use super::{
    calls::{Asked, Failure, System, Telling},
    memory::leases::Grant,
};
use crate::config::settings;

const SCRIPT: &str = include_str!("gcra.lua");

/// How long connecting may take, TLS included. No request waits for it.
const CONNECT: Duration = Duration::from_secs(1);

/// How often sentinels are asked while all seems well: a master that was replaced without being stopped answers on.
const LOOK: Duration = Duration::from_secs(5);

/// Questions that may be on their way to one server at once. Redis answers so many well within the shortest deadline that makes sense,
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

/// What is asked of a server.
struct Question<'a> {
    key: &'a str,
    quota: &'a Quota,
    wanted: u32,
    purpose: Purpose,
}

/// No answer.
enum Unanswered {
    /// In words without a secret.
    Failed(String),
    Late,
    /// Somebody else counts this key.
    Elsewhere(Redirect),
}

impl Unanswered {
    fn words(self, deadline: Duration) -> String {
        match self {
            Self::Failed(why) => why,
            Self::Late => format!("no answer within {deadline:?}"),
            Self::Elsewhere(_) => "its keys have moved".to_owned(),
        }
    }
}

/// The Redis of this gateway: one server, the one that sentinels name, or a cluster.
pub struct Redis {
    /// As configured: who is asked for the map of a cluster when nobody of the map answers.
    seeds: Vec<Arc<Node>>,
    is_cluster: bool,
    sentinels: Option<Sentinels>,
    map: ArcSwap<Map>,
    /// Somebody has said that the map is old.
    outdated: AtomicBool,
    script: Script,
    prefix: Arc<str>,
    deadline: Duration,
    retry: Duration,
    /// A server was lost, or the map is old.
    trouble: Notify,
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
        let first = Node::new(client.map_err(fault)?);
        let is_cluster = settings.cluster.is_some();
        let (mut seeds, mut sentinels, mut map) = (Vec::new(), None, Map::default());
        if let Some(sentinel) = &settings.sentinel {
            sentinels = Some(Sentinels::new(sentinel, first).map_err(fault)?);
        } else {
            seeds.push(Arc::new(first));
            for (host, port) in settings.cluster.iter().flatten() {
                seeds.push(Arc::new(seeds[0].beside(host, *port).map_err(fault)?));
            }
            if !is_cluster {
                map = Map::single(Arc::clone(&seeds[0]), &settings.prefix);
            }
        }
        let redis = Self {
            seeds,
            is_cluster,
            sentinels,
            map: ArcSwap::from_pointee(map),
            outdated: AtomicBool::new(is_cluster),
            script: Script::new(SCRIPT),
            prefix: Arc::clone(&settings.prefix),
            deadline: settings.deadline,
            retry: settings.retry,
            trouble: Notify::new(),
            told_lost: AtomicBool::new(false),
            observer,
        };
        if redis.check().await.is_err() {
            redis.tell_lost();
        }
        Ok(redis)
    }

    /// Whether it answered when it was last asked; of a cluster: every master.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.map.load().is_up()
    }

    /// Whether the server that counts this key answered when it was last asked.
    pub(super) fn is_up_for(&self, key: impl FnOnce() -> String) -> bool {
        let map = self.map.load();
        map.is_up() || (self.is_cluster && map.master_of(&key()).is_some_and(|master| master.node.is_up()))
    }

    /// Asks for requests of one bucket, unless too much is being asked; late or failed, the server is lost from then on.
    pub(super) async fn ask(&self, key: &str, quota: &Quota, wanted: u32, purpose: Purpose) -> Result<Grant, Unasked> {
        let map = self.map.load_full();
        let question = Question { key, quota, wanted, purpose };
        let mut limit = Box::pin(sleep(self.deadline));
        let first = &map.master_of(key).ok_or(Unasked)?.node;
        match self.ask_one(first, &question, None, limit.as_mut()).await? {
            Ok(grant) => Ok(grant),
            Err(to) => {
                if !to.asking {
                    self.outdated.store(true, Ordering::Release);
                    self.trouble.notify_one();
                }
                // Somebody new is met when the map has been read. Nobody is sent on twice.
                let next = map.at(&to, first).ok_or(Unasked)?;
                self.ask_one(next, &question, Some(&to), limit.as_mut()).await?.map_err(|_| Unasked)
            }
        }
    }

    async fn ask_one(
        &self,
        node: &Arc<Node>,
        question: &Question<'_>,
        sent: Option<&Redirect>,
        limit: Pin<&mut Sleep>,
    ) -> Result<Result<Grant, Redirect>, Unasked> {
        let _place = node.questions.try_acquire().map_err(|_| Unasked)?;
        let connection = node.connection().ok_or(Unasked)?;
        match self.run(node, &connection, question, sent, limit).await {
            Ok(grant) => Ok(Ok(grant)),
            Err(Unanswered::Elsewhere(to)) => Ok(Err(to)),
            Err(_) => Err(Unasked),
        }
    }

    /// A shared limit is decided by this gateway alone.
    pub(super) fn counted_alone(&self) {
        self.observer.counted_alone();
    }

    /// The key of a limit's bucket begins with this.
    pub(super) fn prefix_of(&self, limit: &str) -> String {
        format!("{}limit:{limit}:", self.prefix)
    }

    async fn run(
        &self,
        node: &Node,
        connection: &Arc<MultiplexedConnection>,
        question: &Question<'_>,
        sent: Option<&Redirect>,
        limit: Pin<&mut Sleep>,
    ) -> Result<Grant, Unanswered> {
        let asking = self.put(MultiplexedConnection::clone(connection), question, sent.is_some_and(|to| to.asking));
        let told = Telling::begin(System::Redis, Asked::Command("EVALSHA"), Some(&node.server));
        let asked = tokio::select! {
            asked = asking => asked.map_err(Some),
            () = limit => Err(None),
        };
        let asked = told.ended(asked, |why| failure(why.as_ref()));
        let (result, outcome) = match asked {
            Ok(grant) => (CallResult::Answered, Ok(grant)),
            Err(Some(error)) => match Redirect::of(&error).filter(|_| self.is_cluster) {
                Some(to) => (CallResult::Answered, Err(Unanswered::Elsewhere(to))),
                None => (CallResult::Failed, Err(Unanswered::Failed(words(&error)))),
            },
            Err(None) => (CallResult::Timeout, Err(Unanswered::Late)),
        };
        self.observer.called(question.purpose, result);
        match &outcome {
            Err(Unanswered::Failed(why)) => self.lose(node, connection, why),
            Err(Unanswered::Late) => self.lose(node, connection, "no answer within the deadline"),
            Ok(_) | Err(Unanswered::Elsewhere(_)) => {}
        }
        outcome
    }

    async fn put(
        &self,
        mut channel: MultiplexedConnection,
        question: &Question<'_>,
        asking: bool,
    ) -> Result<Grant, RedisError> {
        let Question { key, quota, wanted, purpose } = question;
        let lease = u8::from(*purpose == Purpose::Lease);
        let (given, remaining, full_in, retry_after): (u32, u32, u64, u64) = if asking {
            // It takes the key over from another server and answers for it only to those who say that they know.
            let mut both = redis::pipe();
            both.cmd("ASKING").ignore();
            both.cmd("EVAL").arg(SCRIPT).arg(1).arg(key);
            both.arg(quota.each_micros).arg(quota.burst).arg(wanted).arg(lease);
            both.query_async::<((u32, u32, u64, u64),)>(&mut channel).await?.0
        } else {
            let mut script = self.script.key(key);
            script.arg(quota.each_micros).arg(quota.burst).arg(wanted).arg(lease);
            // EVALSHA, and the script itself when the server does not know it (any more).
            script.invoke_async(&mut channel).await?
        };
        let (full_in, retry_after) = (Duration::from_micros(full_in), Duration::from_micros(retry_after));
        Ok(Grant { given, remaining, full_in, retry_after })
    }

    /// Drops this connection, unless it has been replaced already.
    fn lose(&self, node: &Node, connection: &Arc<MultiplexedConnection>, why: &str) {
        if node.lose(connection) {
            self.tell_lost();
            tracing::warn!(
                error = why,
                server = %node.server.address,
                port = node.server.port,
                "Redis is lost: each gateway counts shared limits for itself"
            );
            self.trouble.notify_one();
        }
    }

    fn tell_lost(&self) {
        self.told_lost.store(true, Ordering::Relaxed);
        self.observer.lost(true);
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
