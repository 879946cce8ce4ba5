//! The pool under load, with its threads held at will: the test owns the entropy a hashing thread asks for its salt.

use std::sync::mpsc::{self, Receiver, Sender};

use futures_util::FutureExt;

use super::*;
use crate::{
    clock::{SystemClock, SystemEntropy},
    portal::tests::passwords,
};

/// Where those are who do not say otherwise.
pub(in crate::portal) const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// Entropy that holds a hashing thread until it is told to go on, and notes its priority.
struct Hold {
    arrived: Mutex<Sender<i32>>,
    go_on: Mutex<Receiver<()>>,
}

impl Entropy for Hold {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(7);
        if thread::current().name().is_some_and(|name| name.starts_with("hash-")) {
            let nice = rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap();
            self.arrived.lock().unwrap().send(nice).unwrap();
            self.go_on.lock().unwrap().recv().unwrap();
        }
    }
}

/// One thread, one place in the queue, and the test's ends of the hold: who has arrived, and let one go on.
pub(in crate::portal) fn held() -> (HashPool, Receiver<i32>, Sender<()>) {
    held_with(1)
}

fn held_with(hash_queue: usize) -> (HashPool, Receiver<i32>, Sender<()>) {
    let (arrived, arrivals) = mpsc::channel();
    let (release, go_on) = mpsc::channel();
    let hold = Arc::new(Hold { arrived: Mutex::new(arrived), go_on: Mutex::new(go_on) });
    let settings = Passwords { hash_threads: 1, hash_queue, hash_queue_per_address: hash_queue, ..passwords() };
    (HashPool::new(&settings, hold, Arc::new(SystemClock::new())).unwrap(), arrivals, release)
}

/// A password that keeps the rules.
fn password(seed: &str) -> SecretString {
    format!("{seed} kettle orbit walrus").into()
}

async fn hashed(pool: &HashPool, seed: &str) -> SecretString {
    pool.hash(password(seed), Vec::new(), HERE).await.unwrap().unwrap()
}

fn pool() -> HashPool {
    HashPool::new(&passwords(), Arc::new(SystemEntropy), Arc::new(SystemClock::new())).unwrap()
}

#[tokio::test]
async fn a_hash_verifies_with_its_own_password_only() {
    let pool = pool();
    let phc = hashed(&pool, "one").await;
    assert!(phc.expose_secret().starts_with("$argon2id$"));
    assert!(pool.verify(password("one"), Some(phc.clone()), HERE).await.unwrap());
    assert!(!pool.verify(password("two"), Some(phc), HERE).await.unwrap());
}

#[tokio::test]
async fn two_hashes_of_one_password_differ() {
    let pool = pool();
    assert_ne!(hashed(&pool, "one").await.expose_secret(), hashed(&pool, "one").await.expose_secret());
}

#[tokio::test]
async fn a_password_that_breaks_the_rules_is_not_hashed() {
    let pool = pool();
    let judged =
        async |password: &str, about: &str| pool.hash(password.into(), vec![about.into()], HERE).await.unwrap();
    assert_eq!(judged("short", "").await.unwrap_err(), PasswordFault::TooShort { min: 15 });
    let own_name = judged("annabelle.ames@example.org", "annabelle.ames@example.org").await;
    assert!(matches!(own_name, Err(PasswordFault::Guessable { .. })));
}

#[tokio::test]
async fn a_password_in_use_is_hashed_again_whatever_the_rules_say_today() {
    let pool = pool();
    let phc = pool.rehash("short".into()).await.unwrap();
    assert!(pool.verify("short".into(), Some(phc.clone()), HERE).await.unwrap());
    assert!(!pool.is_weak(&phc));
}

#[tokio::test]
async fn hashing_again_leaves_the_queue_to_those_who_wait() {
    let (pool, arrivals, release) = held_with(3);
    let mut asked: Vec<_> = ["one", "two", "three"].map(|seed| Box::pin(hashed(&pool, seed))).into();
    assert!(futures_util::poll!(&mut asked[0]).is_pending());
    arrivals.recv().unwrap();
    for waiting in &mut asked[1..] {
        assert!(futures_util::poll!(waiting).is_pending());
    }
    // One place is free: for a login, not for this.
    let again = pool.rehash(password("four")).now_or_never().expect("an answer at once");
    assert_eq!(again.unwrap_err().reason, Reason::HashQueueFull);
    asked.push(Box::pin(hashed(&pool, "four")));
    assert!(futures_util::poll!(&mut asked[3]).is_pending());
    for _ in 0..=asked.len() {
        release.send(()).unwrap();
    }
    futures_util::future::join_all(asked).await;
    pool.rehash(password("five")).await.unwrap();
}

