//! Redis Sentinel for tests: a master, a replica, and three sentinels that watch them, keeping nothing. Like a
//! cluster's, the servers know each other by address and port.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Owner, Supervised, program, redis_cluster::own_address};

/// `$1` is the folder. Servers 0 and 1 count, 2 to 4 are sentinels.
const SCRIPT: &str = r#"
trap '' PIPE
server() {
    "$REDIS_SERVER" --bind "$ADDRESS" --port "$3" --protected-mode no --dir "$1" --save '' --appendonly no \
        --daemonize no --repl-diskless-sync yes --repl-diskless-sync-delay 0 --requirepass "$PASSWORD" \
        --replica-announce-ip "$ADDRESS" --masterauth "$PASSWORD" $4 2>&1 &
    echo $! >"$1/pid-$2"
}
sentinel() {
    mkdir -p "$1/$2"
    {
        echo "port $3"
        echo "bind $ADDRESS"
        echo "dir $1/$2"
        echo "protected-mode no"
        echo "requirepass $SENTINEL_PASSWORD"
        echo "sentinel announce-ip $ADDRESS"
        echo "sentinel sentinel-pass $SENTINEL_PASSWORD"
        echo "sentinel monitor theirs $ADDRESS $4 2"
        echo "sentinel auth-pass theirs $PASSWORD"
        echo "sentinel down-after-milliseconds theirs 500"
        echo "sentinel failover-timeout theirs 2000"
    } >"$1/$2.conf"
    "$REDIS_SERVER" "$1/$2.conf" --sentinel >/dev/null 2>&1 &
    echo $! >"$1/pid-$2"
}
down() {
    kill -KILL "$(cat "$1/pid-$2")"
    wait "$(cat "$1/pid-$2")" 2>/dev/null
    rm "$1/pid-$2"
}
# Until a command of the port $2 with the password $1 says a line that is $3.
until_says() {
    password=$1; port=$2; line=$3; shift 3
    tries=0
    until "$REDIS_CLI" -h "$ADDRESS" -p "$port" -a "$password" --no-auth-warning "$@" 2>/dev/null | tr -d '\r' |
        grep -q -x "$line"; do
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] || exit 1
        sleep 0.05
    done
}
set -- "$1" $PORTS
server "$1" 0 "$2" ""
until_says "$PASSWORD" "$2" PONG ping
server "$1" 1 "$3" "--replicaof $ADDRESS $2"
until_says "$PASSWORD" "$3" master_link_status:up info replication
until_says "$PASSWORD" "$2" connected_slaves:1 info replication
sentinel "$1" 2 "$4" "$2"
sentinel "$1" 3 "$5" "$2"
sentinel "$1" 4 "$6" "$2"
for port in "$4" "$5" "$6"; do
    until_says "$SENTINEL_PASSWORD" "$port" '.*status=ok,.*slaves=1,sentinels=3' info sentinel
done
echo watched
while read -r order one; do
    case "$order" in
        stop) down "$1" "$one"; echo down ;;
        await)
            for port in "$4" "$5" "$6"; do
                until_says "$SENTINEL_PASSWORD" "$port" "$one" sentinel get-master-addr-by-name theirs
            done
            echo agreed ;;
    esac
done
for which in 0 1 2 3 4; do
    [ -f "$1/pid-$which" ] && down "$1" "$which"
done
cd /; rm -rf "$1"
"#;

/// What the servers ask for.
pub(crate) const PASSWORD: &str = "of-the-servers";

/// What the sentinels ask for.
pub(crate) const SENTINEL_PASSWORD: &str = "of-the-sentinels";

/// What the sentinels call the master.
pub(crate) const SERVICE: &str = "theirs";

/// Running servers and their sentinels; stopped and removed when dropped.
#[derive(Debug)]
pub(crate) struct RedisSentinel {
    folder: PathBuf,
    address: Ipv4Addr,
    ports: [u16; 5],
    server: Supervised,
}

impl RedisSentinel {
    /// Starts them and waits until every sentinel knows both servers and the other sentinels.
    pub(crate) fn private() -> Self {
        let owner = Owner::unprivileged();
        let (folder, address) = (owner.folder("pc-redis-"), own_address());
        let held: Vec<_> = (0..5).map(|_| TcpListener::bind((address, 0)).expect("a free port")).collect();
        let ports = [0, 1, 2, 3, 4].map(|index: usize| held[index].local_addr().expect("it is bound").port());
        drop(held);
        let server = program("redis-server", &[], "redis-server").display().to_string();
        let asker = program("redis-cli", &[], "redis-tools").display().to_string();
        let words: Vec<_> = ports.iter().map(u16::to_string).collect();
        let script = format!(
            "REDIS_SERVER='{server}'\nREDIS_CLI='{asker}'\nADDRESS='{address}'\nPORTS='{}'\nPASSWORD='{PASSWORD}'\n\
             SENTINEL_PASSWORD='{SENTINEL_PASSWORD}'\n{SCRIPT}",
            words.join(" ")
        );
        let server = Supervised::start(owner, &script, &folder, "watched");
        Self { folder, address, ports, server }
    }

    /// Host and port of each sentinel.
    pub(crate) fn sentinels(&self) -> Vec<(String, u16)> {
        self.addresses()[2..].to_vec()
    }

    /// Host and port of both servers, and then of each sentinel.
    pub(crate) fn addresses(&self) -> Vec<(String, u16)> {
        self.ports.iter().map(|port| (self.address.to_string(), *port)).collect()
    }

    /// For `shared_state.redis.url`: how the servers are reached, but not where.
    pub(crate) fn url() -> String {
        format!("redis://:{PASSWORD}@{SERVICE}")
    }

    /// Kills a server (0, 1) or sentinel (2 to 4) as a crash would.
    pub(crate) fn stop(&mut self, which: usize) {
        self.server.order(&format!("stop {which}"), "down");
    }

    /// Waits until every sentinel names this server; all sentinels must live.
    pub(crate) fn await_master(&mut self, server: usize) {
        self.server.order(&format!("await {}", self.ports[server]), "agreed");
    }

    /// Freezes a server or sentinel: connections stay open and nothing answers.
    pub(crate) fn pause(&self, which: usize) {
        self.signal(which, Signal::STOP);
    }

    /// Thaws it.
    pub(crate) fn resume(&self, which: usize) {
        self.signal(which, Signal::CONT);
    }

    fn signal(&self, which: usize, signal: Signal) {
        let text = fs::read_to_string(self.folder.join(format!("pid-{which}"))).expect("it is running");
        let pid: i32 = text.trim().parse().expect("a process id");
        kill_process(Pid::from_raw(pid).expect("a process id"), signal).expect("it is running");
    }
}
