//! Password hashing on threads of its own: bounded, and of the lowest priority.
//!
//! argon2id is meant to be slow, so a storm of logins is a storm of CPU. It may queue logins, and past the queue refuse
//! them; it may not slow proxied requests. Hence own OS threads at nice 19 and a queue with an end. The
//! rules of hashing are `policy::password`'s; here is only where and when it runs. A job whose requester has gone
//! away is skipped: nobody waits for its answer.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::oneshot;

use crate::{
    clock::{Clock, Entropy, Tick, nanos},
    config::settings::Passwords,
    gate::refusal::{Detail, Refusal},
    policy::{
        password::{self, HashCost, HashFault, PasswordFault, PasswordRules},
        reason::Reason,
    },
};

/// The lowest priority there is; see `setpriority(2)`.
const NICE: i32 = 19;

/// Bounds of the `Retry-After` a full queue answers with, seconds.
const RETRY_SECONDS: std::ops::RangeInclusive<u64> = 1..=30;

/// What the pool has done since it was made, and what waits now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HashStats {
    /// Jobs waiting for a thread now.
    pub queued: usize,
    /// Jobs that may wait.
    pub capacity: usize,
    /// Jobs done, dummy ones included.
    pub done: u64,
    /// Jobs skipped because their requester had gone.
    pub skipped: u64,
    /// Jobs refused because the queue was full.
    pub refused: u64,
    /// Time all jobs together spent waiting for a thread.
    pub waited: Duration,
    /// Time all jobs together spent on a thread.
    pub worked: Duration,
}

/// One job done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobDone {
    /// From asking to a thread's beginning.
    pub waited: Duration,
    /// From the thread's beginning to the answer.
    pub worked: Duration,
}

/// Told of each job done, for histograms.
pub type Observer = Box<dyn Fn(JobDone) + Send + Sync>;

/// The hashing threads. They end when this is dropped; what still waits then is not done.
pub struct HashPool {
    jobs: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
}

struct Shared {
    rules: PasswordRules,
    cost: HashCost,
    /// What an unknown user's password is compared with: same cost as a real one.
    dummy: SecretString,
    entropy: Arc<dyn Entropy>,
    clock: Arc<dyn Clock>,
    observer: Observer,
    capacity: usize,
    threads: usize,
    closing: AtomicBool,
    queued: AtomicUsize,
    done: AtomicU64,
    skipped: AtomicU64,
    refused: AtomicU64,
    waited_nanos: AtomicU64,
    worked_nanos: AtomicU64,
}

struct Job {
    queued_at: Tick,
    task: Task,
}

/// A new password's hash, or why it is no good as a password, or why hashing failed.
type Hashed = Result<Result<SecretString, PasswordFault>, HashFault>;

enum Task {
    /// `about` is `None` for a password that is in use already: it is not judged again.
    Hash {
        password: SecretString,
        about: Option<Vec<String>>,
        answer: oneshot::Sender<Hashed>,
    },
    Verify {
        password: SecretString,
        phc: Option<SecretString>,
        answer: oneshot::Sender<bool>,
    },
}

impl HashPool {
    /// [`Self::observed`] by nobody.
    pub fn new(settings: &Passwords, entropy: Arc<dyn Entropy>, clock: Arc<dyn Clock>) -> io::Result<Self> {
        Self::observed(settings, entropy, clock, Box::new(|_| ()))
    }

