//! Password hashing on threads of its own: bounded, fair, and of the lowest priority.
//!
//! argon2id is meant to be slow, so a storm of logins is a storm of CPU. It may queue logins, and past the queue refuse
//! them; it may not slow proxied requests, nor may one address's storm hold up another's login. Hence own OS threads at
//! nice 19 and a queue with an end, shared out by address ([`fair`]). The rules of hashing are `policy::password`'s;
//! here is only where and when it runs. A job whose requester has gone away is skipped: nobody waits for its answer.

mod fair;
mod job;

use std::{
    io,
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::oneshot;

use self::{
    fair::{FairQueue, Full, Places},
    job::{Answer, Hashed, Job, Task},
};
use crate::{
    clock::{Clock, Entropy, nanos},
    config::settings::Passwords,
    gate::refusal::{Detail, Refusal},
    policy::{
        forwarded::limit_prefix,
        password::{self, HashCost, PasswordFault, PasswordRules},
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
    /// Jobs refused because there was no place.
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

/// What became of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It was done.
    Done(JobDone),
    /// Its requester had gone when its turn came.
    Skipped,
    /// There was no place in the queue.
    QueueFull,
    /// Its address had its share of the queue.
    AddressFull,
    /// Nobody would have waited for it, and there was enough to do.
    Postponed,
}

/// Told of each job, for metrics.
pub type Observer = Box<dyn Fn(Told) + Send + Sync>;

/// The hashing threads. They end when this is dropped; what still waits then is not done.
pub struct HashPool {
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
    /// Held for a push or a pop, never while anything is hashed, freed or waited for: requests take it, too, and a thread
    /// of the lowest priority must not keep them.
    jobs: Mutex<Jobs>,
    /// Called when a job has come, or the end.
    news: Condvar,
    /// What a job took, lately: each one moves it by an eighth. Two threads at once may lose one; no matter.
    lately_nanos: AtomicU64,
    done: AtomicU64,
    skipped: AtomicU64,
    refused: AtomicU64,
    waited_nanos: AtomicU64,
    worked_nanos: AtomicU64,
}

struct Jobs {
    queue: FairQueue<Job>,
    closing: bool,
}

impl HashPool {
    /// [`Self::observed`] by nobody.
    pub fn new(settings: &Passwords, entropy: Arc<dyn Entropy>, clock: Arc<dyn Clock>) -> io::Result<Self> {
        Self::observed(settings, entropy, clock, Box::new(|_| ()))
    }

    /// Starts `settings.hash_threads` threads with a queue of `settings.hash_queue` jobs; `observer` is told of each job:
    /// of one that is done on the thread that did it and before its requester has the answer.
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
        let places = Places { all: settings.hash_queue, each: settings.hash_queue_per_address };
        let shared = Arc::new(Shared {
            rules: settings.rules.clone(),
            cost,
            dummy,
            entropy,
            clock,
            observer,
            capacity: settings.hash_queue,
            threads: settings.hash_threads.max(1),
            jobs: Mutex::new(Jobs { queue: FairQueue::new(places), closing: false }),
            news: Condvar::new(),
            lately_nanos: AtomicU64::new(0),
            done: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            waited_nanos: AtomicU64::new(0),
            worked_nanos: AtomicU64::new(0),
        });
        let mut pool = Self { threads: Vec::new(), shared };
        for index in 0..pool.shared.threads {
            let shared = Arc::clone(&pool.shared);
            let thread = thread::Builder::new().name(format!("hash-{index}")).spawn(move || work(&shared))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Judges a new password by the rules, `about` being what an attacker knows of its owner, and hashes it to an
    /// argon2id PHC string, for a client at `from`. Both happen here: a password made for it takes as long to judge as to
    /// hash.
    ///
    /// # Errors
    /// [`Reason::HashQueueFull`] with [`Detail::RetryAfter`]; [`Reason::Internal`] when hashing itself fails.
    pub async fn hash(
        &self,
        password: SecretString,
        about: Vec<String>,
        from: IpAddr,
    ) -> Result<Result<SecretString, PasswordFault>, Refusal> {
        let (answer, hashed) = oneshot::channel();
        self.submit(Some(from), Task::Hash { password, about: Some(about), answer })?;
        hashed.await.map_err(|_| ended())?.map_err(|fault| Refusal::internal(fault.to_string()))
    }

    /// Hashes a password that is in use already, at today's cost. Nobody waits for it, so it is done when nothing else
    /// waits, and not at all while half the queue is taken.
    ///
    /// # Errors
    /// As [`Self::hash`]'s.
    pub async fn rehash(&self, password: SecretString) -> Result<SecretString, Refusal> {
        let (answer, hashed) = oneshot::channel();
        self.submit(None, Task::Hash { password, about: None, answer })?;
        // A password that is in use is not judged.
        let hashed = hashed.await.map_err(|_| ended())?.map_err(|fault| Refusal::internal(fault.to_string()))?;
        hashed.map_err(|fault| Refusal::internal(fault.to_string()))
    }

    /// Whether a hash is weaker than those made today.
    #[must_use]
    pub fn is_weak(&self, phc: &SecretString) -> bool {
        password::is_weaker(phc.expose_secret(), self.shared.cost)
    }

    /// Whether `password`, that a client at `from` gave, is the one behind `phc`. Without one the work is done all the same,
    /// against a hash nobody knows a password of, and the answer is no: an unknown user costs the caller what a known one
    /// does.
    ///
    /// # Errors
    /// [`Reason::HashQueueFull`] with [`Detail::RetryAfter`].
    pub async fn verify(
        &self,
        password: SecretString,
        phc: Option<SecretString>,
        from: IpAddr,
    ) -> Result<bool, Refusal> {
        let (answer, verified) = oneshot::channel();
        self.submit(Some(from), Task::Verify { password, phc, answer })?;
        verified.await.map_err(|_| ended())
    }

    /// What the pool has done and what waits.
    #[must_use]
    pub fn stats(&self) -> HashStats {
        let shared = &self.shared;
        HashStats {
            queued: shared.jobs().queue.len(),
            capacity: shared.capacity,
            done: shared.done.load(Relaxed),
            skipped: shared.skipped.load(Relaxed),
            refused: shared.refused.load(Relaxed),
            waited: Duration::from_nanos(shared.waited_nanos.load(Relaxed)),
            worked: Duration::from_nanos(shared.worked_nanos.load(Relaxed)),
        }
    }

    /// `from`: whose place it takes; `None`: nobody waits for it.
    fn submit(&self, from: Option<IpAddr>, task: Task) -> Result<(), Refusal> {
        let job = Job { queued_at: self.shared.clock.tick(), task };
        let taken = {
            let mut jobs = self.shared.jobs();
            match from {
                Some(from) => jobs.queue.push(limit_prefix(from), job),
                None => jobs.queue.push_later(job),
            }
        };
        // What did not fit is dropped here, without the lock.
        taken.map_err(|(full, _)| self.full(full))?;
        self.shared.news.notify_one();
        Ok(())
    }

    fn full(&self, full: Full) -> Refusal {
        self.shared.refused.fetch_add(1, Relaxed);
        let (told, before) = match full {
            Full::Queue(before) => (Told::QueueFull, before),
            Full::Line(before) => (Told::AddressFull, before),
            Full::Later => (Told::Postponed, 0),
        };
        (self.shared.observer)(told);
        Refusal::with(Reason::HashQueueFull, Detail::RetryAfter(self.time_for(before)))
    }

    /// How long so many jobs take, by what a job has taken lately; whole seconds.
    fn time_for(&self, jobs: usize) -> Duration {
        let rounds = u64::try_from(jobs.div_ceil(self.shared.threads)).unwrap_or(u64::MAX);
        let nanos = self.shared.lately_nanos.load(Relaxed).saturating_mul(rounds);
        Duration::from_secs(nanos.div_ceil(1_000_000_000).clamp(*RETRY_SECONDS.start(), *RETRY_SECONDS.end()))
    }
}

impl Drop for HashPool {
    fn drop(&mut self) {
        self.shared.jobs().closing = true;
        self.shared.news.notify_all();
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

/// One thread's life: take, do, answer, until the pool is dropped.
fn work(shared: &Shared) {
    // On Linux a priority belongs to the thread, and lowering one's own needs no privilege.
    if let Err(fault) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
        tracing::warn!(%fault, "a hashing thread keeps its priority; logins may slow proxied requests");
    }
    while let Some(job) = shared.next() {
        // A library that panics over a password made for it must not take the thread along: the requester's end of
        // the job is dropped, which is an answer. Nothing shared is left half-written; it is all atomics.
        if catch_unwind(AssertUnwindSafe(|| shared.run(job))).is_err() {
            tracing::error!("a hashing job panicked");
        }
    }
}

impl Shared {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next job; `None`: the pool has been dropped.
    fn next(&self) -> Option<Job> {
        let mut jobs = self.jobs();
        loop {
            if jobs.closing {
                return None;
            }
            if let Some(job) = jobs.queue.pop() {
                return Some(job);
            }
            jobs = self.news.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn run(&self, job: Job) {
        let began = self.clock.tick();
        let waited = began.since(job.queued_at);
        self.waited_nanos.fetch_add(nanos(waited), Relaxed);
        if job.task.abandoned() {
            self.skipped.fetch_add(1, Relaxed);
            (self.observer)(Told::Skipped);
            return;
        }
        let answer = self.compute(job.task);
        let worked = self.clock.tick().since(began);
        self.took(nanos(worked));
        (self.observer)(Told::Done(JobDone { waited, worked }));
        // Counted before it is answered, so that whoever has the answer also sees it counted.
        self.done.fetch_add(1, Relaxed);
        answer.send();
    }

    fn took(&self, nanos: u64) {
        self.worked_nanos.fetch_add(nanos, Relaxed);
        let lately = match self.lately_nanos.load(Relaxed) {
            0 => nanos,
            before => before - before / 8 + nanos / 8,
        };
        self.lately_nanos.store(lately, Relaxed);
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

fn ended() -> Refusal {
    Refusal::internal("the hashing threads have ended")
}

#[cfg(test)]
pub(super) mod tests;
