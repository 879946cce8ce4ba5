//! A Redis Cluster for tests: three masters without replicas, each with a third of the slots, keeping nothing.
//!
//! The servers of a cluster know each other by address and port, so sockets will not do. Each cluster has a loopback
//! address of its own, on which nobody else takes a port.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    path::PathBuf,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Owner, Supervised, program};

/// `$1` is the folder. Each server says once that it takes connections.
const SCRIPT: &str = r#"
trap '' PIPE
up() {
    "$REDIS_SERVER" --bind "$ADDRESS" --port "$3" --cluster-port "$4" \
        --cluster-announce-ip "$ADDRESS" --protected-mode no --dir "$1" --save '' \
        --appendonly no --daemonize no --cluster-enabled yes --cluster-config-file "nodes-$2" \
        --cluster-node-timeout 1000 --cluster-require-full-coverage no 2>&1 &
    echo $! >"$1/pid-$2"
}
down() {
    kill -KILL "$(cat "$1/pid-$2")"
    wait "$(cat "$1/pid-$2")" 2>/dev/null
    rm "$1/pid-$2"
}
whole() {
    tries=0
    for port in "$@"; do
        until [ "$("$REDIS_CLI" -h "$ADDRESS" -p "$port" cluster info | tr -d '\r' | grep -c -x \
            -e cluster_state:ok -e cluster_slots_ok:16384 -e cluster_known_nodes:3)" = 3 ]; do
            tries=$((tries + 1))
            [ "$tries" -lt 600 ] || exit 1
            sleep 0.05
        done
    done
    echo whole
}
echo begun
while read -r order one two three; do
    case "$order" in
        stop) down "$1" "$one"; echo down ;;
        start) up "$1" "$one" "$two" "$three" ;;
        await) whole "$one" "$two" "$three" ;;
    esac
done
for which in 0 1 2; do
    [ -f "$1/pid-$which" ] && down "$1" "$which"
done
cd /; rm -rf "$1"
"#;

/// First and last slot of each master.
pub(crate) const SHARES: [(u16, u16); 3] = [(0, 5_460), (5_461, 10_922), (10_923, 16_383)];

/// A running cluster; stopped and removed when dropped.
#[derive(Debug)]
pub(crate) struct RedisCluster {
    folder: PathBuf,
    address: Ipv4Addr,
    /// Of clients and of the servers among themselves.
    ports: [(u16, u16); 3],
    server: Supervised,
}

/// An address on which nobody else takes a port.
pub(crate) fn own_address() -> Ipv4Addr {
    static CLUSTERS: AtomicU32 = AtomicU32::new(0);
    let number = (process::id() << 6 | (CLUSTERS.fetch_add(1, Ordering::Relaxed) & 63)) & 0x7F_FFFF;
    Ipv4Addr::from_bits(0x7F80_0000 | number)
}

impl RedisCluster {
    /// Starts one and waits until every master knows that all is well.
    pub(crate) fn private() -> Self {
        let owner = Owner::unprivileged();
        let (folder, address) = (owner.folder("pc-redis-"), own_address());
        let held: Vec<_> = (0..6).map(|_| TcpListener::bind((address, 0)).expect("a free port")).collect();
        let port = |index: usize| held[index].local_addr().expect("it is bound").port();
        let ports = [0, 1, 2].map(|index| (port(index), port(index + 3)));
        drop(held);
        let server = program("redis-server", &[], "redis-server").display().to_string();
        let asker = program("redis-cli", &[], "redis-tools").display().to_string();
        let script = format!("REDIS_SERVER='{server}'\nREDIS_CLI='{asker}'\nADDRESS='{address}'\n{SCRIPT}");
        let server = Supervised::start(owner, &script, &folder, "begun");
        let mut cluster = Self { folder, address, ports, server };
        for (index, (first, last)) in SHARES.into_iter().enumerate() {
            cluster.start(index);
            let answer = cluster.ask(index, &["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            assert_eq!(answer, "+OK\r\n");
        }
        for index in 1..3 {
            let (port, bus) = cluster.ports[index];
            let met = ["CLUSTER", "MEET", &address.to_string(), &port.to_string(), &bus.to_string()];
            assert_eq!(cluster.ask(0, &met), "+OK\r\n");
        }
        cluster.await_whole();
        cluster
    }

    /// Where a master takes connections.
    pub(crate) fn address(&self, master: usize) -> SocketAddr {
        SocketAddrV4::new(self.address, self.ports[master].0).into()
    }

    /// For `shared_state.redis.url`: one of them.
    pub(crate) fn url(&self, master: usize) -> String {
        format!("redis://{}", self.address(master))
    }

    /// Kills a master as a crash would; all it held is gone.
    pub(crate) fn stop(&mut self, master: usize) {
        self.server.order(&format!("stop {master}"), "down");
    }

    /// Starts it again, empty.
    pub(crate) fn start(&mut self, master: usize) {
        let (port, bus) = self.ports[master];
        self.server.order(&format!("start {master} {port} {bus}"), "eady to accept connections");
    }

    /// Freezes a master: connections stay open and nothing answers.
    pub(crate) fn pause(&self, master: usize) {
        self.signal(master, Signal::STOP);
    }

    /// Thaws it.
    pub(crate) fn resume(&self, master: usize) {
        self.signal(master, Signal::CONT);
    }

    fn signal(&self, master: usize, signal: Signal) {
        let text = fs::read_to_string(self.folder.join(format!("pid-{master}"))).expect("it is running");
        let pid: i32 = text.trim().parse().expect("a process id");
        kill_process(Pid::from_raw(pid).expect("a process id"), signal).expect("it is running");
    }

    /// Waits until every master holds the cluster for whole. Joining takes a server two seconds at least.
    pub(crate) fn await_whole(&mut self) {
        let [one, two, three] = self.ports.map(|(port, _)| port);
        self.server.order(&format!("await {one} {two} {three}"), "whole");
    }

    /// What a master answers to one command, as it stands on the wire (RESP2).
    pub(crate) fn ask(&self, master: usize, words: &[&str]) -> String {
        let mut stream = TcpStream::connect(self.address(master)).expect("it takes connections");
        let command = |words: &[&str]| {
            let words = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
            format!("*{}\r\n{}", words.len(), words.collect::<String>())
        };
        // It answers in order, and closes after QUIT.
        let text = format!("{}{}", command(words), command(&["QUIT"]));
        stream.write_all(text.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers text");
        answer.strip_suffix("+OK\r\n").expect("it says goodbye").to_owned()
    }
}
