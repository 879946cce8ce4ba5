//! Ten thousand connections that stop in the middle of a head, from one address and from many. Whoever asks is served all
//! the while, old and new; nobody holds more places than are said, and what is slow is ended. Bodies that drip in
//! may hold what the anonymous have, for as long as a route lets them be slow; users are served meanwhile.

use std::{future::pending, io::ErrorKind, ops::RangeInclusive, time::Duration};

use futures_util::{StreamExt as _, stream};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Mutex, MutexGuard},
    task::JoinSet,
    time::interval,
};

use super::HOME;
use crate::harness::{
    gateway::standard,
    raw::Raw,
    site::{Nodes, Site, connect, try_connect},
    soon,
    upstream::Upstream,
};

const SLOW: usize = 10_000;
/// Connections after which the honest ask again.
const WAVE: usize = 500;
/// Descriptors that the rest of the tests' process needs meanwhile.
const REST: u64 = 3_000;
/// What a connection in the middle of a head may cost.
const BOUND_KIB: u64 = 40;

const TIMED_OUT: &str = "portcullis_connection_errors_total{kind=\"timeout\"}";

const GET: &str = "GET /open/a HTTP/1.1\r\nHost: a.test\r\n\r\n";

on_one_and_three!(
    of_ten_thousand_slow_connections_of_one_address_its_share_is_held_until_the_time_out,
    ten_thousand_slow_connections_of_many_addresses_make_room_for_who_asks,
    bodies_that_drip_in_from_many_addresses_keep_no_user_out_and_strangers_for_the_grace,
);

/// One journey of this file at a time, with descriptors enough for it.
async fn room() -> MutexGuard<'static, ()> {
    static ROOM: Mutex<()> = Mutex::const_new(());
    let guard = ROOM.lock().await;
    let limit = getrlimit(Resource::Nofile);
    let (enough, most) = (SLOW as u64 + REST, limit.maximum.unwrap_or(u64::MAX));
    assert!(most >= enough, "this test opens {enough} files and may open {most}: raise the hard limit (ulimit -Hn)");
    if limit.current.is_some_and(|current| current < enough) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit }).unwrap();
    }
    guard
}

async fn site(nodes: Nodes, upstream: &Upstream, public: &str) -> Site {
    let yaml = format!(
        "listeners: {{public: {{bind: \"127.0.0.1:0\", {public}}}, admin: {{bind: \"127.0.0.1:0\"}}}}\n\
         limits: {{everybody: {{by: address, rate: 100000/s, burst: 100000, {}}}}}\nportal: {{limits: [everybody]}}\n\
         {}{}",
        nodes.scope(0),
        nodes.shared_state(),
        standard(upstream).replace("{name: open,", "{name: open, timeouts: {body_rate: 1KiB/s, body_grace: 4s},")
    );
    Site::start(nodes, &yaml).await
}

/// A connection to each gateway that was there before and is used again and again.
struct Regulars(Vec<Raw>);

impl Regulars {
    async fn begin(site: &Site, nodes: Nodes) -> Self {
        let mut all = Vec::new();
        for number in 0..nodes.count() {
            all.push(site.raw_to(number, "127.0.9.2").await);
        }
        let mut regulars = Self(all);
        regulars.are_served(site).await;
        regulars
    }

    /// And so are strangers, at every gateway, each over a connection of its own.
    async fn are_served(&mut self, site: &Site) {
        for (number, regular) in self.0.iter_mut().enumerate() {
            regular.send(GET).await;
            assert_eq!(regular.answer().await.expect("it was not closed").status, 200);
            let mut stranger = site.raw_to(number, HOME).await;
            stranger.send(GET).await;
            assert_eq!(stranger.answer().await.expect("there is a place for it").status, 200);
        }
    }
}

/// The attack: the sources in turn, the gateways in turn. The honest ask between the waves.
async fn attack(site: &Site, nodes: Nodes, sources: RangeInclusive<usize>, net: &str) -> Vec<TcpStream> {
    let mut regulars = Regulars::begin(site, nodes).await;
    let (to, sources): (_, Vec<_>) = (site.addresses(), sources.collect());
    let mut slow = Vec::with_capacity(SLOW);
    for wave in 0..SLOW / WAVE {
        for nth in wave * WAVE..(wave + 1) * WAVE {
            let source = format!("{net}.{}", sources[nth / to.len() % sources.len()]);
            match try_connect(&source, to[nth % to.len()]).await {
                Ok(mut stream) => {
                    let _ = stream.write_all(b"GET /open/a HTTP/1.1\r\nHost: a.test\r\nX-Slow: ").await;
                    slow.push(stream);
                }
                // It was closed before it was looked at.
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            }
        }
        regulars.are_served(site).await;
    }
    slow
}

async fn ended(result: &str, site: &Site) -> f64 {
    site.metric(&format!("portcullis_connections_total{{result=\"{result}\"}}")).await
}

async fn refused(kind: &str, site: &Site) -> f64 {
    site.metric(&format!("portcullis_floods_refused_total{{kind=\"{kind}\"}}")).await
}