    /// Starts `settings.hash_threads` threads with a queue of `settings.hash_queue` jobs; `observer` is told of each
    /// job done, on the thread that did it and before its requester has the answer.
    ///
    /// # Errors
    /// When the operating system gives no thread, or the costs are not argon2id's.
    pub fn observed(
        settings: &Passwords,
        entropy: Arc<dyn Entropy>,
        clock: Arc<dyn Clock>,
        observer: Observer,
    ) -> io::Result<Self> {
        let cost = HashCost {
            memory_kib: settings.argon2_memory_kib,
            iterations: settings.argon2_iterations,
            lanes: settings.argon2_lanes,
        };
        let dummy = password::dummy_hash(cost).map_err(io::Error::other)?;
        let shared = Arc::new(Shared {
            rules: settings.rules.clone(),
            cost,
            dummy,
            entropy,
            clock,
            observer,
            capacity: settings.hash_queue,
            threads: settings.hash_threads.max(1),
            closing: AtomicBool::new(false),
            queued: AtomicUsize::new(0),
            done: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            waited_nanos: AtomicU64::new(0),
            worked_nanos: AtomicU64::new(0),
        });
        let (jobs, queue) = sync_channel(settings.hash_queue);
        let queue = Arc::new(Mutex::new(queue));
        let mut pool = Self { jobs: Some(jobs), threads: Vec::new(), shared };
        for index in 0..pool.shared.threads {
            let (shared, queue) = (Arc::clone(&pool.shared), Arc::clone(&queue));
            let thread = thread::Builder::new().name(format!("hash-{index}")).spawn(move || work(&shared, &queue))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Judges a new password by the rules, `about` being what an attacker knows of its owner, and hashes it to an
    /// argon2id PHC string. Both happen here: a password made for it takes as long to judge as to hash.
    ///
    /// # Errors
    /// [`Reason::HashQueueFull`] with [`Detail::RetryAfter`]; [`Reason::Internal`] when hashing itself fails.
    pub async fn hash(
        &self,
        password: SecretString,
        about: Vec<String>,
    ) -> Result<Result<SecretString, PasswordFault>, Refusal> {
        self.hashed(password, Some(about)).await
    }

    /// Hashes a password that is in use already, at today's cost. Nobody waits for it, so it takes a place only while
    /// at least half the queue is free for those who do wait.
    ///
    /// # Errors
    /// As [`Self::hash`]'s.
    pub async fn rehash(&self, password: SecretString) -> Result<SecretString, Refusal> {
        if self.shared.queued.load(Relaxed) > self.shared.capacity / 2 {
            return Err(self.full());
        }
        self.hashed(password, None).await?.map_err(|fault| Refusal::internal(fault.to_string()))
    }

    /// Whether a hash is weaker than those made today.
    #[must_use]
    pub fn is_weak(&self, phc: &SecretString) -> bool {
        password::is_weaker(phc.expose_secret(), self.shared.cost)
    }

    async fn hashed(
        &self,
        password: SecretString,
        about: Option<Vec<String>>,
    ) -> Result<Result<SecretString, PasswordFault>, Refusal> {
        let (answer, hashed) = oneshot::channel();
        self.submit(Task::Hash { password, about, answer })?;
        hashed.await.map_err(|_| ended())?.map_err(|fault| Refusal::internal(fault.to_string()))
    }

    /// Whether `password` is the one behind `phc`. Without one the work is done all the same, against a hash nobody
    /// knows a password of, and the answer is no: an unknown user costs the caller what a known one does.
    ///
    /// # Errors
    /// [`Reason::HashQueueFull`] with [`Detail::RetryAfter`].
    pub async fn verify(&self, password: SecretString, phc: Option<SecretString>) -> Result<bool, Refusal> {
        let (answer, verified) = oneshot::channel();
        self.submit(Task::Verify { password, phc, answer })?;
        verified.await.map_err(|_| ended())
    }

    /// What the pool has done and what waits.
    #[must_use]
    pub fn stats(&self) -> HashStats {
        let shared = &self.shared;
        HashStats {
            queued: shared.queued.load(Relaxed),
            capacity: shared.capacity,
            done: shared.done.load(Relaxed),
            skipped: shared.skipped.load(Relaxed),
            refused: shared.refused.load(Relaxed),
            waited: Duration::from_nanos(shared.waited_nanos.load(Relaxed)),
            worked: Duration::from_nanos(shared.worked_nanos.load(Relaxed)),
        }
    }

    fn submit(&self, task: Task) -> Result<(), Refusal> {
        let Some(jobs) = &self.jobs else { return Err(ended()) };
        // Counted before it is sent: a thread may take it off the queue at once, and the count never goes below zero.
        self.shared.queued.fetch_add(1, Relaxed);
        jobs.try_send(Job { queued_at: self.shared.clock.tick(), task }).map_err(|refused| {
            self.shared.queued.fetch_sub(1, Relaxed);
            match refused {
                TrySendError::Full(_) => self.full(),
                TrySendError::Disconnected(_) => ended(),
            }
        })
    }

    fn full(&self) -> Refusal {
        self.shared.refused.fetch_add(1, Relaxed);
        Refusal::with(Reason::HashQueueFull, Detail::RetryAfter(self.drain_time()))
    }

    /// How long a full queue takes to empty, by what a job has taken so far; whole seconds.
    fn drain_time(&self) -> Duration {
        let shared = &self.shared;
        let mean_nanos = shared.worked_nanos.load(Relaxed) / shared.done.load(Relaxed).max(1);
        let rounds = u64::try_from(shared.capacity.div_ceil(shared.threads)).unwrap_or(u64::MAX);
        let seconds = mean_nanos.saturating_mul(rounds).div_ceil(1_000_000_000);
        Duration::from_secs(seconds.clamp(*RETRY_SECONDS.start(), *RETRY_SECONDS.end()))
    }
}

impl Drop for HashPool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Relaxed);
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has ended too, which is all that is asked of it here.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for HashPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HashPool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// One thread's life: take, do, answer, until the queue is closed.
fn work(shared: &Shared, queue: &Mutex<Receiver<Job>>) {
    // On Linux a priority belongs to the thread, and lowering one's own needs no privilege.
    if let Err(fault) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
        tracing::warn!(%fault, "a hashing thread keeps its priority; logins may slow proxied requests");
    }
    loop {
        // The lock is held while waiting: the others wait for the lock instead, which comes to the same.
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        shared.queued.fetch_sub(1, Relaxed);
        if shared.closing.load(Relaxed) {
            return;
        }
        // A library that panics over a password made for it must not take the thread along: the requester's end of
        // the job is dropped, which is an answer. Nothing shared is left half-written; it is all atomics.
        if catch_unwind(AssertUnwindSafe(|| shared.run(job))).is_err() {
            tracing::error!("a hashing job panicked");
        }
    }
}