#[tokio::test]
async fn without_a_hash_the_work_is_done_and_no_password_is_right() {
    let pool = pool();
    let before = pool.stats();
    assert!(!pool.verify(password("any"), None, HERE).await.unwrap());
    let after = pool.stats();
    assert_eq!(after.done, before.done + 1);
    assert!(after.worked > before.worked);
}

#[tokio::test]
async fn the_dummy_costs_what_a_real_hash_costs() {
    let pool = pool();
    let real = hashed(&pool, "real").await;
    let costs = |phc: &SecretString| phc.expose_secret().split('$').nth(3).map(str::to_owned);
    assert_eq!(costs(&pool.shared.dummy), costs(&real));
}

#[tokio::test]
async fn hashing_threads_run_at_the_lowest_priority() {
    let (pool, arrivals, release) = held();
    release.send(()).unwrap();
    hashed(&pool, "x").await;
    assert_eq!(arrivals.recv().unwrap(), NICE);
}

#[tokio::test]
async fn past_the_queue_a_job_is_refused_and_told_when_to_return() {
    let (pool, arrivals, release) = held();
    let pool = Arc::new(pool);
    let hash = |name: &'static str| {
        let pool = Arc::clone(&pool);
        async move { pool.hash(password(name), Vec::new(), HERE).await }
    };
    let mut on_the_thread = Box::pin(hash("one"));
    assert!(futures_util::poll!(&mut on_the_thread).is_pending());
    arrivals.recv().unwrap();
    let mut waiting = Box::pin(hash("two"));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    assert_eq!(pool.stats().queued, 1);

    let refusal = hash("three").await.unwrap_err();
    assert_eq!(refusal.reason, Reason::HashQueueFull);
    let Some(Detail::RetryAfter(after)) = refusal.detail.map(|detail| *detail) else { panic!("no Retry-After") };
    assert!(RETRY_SECONDS.contains(&after.as_secs()));
    assert_eq!(pool.stats().refused, 1);

    release.send(()).unwrap();
    release.send(()).unwrap();
    on_the_thread.await.unwrap().unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!((pool.stats().queued, pool.stats().done), (0, 2));
}

#[tokio::test]
async fn a_job_whose_requester_has_gone_is_skipped() {
    let (pool, arrivals, release) = held();
    let mut on_the_thread = Box::pin(pool.hash(password("one"), Vec::new(), HERE));
    assert!(futures_util::poll!(&mut on_the_thread).is_pending());
    arrivals.recv().unwrap();
    {
        let mut impatient = Box::pin(pool.hash(password("two"), Vec::new(), HERE));
        assert!(futures_util::poll!(&mut impatient).is_pending());
    }
    release.send(()).unwrap();
    on_the_thread.await.unwrap().unwrap();
    // One place in the queue: that this one is taken shows that the skipped one was taken off. One to go on more than
    // needed, so that a job wrongly done fails this test and does not hang it.
    release.send(()).unwrap();
    release.send(()).unwrap();
    let third = loop {
        match pool.hash(password("three"), Vec::new(), HERE).await {
            Err(refusal) if refusal.reason == Reason::HashQueueFull => tokio::task::yield_now().await,
            other => break other,
        }
    };
    third.unwrap().unwrap();
    assert_eq!((pool.stats().skipped, pool.stats().done), (1, 2));
}

#[tokio::test]
async fn a_dropped_pool_ends_its_threads_and_answers_who_still_waits() {
    let (pool, arrivals, release) = held();
    let shared = Arc::downgrade(&pool.shared);
    let (answer, on_the_thread) = oneshot::channel();
    pool.submit(Some(HERE), Task::Hash { password: password("one"), about: Some(Vec::new()), answer }).unwrap();
    arrivals.recv().unwrap();
    let (answer, waiting) = oneshot::channel();
    pool.submit(Some(HERE), Task::Hash { password: password("two"), about: Some(Vec::new()), answer }).unwrap();
    // Enough for both: whether the second is still begun is the thread's to decide.
    release.send(()).unwrap();
    release.send(()).unwrap();
    drop(pool);
    assert!(shared.upgrade().is_none(), "a thread lives on");
    on_the_thread.await.unwrap().unwrap().unwrap();
    // Done or dropped: either is an answer, not a hang.
    let _ = waiting.await;
}

#[test]
fn costs_argon2_does_not_know_make_no_pool() {
    let settings = Passwords { argon2_memory_kib: 1, argon2_lanes: 8, ..passwords() };
    assert!(HashPool::new(&settings, Arc::new(SystemEntropy), Arc::new(SystemClock::new())).is_err());
}

