//! nginx for tests: the `server` and `upstream` blocks of one file, on a socket that listens already.

use std::{fs, net::TcpListener, path::PathBuf};

use crate::support::{Owner, Supervised, program};

/// `$1` is the folder. nginx takes the socket over as it does from an older process of its own when it is upgraded: by
/// its number in `NGINX`. So its port is known beforehand, and what connects before nginx is up waits in the queue.
const SCRIPT: &str = r#"
trap '' PIPE
exec 9>&2 2>&1
export NGINX='9;'
set -- "$1" -p "$1/" -c "$1/nginx.conf" -e stderr
folder=$1
shift
"$PROGRAM" "$@" -t || { cd /; rm -rf "$folder"; exit 1; }
"$PROGRAM" "$@" </dev/null &
server=$!
exec 9>&-
echo up
while read -r order; do :; done
kill -TERM "$server"
wait "$server"
cd /; rm -rf "$folder"
"#;

/// What stands around the blocks: Debian's nginx.conf, but for places where only root may write.
const AROUND: &str = "\
daemon off;
pid nginx.pid;
error_log stderr;
worker_processes 1;
events {}
http {
    access_log off;
    client_body_temp_path client;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    scgi_temp_path scgi;
    uwsgi_temp_path uwsgi;
    include site.conf;
}
";

/// A running nginx; stopped and removed when dropped.
#[derive(Debug)]
pub(crate) struct Nginx {
    _server: Supervised,
}

/// A folder for one nginx, with the files its blocks name.
#[derive(Debug)]
pub(crate) struct Beside {
    owner: Owner,
    folder: PathBuf,
}

impl Beside {
    pub(crate) fn new() -> Self {
        let owner = Owner::unprivileged();
        Self { owner, folder: owner.folder("pc-nginx-") }
    }

    /// Writes a file; gives its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.join(name);
        fs::write(&path, text).expect("a file in a folder of ours");
        path.to_str().expect("a plain path").to_owned()
    }

    /// Starts nginx with these blocks; the port they listen on is the listener's.
    pub(crate) fn start(self, blocks: &str, listener: TcpListener) -> Nginx {
        self.file("nginx.conf", AROUND);
        self.file("site.conf", blocks);
        let program = program("nginx", &["/usr/sbin".into()], "nginx");
        let script = format!("PROGRAM='{}'\n{SCRIPT}", program.display());
        Nginx { _server: Supervised::with_socket(self.owner, &script, &self.folder, "up", Some(listener)) }
    }
}
