//! Redis for tests: one private server, on a UNIX socket, keeping nothing.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Owner, Supervised, program};

/// `$1` is the folder. The server takes connections before it says so, so its first line of that kind is waited for.
const SCRIPT: &str = r#"
trap '' PIPE
up() {
    "$REDIS_SERVER" --port 0 --unixsocket "$1/redis.sock" --dir "$1" --save '' --appendonly no --daemonize no \
        --pidfile "$1/pid" --requirepass "$PASSWORD" 2>&1 &
    server=$!
}
down() {
    [ -n "$server" ] || return
    kill -KILL "$server"
    wait "$server" 2>/dev/null
    rm -f "$1/redis.sock"
    server=
}
up "$1"
echo "$server" >"$1/pid"
while read -r order; do
    case "$order" in
        stop) down "$1"; echo down ;;
        start) up "$1"; echo "$server" >"$1/pid" ;;
    esac
done
down "$1"
cd /; rm -rf "$1"
"#;

/// A running server; stopped and removed when dropped.
#[derive(Debug)]
pub(crate) struct Redis {
    folder: PathBuf,
    password: &'static str,
    server: Supervised,
}

/// What a server says when it can be used.
const READY: &str = "eady to accept connections";

impl Redis {
    /// Starts one and waits until it takes connections.
    pub(crate) fn private() -> Self {
        Self::with_password("")
    }

    /// The same, for those who know the password.
    pub(crate) fn with_password(password: &'static str) -> Self {
        let owner = Owner::unprivileged();
        let folder = owner.folder("pc-redis-");
        let program = program("redis-server", &[], "redis-server");
        let script = format!("REDIS_SERVER='{}'\nPASSWORD='{password}'\n{SCRIPT}", program.display());
        let server = Supervised::start(owner, &script, &folder, READY);
        Self { folder, password, server }
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("redis.sock")
    }

    /// For `shared_state.redis.url`.
    pub(crate) fn url(&self) -> String {
        let password = if self.password.is_empty() { String::new() } else { format!("?pass={}", self.password) };
        format!("redis+unix://{}{password}", self.socket().display())
    }

    /// Kills it as a crash would; connections break, and all it held is gone.
    pub(crate) fn stop(&mut self) {
        self.server.order("stop", "down");
    }

    /// Starts it again, empty, and waits until it answers.
    pub(crate) fn start(&mut self) {
        self.server.order("start", READY);
    }

    /// Freezes it: connections stay open and nothing answers.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Thaws it.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let text = fs::read_to_string(self.folder.join("pid")).expect("it is running");
        let pid: i32 = text.trim().parse().expect("a process id");
        kill_process(Pid::from_raw(pid).expect("a process id"), signal).expect("it is running");
    }

    /// What it answers to one command, as it stands on the wire (RESP2), without what logging in says.
    pub(crate) fn ask(&self, words: &[&str]) -> String {
        let mut stream = UnixStream::connect(self.socket()).expect("it takes connections");
        let command = |words: &[&str]| {
            let words = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
            format!("*{}\r\n{}", words.len(), words.collect::<String>())
        };
        let login = if self.password.is_empty() { String::new() } else { command(&["AUTH", self.password]) };
        // It answers in order, and closes after QUIT.
        let text = format!("{login}{}{}", command(words), command(&["QUIT"]));
        stream.write_all(text.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers text");
        let answer = answer.strip_suffix("+OK\r\n").expect("it says goodbye");
        if login.is_empty() { answer } else { answer.strip_prefix("+OK\r\n").expect("it lets us in") }.to_owned()
    }
}