#[tokio::test]
async fn debug_shows_no_secret() {
    let pool = pool();
    hashed(&pool, "hunter2").await;
    let shown = format!("{pool:?}");
    assert!(!shown.contains("argon2") && !shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn an_observer_is_told_of_each_job_done() {
    let (seen, jobs) = mpsc::channel();
    let observer = Box::new(move |job: Told| seen.send(job).unwrap());
    let pool =
        HashPool::observed(&passwords(), Arc::new(SystemEntropy), Arc::new(SystemClock::new()), observer).unwrap();
    hashed(&pool, "one").await;
    pool.verify(password("any"), None, HERE).await.unwrap();
    let done = |told| if let Told::Done(job) = told { job } else { panic!("{told:?}") };
    let jobs: Vec<_> = jobs.try_iter().map(done).collect();
    let stats = pool.stats();
    assert_eq!((jobs.len(), stats.done), (2, 2));
    assert_eq!(jobs.iter().map(|job| job.worked).sum::<Duration>(), stats.worked);
    assert_eq!(jobs.iter().map(|job| job.waited).sum::<Duration>(), stats.waited);
}

#[tokio::test]
async fn a_job_that_panics_costs_its_own_requester_an_answer_and_nobody_else_a_thread() {
    let (pool, arrivals, release) = held();
    // Nobody is there to arrive at: the salt's entropy panics.
    drop(arrivals);
    let refusal = pool.hash(password("one"), Vec::new(), HERE).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::Internal);
    assert!(!pool.verify(password("one"), None, HERE).await.unwrap());
    drop(release);
}

#[tokio::test]
async fn a_flood_from_one_address_is_one_turn_to_another() {
    let (pool, arrivals, release) = held_with(100);
    let from = |address: &str, seed: &'static str| {
        let (pool, address) = (&pool, address.parse().unwrap());
        Box::pin(async move { pool.hash(password(seed), Vec::new(), address).await.unwrap().unwrap() })
    };
    // Addresses of one /64 are one client's.
    let mut flood: Vec<_> =
        (0..50).map(|last| from(&format!("2001:db8::{last:x}"), ["one", "two"][last % 2])).collect();
    for job in &mut flood {
        assert!(futures_util::poll!(job).is_pending());
    }
    arrivals.recv().unwrap();
    let mut honest = from("2001:db8:0:1::1", "honest");
    assert!(futures_util::poll!(&mut honest).is_pending());
    // The one on the thread, the next of the flood, the honest one.
    for _ in 0..3 {
        release.send(()).unwrap();
    }
    // Were it behind the flood, nobody would ever let it go on.
    tokio::time::timeout(Duration::from_secs(30), honest).await.expect("its turn comes after one of the flood's");
    assert_eq!(pool.stats().done, 3);
    drop(flood);
    release.send(()).unwrap();
}

#[tokio::test]
async fn an_address_that_has_its_share_is_refused_and_others_are_not() {
    let (arrived, arrivals) = mpsc::channel();
    let (release, go_on) = mpsc::channel();
    let hold = Arc::new(Hold { arrived: Mutex::new(arrived), go_on: Mutex::new(go_on) });
    let (seen, told) = mpsc::channel();
    let observer = Box::new(move |job: Told| seen.send(job).unwrap());
    let settings = Passwords { hash_threads: 1, hash_queue: 8, hash_queue_per_address: 2, ..passwords() };
    let pool = HashPool::observed(&settings, hold, Arc::new(SystemClock::new()), observer).unwrap();
    let from = |address: IpAddr| Box::pin(pool.hash(password("x"), Vec::new(), address));
    let mut asked = vec![from(HERE)];
    assert!(futures_util::poll!(&mut asked[0]).is_pending());
    arrivals.recv().unwrap();
    for _ in 0..2 {
        let mut job = from(HERE);
        assert!(futures_util::poll!(&mut job).is_pending());
        asked.push(job);
    }
    assert_eq!(from(HERE).await.unwrap_err().reason, Reason::HashQueueFull);
    let mut other = from("198.51.100.7".parse().unwrap());
    assert!(futures_util::poll!(&mut other).is_pending());
    asked.push(other);
    for _ in &asked {
        release.send(()).unwrap();
    }
    futures_util::future::join_all(asked).await;
    let told: Vec<_> = told.try_iter().collect();
    assert_eq!(told.iter().filter(|told| **told == Told::AddressFull).count(), 1, "{told:?}");
    assert_eq!(told.len(), 5, "{told:?}");
}

#[test]
fn retry_after_is_the_time_that_what_waits_will_take() {
    let pool = pool();
    let two_threads = |jobs| pool.time_for(jobs).as_secs();
    assert_eq!(two_threads(100), 1, "nothing is known yet");
    pool.shared.took(100_000_000);
    assert_eq!([two_threads(1), two_threads(100), two_threads(101), two_threads(10_000)], [1, 5, 6, 30]);
    // It follows what jobs take now, whatever they took before.
    for _ in 0..100 {
        pool.shared.took(400_000_000);
    }
    assert_eq!(two_threads(100), 20);
}
