//! Redis for tests: one private server, on a UNIX socket, keeping nothing.

use std::path::PathBuf;

use super::{Owner, Supervised, program};

/// `$1` is the folder.
const SCRIPT: &str = r#"
"$REDIS_SERVER" --port 0 --unixsocket "$1/redis.sock" --dir "$1" --save '' --appendonly no --daemonize no 2>&1 &
server=$!
read -r word
kill -KILL "$server"
cd /; rm -rf "$1"
"#;

/// A running server; stopped and removed when dropped.
#[derive(Debug)]
pub(crate) struct Redis {
    folder: PathBuf,
    _server: Supervised,
}

impl Redis {
    /// Starts one and waits until it takes connections.
    pub(crate) fn private() -> Self {
        let owner = Owner::unprivileged();
        let folder = owner.folder("pc-redis-");
        let script = format!("REDIS_SERVER='{}'\n{SCRIPT}", program("redis-server", &[], "redis-server").display());
        let server = Supervised::start(owner, &script, &folder, "eady to accept connections");
        Self { folder, _server: server }
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("redis.sock")
    }
}
