//! PostgreSQL for tests: one cluster a process for everybody, private ones for tests that hurt theirs.

use std::{
    fs,
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Owner, Supervised, program};

/// `$1` is the folder, `$BIN` where the programs are. `pg_ctl` waits until the server answers or is gone.
/// When the tests are gone there is nobody to read what it prints; it must clean up all the same.
const SCRIPT: &str = r#"
trap '' PIPE
"$BIN/initdb" -D "$1/data" -U portcullis --auth=trust --no-sync --no-locale --encoding=UTF8 >"$1/initdb" 2>&1 \
    || { cat "$1/initdb"; cd /; rm -rf "$1"; exit 1; }
up() {
    "$BIN/pg_ctl" -D "$1/data" -l "$1/log" -s -w -o "-c unix_socket_directories='$1' -c listen_addresses='' \
        -c fsync=off -c full_page_writes=off -c shared_buffers=32MB -c max_connections=300" start 2>&1 \
        || { cat "$1/log"; exit 1; }
    echo up
}
down() {
    [ -f "$1/data/postmaster.pid" ] || return
    kill -CONT "$(head -n 1 "$1/data/postmaster.pid")"
    "$BIN/pg_ctl" -D "$1/data" -m immediate -s -w stop 2>&1
}
up "$1"
while read -r order; do
    case "$order" in
        stop) down "$1"; echo down ;;
        start) up "$1" ;;
    esac
done
down "$1"
cd /; rm -rf "$1"
"#;
const USER: &str = "portcullis";

/// A running cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    owner: Owner,
    folder: PathBuf,
    server: Supervised,
    databases: AtomicU32,
}

/// A database of one test.
#[derive(Debug)]
pub(crate) struct Database {
    /// `postgres://…`, over a UNIX socket.
    pub(crate) url: String,
}

/// The cluster that all tests of this process share; stopped and removed when the process ends.
pub(crate) fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::private)
}

fn installed(name: &str) -> PathBuf {
    let mut versions: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .map(|folders| folders.flatten().map(|folder| folder.path().join("bin")).collect())
        .unwrap_or_default();
    versions.sort_unstable_by(|one, other| other.cmp(one));
    program(name, &versions, "postgresql")
}

impl Cluster {
    /// A cluster for one test that stops, pauses or breaks it; stopped and removed when dropped.
    pub(crate) fn private() -> Self {
        let owner = Owner::unprivileged();
        let folder = owner.folder("pc-pg-");
        let initdb = installed("initdb");
        let bin = initdb.parent().expect("a program lies in a folder");
        let script = format!("BIN='{}'\n{SCRIPT}", bin.display());
        let server = Supervised::start(owner, &script, &folder, "up");
        Self { owner, folder, server, databases: AtomicU32::new(0) }
    }

    /// A fresh, empty database.
    pub(crate) fn create_database(&self) -> Database {
        let name = format!("t{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let output = self
            .owner
            .command(installed("createdb"))
            .arg("-h")
            .arg(&self.folder)
            .args(["-U", USER, &name])
            .current_dir(&self.folder)
            .output();
        let output = output.expect("createdb runs");
        assert!(output.status.success(), "createdb failed: {}", String::from_utf8_lossy(&output.stderr));
        Database { url: format!("postgres://{USER}@localhost/{name}?host={}", self.folder.display()) }
    }

    /// Kills the server as a crash would; connections break.
    pub(crate) fn stop(&mut self) {
        self.server.order("stop", "down");
    }

    /// Starts it again and waits until it answers.
    pub(crate) fn start(&mut self) {
        self.server.order("start", "up");
    }

    /// Freezes every process of it: connections stay open and nothing answers.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Thaws it.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// To the postmaster first (so that it starts no more), then to all it has started.
    fn signal(&self, signal: Signal) {
        let text = fs::read_to_string(self.folder.join("data/postmaster.pid")).expect("it is running");
        let postmaster: i32 = text.lines().next().and_then(|line| line.parse().ok()).expect("a process id");
        let _ = kill_process(Pid::from_raw(postmaster).expect("a process id"), signal);
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
            // pid (name) state ppid …; the name may hold anything, a closing bracket included.
            let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
            if parent == Some(postmaster) {
                let _ = kill_process(Pid::from_raw(pid).expect("a process id"), signal);
            }
        }
    }
}