fn of(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

async fn of_ten_thousand_slow_connections_of_one_address_its_share_is_held_until_the_time_out(nodes: Nodes) {
    const SHARE: usize = 1_000;
    let _room = room().await;
    let upstream = Upstream::start().await;
    let public = format!("max_connections_per_address: {SHARE}, timeouts: {{first_byte: 10s, header: 10s}}");
    let site = site(nodes, &upstream, &public).await;
    let source = if nodes == Nodes::One { 1 } else { 2 };
    let slow = attack(&site, nodes, source..=source, "127.0.1").await;
    assert!(refused("held", &site).await > 0.0);
    for open in site.metrics("portcullis_connections_open").await {
        assert!(open <= of(SHARE + 2), "{open}: its share, a regular and a stranger");
    }
    assert!(ended("evicted", &site).await < 0.5, "nobody had to make room");

    // Whatever was let in is ended, all of it; what was not has ended long since.
    let closed = stream::iter(slow).map(|mut stream| async move {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    });
    soon("every slow connection to end", closed.buffer_unordered(SLOW).for_each(async |()| {})).await;
    assert!(site.metric(TIMED_OUT).await >= 1.0);
    // Beyond its share, or faster than `flood.connections`.
    let told = async {
        while (site.metric(TIMED_OUT).await + refused("held", &site).await + refused("connections", &site).await
            - of(SLOW))
        .abs()
            > 0.5
        {}
    };
    soon("each to be counted, as refused or as timed out", told).await;
}

async fn ten_thousand_slow_connections_of_many_addresses_make_room_for_who_asks(nodes: Nodes) {
    const SOURCES: usize = 100;
    let _room = room().await;
    let upstream = Upstream::start().await;
    let places = 3_000 / nodes.count();
    // No share explains the outcome, nor a time-out: the longest there is.
    let public = format!(
        "max_connections: {places}, max_connections_per_address: {}, flood: {{connections: none}}, \
         timeouts: {{first_byte: 60s, header: 60s}}",
        SLOW / SOURCES
    );
    let site = site(nodes, &upstream, &public).await;
    let before = site.peaks_kib();
    let net = if nodes == Nodes::One { "127.0.2" } else { "127.0.3" };
    let slow = attack(&site, nodes, 1..=SOURCES, net).await;
    assert!(refused("held", &site).await < 0.5, "each had its share");
    for open in site.metrics("portcullis_connections_open").await {
        assert!(open <= of(places), "{open}");
    }
    // All but those that stand, and those that the kernel still has in its queue for want of a place.
    let (evicted, due) = (ended("evicted", &site).await, of(SLOW - nodes.count() * places - WAVE));
    assert!(evicted + site.metric(TIMED_OUT).await >= due && evicted >= of(WAVE), "{evicted}");
    for (peak, before) in site.peaks_kib().into_iter().zip(before) {
        let grown = peak.saturating_sub(before);
        assert!(grown < places as u64 * BOUND_KIB, "{grown} KiB for {places} connections");
    }
    drop(slow);
}

/// Begins a long body and sends a byte of it now and then, until the connection is closed.
async fn drip(mut stream: TcpStream) {
    let (mut read, mut write) = stream.split();
    let dripping = async {
        let mut ticks = interval(Duration::from_millis(200));
        let mut bytes = b"POST /open/a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000\r\n\r\n".as_slice();
        while write.write_all(bytes).await.is_ok() {
            bytes = b"x";
            ticks.tick().await;
        }
        pending::<()>().await;
    };
    let mut answer = Vec::new();
    tokio::select! {
        _ = read.read_to_end(&mut answer) => {}
        () = dripping => {}
    }
}

async fn bodies_that_drip_in_from_many_addresses_keep_no_user_out_and_strangers_for_the_grace(nodes: Nodes) {
    const SLOW_BODIES: usize = 200;
    const SOURCES: usize = 50;
    let _room = room().await;
    let upstream = Upstream::start().await;
    let site = site(nodes, &upstream, &format!("max_connections: {SLOW_BODIES}")).await;
    let ann = site.client_at(HOME).register("ann@example.org").await;
    let net = if nodes == Nodes::One { "127.0.4" } else { "127.0.5" };
    let (to, slow) = (site.addresses(), SLOW_BODIES * nodes.count());
    let mut dripping = JoinSet::new();
    for nth in 0..slow {
        let source = format!("{net}.{}", 1 + nth / to.len() % SOURCES);
        dripping.spawn(drip(connect(&source, to[nth % to.len()]).await));
    }
    // The anonymous have a share of what may be under way, and no more; users have the rest.
    for number in 0..nodes.count() {
        site.client_to(number, HOME).get("/ask/a").bearer(&ann.access).send().await.expect(200);
    }
    soon("every slow body to end", async { while dripping.join_next().await.is_some() {} }).await;
    let told = async |reason: &str, status: &str| {
        let labels = format!("route=\"open\",reason=\"{reason}\",method=\"POST\",status=\"{status}\"");
        site.metric(&format!("portcullis_requests_total{{{labels}}}")).await
    };
    let all = async { while told("body_timeout", "4xx").await + told("overloaded", "5xx").await < of(slow) - 0.5 {} };
    soon("each to be counted, as cut or as sent away", all).await;
    assert!(told("body_timeout", "4xx").await >= of(slow / 4), "places were held");
    for number in 0..nodes.count() {
        let mut stranger = site.raw_to(number, HOME).await;
        stranger.send(GET).await;
        assert_eq!(stranger.answer().await.expect("there is a place for it").status, 200);
        stranger.send("POST /open/a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nwhole").await;
        assert_eq!(stranger.answer().await.expect("it was not closed").status, 200, "a body that comes is taken");
    }
}