impl Shared {
    fn run(&self, job: Job) {
        let began = self.clock.tick();
        let waited = began.since(job.queued_at);
        self.waited_nanos.fetch_add(nanos(waited), Relaxed);
        if job.task.abandoned() {
            self.skipped.fetch_add(1, Relaxed);
            return;
        }
        let answer = self.compute(job.task);
        let worked = self.clock.tick().since(began);
        self.worked_nanos.fetch_add(nanos(worked), Relaxed);
        (self.observer)(JobDone { waited, worked });
        // Counted before it is answered, so that whoever has the answer also sees it counted.
        self.done.fetch_add(1, Relaxed);
        answer.send();
    }

    fn judge_and_hash(&self, password: &SecretString, about: Option<&[String]>) -> Hashed {
        let password = password.expose_secret();
        if let Some(about) = about {
            let about: Vec<&str> = about.iter().map(String::as_str).collect();
            if let Err(fault) = password::check(&self.rules, password, &about) {
                return Ok(Err(fault));
            }
        }
        let mut salt = [0; 16];
        self.entropy.fill(&mut salt);
        password::hash(password, &salt, self.cost).map(Ok)
    }

    fn compute(&self, task: Task) -> Answer {
        match task {
            Task::Hash { password, about, answer } => {
                Answer::Hash(answer, self.judge_and_hash(&password, about.as_deref()))
            }
            Task::Verify { password, phc, answer } => {
                let matches =
                    password::verify(password.expose_secret(), phc.as_ref().unwrap_or(&self.dummy).expose_secret());
                Answer::Verify(answer, matches && phc.is_some())
            }
        }
    }
}

impl Task {
    fn abandoned(&self) -> bool {
        match self {
            Self::Hash { answer, .. } => answer.is_closed(),
            Self::Verify { answer, .. } => answer.is_closed(),
        }
    }
}

enum Answer {
    Hash(oneshot::Sender<Hashed>, Hashed),
    Verify(oneshot::Sender<bool>, bool),
}

impl Answer {
    fn send(self) {
        // A requester that left meanwhile wants no answer.
        match self {
            Self::Hash(to, hashed) => drop(to.send(hashed)),
            Self::Verify(to, matches) => drop(to.send(matches)),
        }
    }
}

fn ended() -> Refusal {
    Refusal::internal("the hashing threads have ended")
}

#[cfg(test)]
pub(super) mod tests;
