//! Limits counted by the master that sentinels name: one that is killed or frozen is followed by the replica that they
//! promote; in between each gateway counts for itself, and nobody waits longer than one deadline.

use std::{
    io::{Read as _, Write as _},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use portcullis::{
    clock::{Clock, SystemClock},
    config::settings::{self, Sentinel},
    store::{
        limits::Limiter,
        redis::{CallResult, Purpose, Redis},
    },
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc::unbounded_channel,
};

use crate::{
    redis::{PATIENT, Told, admitted, limit, open_by, soon},
    support::redis_sentinel::{PASSWORD, RedisSentinel, SENTINEL_PASSWORD, SERVICE},
};

fn settings(servers: &RedisSentinel, deadline: Duration) -> settings::Redis {
    let sentinel = Sentinel {
        service: SERVICE.into(),
        servers: servers.sentinels(),
        username: None,
        password: Some(SENTINEL_PASSWORD.into()),
    };
    let retry = Duration::from_millis(50);
    settings::Redis { sentinel: Some(sentinel), retry, ..crate::redis::settings(&RedisSentinel::url(), deadline) }
}

/// A gateway that looks after its Redis, as a running one does.
async fn gateway(servers: &RedisSentinel, deadline: Duration, told: &Told) -> Arc<Redis> {
    let redis = open_by(&settings(servers, deadline), told).await;
    let looked_after = Arc::clone(&redis);
    tokio::spawn(async move { looked_after.maintain().await });
    redis
}

fn limiter(redis: &Arc<Redis>, burst: u32) -> Arc<Limiter> {
    Arc::new(Limiter::new(&limit(burst, 0), Some(redis), 1_000))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_master_is_killed_limits_go_on_at_the_promoted_replica() {
    let mut servers = RedisSentinel::private();
    let (told, other_told) = (Told::default(), Told::default());
    let (one, other) = (gateway(&servers, PATIENT, &told).await, gateway(&servers, PATIENT, &other_told).await);
    assert!(one.is_up() && other.is_up() && !told.facts().lost);
    let (a, b) = (limiter(&one, 6), limiter(&other, 6));
    for limiter in [&a, &b, &a] {
        assert!(admitted(limiter).await);
    }
    assert_eq!(told.facts().alone, 0, "the two count together");

    servers.stop(0);
    // The connection breaks: nobody waits, each counts for itself and from what it has admitted before.
    soon(async || !one.is_up() || !admitted(&a).await || told.facts().alone > 0).await;
    assert!(told.facts().lost);
    servers.await_master(1);
    // The other has asked nothing since: it finds out when it looks.
    soon(async || one.check().await.is_ok() && other.check().await.is_ok()).await;
    assert!(!told.facts().lost && told.facts().alone > 0);

    // Together again, at the other server.
    let [fresh, there] = [&one, &other].map(|redis| Arc::new(Limiter::new(&fresh(), Some(redis), 100)));
    let mut count = 0;
    for limiter in [&fresh, &there].repeat(10) {
        count += usize::from(admitted(limiter).await);
    }
    assert_eq!(count, 4, "what one gateway may, together");
}

/// A limit of which nothing has been used.
fn fresh() -> settings::Limit {
    settings::Limit { name: "fresh".into(), ..limit(4, 0) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_master_is_waited_for_by_no_request_longer_than_the_deadline() {
    let mut servers = RedisSentinel::private();
    let (told, deadline) = (Told::default(), Duration::from_millis(250));
    let redis = gateway(&servers, deadline, &told).await;
    soon(async || redis.is_up()).await;
    // As much as can be asked: it is not what holds anybody up here.
    let most = limit(1_000_000, 0);
    let most = settings::Limit { period: Duration::from_secs(1), burst: NonZeroU32::MAX, ..most };
    let limiter = Arc::new(Limiter::new(&most, Some(&redis), 1_000));
    servers.pause(0);
    // Until the replica has taken over, and beyond: whatever is asked is answered, and one question in all is late.
    let (clock, mut waited) = (SystemClock::new(), Duration::ZERO);
    let taken_over = async {
        loop {
            let asked = clock.tick();
            assert!(admitted(&limiter).await);
            waited = waited.max(clock.tick().since(asked));
            if redis.is_up() && told.calls(Purpose::Charge, CallResult::Timeout) > 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENT * 3, taken_over).await.expect("the replica takes over");
    assert_eq!(told.calls(Purpose::Charge, CallResult::Timeout), 1);
    assert!(waited < deadline * 8, "on a busy machine: {waited:?}");
    servers.resume(0);
    servers.await_master(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_sentinel_is_enough_to_find_the_master_and_none_to_keep_it() {
    let mut servers = RedisSentinel::private();
    servers.stop(2);
    servers.pause(3);
    let told = Told::default();
    let redis = gateway(&servers, PATIENT, &told).await;
    assert!(redis.is_up(), "one is dead, one is frozen, one answers");
    servers.stop(4);
    assert_eq!(redis.check().await, Ok(()), "a master that answers needs no sentinel");
    assert!(admitted(&limiter(&redis, 1)).await);
    assert_eq!(told.facts().alone, 0);
    servers.stop(0);
    let why = redis.check().await.unwrap_err();
    assert!(!why.contains("of-the-"), "{why}");
    let alone = open_by(&settings(&servers, PATIENT), &Told::default()).await;
    let why = alone.check().await.unwrap_err();
    assert!(why.starts_with("no sentinel names a master: "), "{why}");
}

/// A sentinel that names this server, and says that it has seen so many failovers.
async fn naming(server: (String, u16), epoch: u32) -> (String, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answers(stream, server.clone(), epoch));
        }
    });
    (address.ip().to_string(), address.port())
}

async fn answers(stream: TcpStream, (host, port): (String, u16), epoch: u32) {
    let mut stream = BufReader::new(stream);
    let array = |words: &[&str]| {
        let words: Vec<_> = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        format!("*{}\r\n{}", words.len(), words.concat())
    };
    while let Some(words) = command(&mut stream).await {
        let (port, epoch) = (port.to_string(), epoch.to_string());
        let answer = match words.get(1).map(String::as_str) {
            Some("get-master-addr-by-name") => array(&[&host, &port]),
            Some("master") => array(&["name", SERVICE, "ip", &host, "port", &port, "config-epoch", &epoch]),
            _ => "+OK\r\n".to_owned(),
        };
        stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
    }
}

/// An array of strings, as clients send commands.
async fn command(stream: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
    let mut words = Vec::new();
    for _ in 0..line.trim().trim_start_matches('*').parse().ok()? {
        line.clear();
        stream.read_line(&mut line).await.ok()?;
        let mut word = vec![0; line.trim().trim_start_matches('$').parse::<usize>().ok()? + 2];
        stream.read_exact(&mut word).await.ok()?;
        words.push(String::from_utf8(word).ok()?.trim_end().to_owned());
    }
    Some(words)
}

/// What a server answers to this command.
fn ask(servers: &RedisSentinel, which: usize, command: &str) -> String {
    let (host, port) = &servers.addresses()[which];
    let mut stream = std::net::TcpStream::connect((host.as_str(), *port)).unwrap();
    // It answers in order, and closes after QUIT.
    stream.write_all(format!("AUTH {PASSWORD}\r\n{command}\r\nQUIT\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.strip_prefix("+OK\r\n").and_then(|answer| answer.strip_suffix("+OK\r\n")).unwrap().to_owned()
}

/// A gateway that asks these sentinels.
async fn told_by(servers: &RedisSentinel, sentinels: Vec<(String, u16)>) -> Arc<Redis> {
    let mut settings = settings(servers, PATIENT);
    settings.sentinel.as_mut().unwrap().servers = sentinels;
    open_by(&settings, &Told::default()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_sentinels_that_differ_most_are_believed_or_the_one_whose_server_is_a_master() {
    let servers = RedisSentinel::private();
    let (master, replica) = (servers.addresses()[0].clone(), servers.addresses()[1].clone());
    // The first that is asked names a replica: a failover that was undone behind its back.
    for names in [&[&replica, &master][..], &[&replica, &master, &master], &[&replica, &replica, &master, &master]] {
        let mut sentinels = Vec::new();
        for server in names {
            sentinels.push(naming((*server).clone(), 1).await);
        }
        let redis = told_by(&servers, sentinels).await;
        assert_eq!(redis.check().await, Ok(()), "{names:?}");
        assert!(redis.is_up() && admitted(&limiter(&redis, 100)).await, "{names:?}");
    }
    // Most of them are believed, whatever the server says of itself: what it is not shows when it is written to.
    let most = [naming(replica.clone(), 1).await, naming(replica, 1).await, naming(master, 1).await];
    assert!(!told_by(&servers, most.to_vec()).await.is_up());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_both_say_master_the_one_of_the_latest_failover_is_believed() {
    let mut servers = RedisSentinel::private();
    for sentinel in 2..5 {
        servers.stop(sentinel);
    }
    // The one before is cut off from the others, though not from here.
    assert_eq!(ask(&servers, 1, "REPLICAOF NO ONE"), "+OK\r\n");
    assert_eq!((ask(&servers, 0, "DBSIZE"), ask(&servers, 1, "DBSIZE")), (":0\r\n".to_owned(), ":0\r\n".to_owned()));
    let sentinels =
        vec![naming(servers.addresses()[0].clone(), 1).await, naming(servers.addresses()[1].clone(), 2).await];
    let redis = told_by(&servers, sentinels).await;
    assert!(admitted(&limiter(&redis, 100)).await);
    assert_eq!(ask(&servers, 0, "DBSIZE"), ":0\r\n");
    assert_ne!(ask(&servers, 1, "DBSIZE"), ":0\r\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_no_sentinel_knows_is_no_master() {
    let servers = RedisSentinel::private();
    let mut settings = settings(&servers, PATIENT);
    settings.sentinel.as_mut().unwrap().service = "ours".into();
    let redis = open_by(&settings, &Told::default()).await;
    assert!(!redis.is_up());
    let why = redis.check().await.unwrap_err();
    assert_eq!(why, "no sentinel names a master: none knows a service ours");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_between_gateways_follow_the_master() {
    let mut servers = RedisSentinel::private();
    let (one, other) =
        (gateway(&servers, PATIENT, &Told::default()).await, gateway(&servers, PATIENT, &Told::default()).await);
    let (called, mut calls) = unbounded_channel();
    let listening = Arc::clone(&other);
    let listener = tokio::spawn(async move {
        loop {
            listening.called_by_gateways(&|| called.send(()).unwrap()).await;
            tokio::task::yield_now().await;
        }
    });
    tokio::time::timeout(PATIENT, calls.recv()).await.expect("it listens").unwrap();
    one.call_gateways().await;
    tokio::time::timeout(PATIENT, calls.recv()).await.expect("a call").unwrap();
    servers.stop(0);
    one.call_gateways().await;
    servers.await_master(1);
    soon(async || one.is_up() && other.is_up()).await;
    // Called for listening again.
    tokio::time::timeout(PATIENT, calls.recv()).await.expect("it listens again").unwrap();
    while calls.try_recv().is_ok() {}
    one.call_gateways().await;
    tokio::time::timeout(PATIENT, calls.recv()).await.expect("a call over the new master").unwrap();
    listener.abort();
}
