//! A real service in a process of its own: a Python program of one of the environments that `make test` makes.

use std::{
    env, fs,
    future::Future,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{interval, timeout},
};

use crate::harness::binary::follow;

/// How long a large Python program may take to come up, or to do what it does in the background, before the test fails.
const PATIENCE: Duration = Duration::from_mins(3);

/// The interpreter that `variable` names, in this folder of the repository, with nothing of our environment.
pub(crate) fn python(variable: &str, folder: &str) -> Command {
    #[expect(clippy::disallowed_methods, reason = "a test's own environment")]
    let (python, path) = (env::var_os(variable), env::var_os("PATH").unwrap_or_default());
    let python = python.unwrap_or_else(|| panic!("{variable} names a Python of scripts/python-env: run `make test`"));
    let mut command = Command::new(python);
    command.env_clear().env("PATH", path).env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONUNBUFFERED", "1");
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
    command
}

/// Waits for what a peer takes its time for.
pub(crate) async fn patiently<F: Future>(what: &str, future: F) -> F::Output {
    let Ok(output) = timeout(PATIENCE, future).await else { panic!("waited {PATIENCE:?} in vain for {what}") };
    output
}

/// A running service; killed when dropped.
pub(crate) struct Peer {
    child: Child,
    log: watch::Receiver<Vec<String>>,
}

impl Peer {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let log = watch::Sender::new(Vec::new());
        let lines = log.subscribe();
        follow(child.stdout.take().expect("piped"), log.clone());
        follow(child.stderr.take().expect("piped"), log);
        Self { child, log: lines }
    }

    /// On a socket of ours, its standard input: who connects before it is up waits in the socket's queue.
    pub(crate) fn on_socket(command: &mut Command) -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it has one");
        (Self::start(command.stdin(Stdio::from(OwnedFd::from(listener)))), address)
    }

    /// Waits until it has written a line that holds `words`.
    pub(crate) async fn logged(&self, words: &str) {
        let mut lines = self.log.clone();
        let told = lines.wait_for(|lines| lines.iter().any(|line| line.contains(words)));
        let told = patiently(words, told).await.is_ok();
        assert!(told, "it ended before it said {words}: {:#?}", *self.log.borrow());
    }

    /// Where it listens, for a program that takes no socket of ours: port 0 was asked for, and the kernel knows which
    /// it became. It tells nobody when, so it is asked until then.
    pub(crate) async fn listens_at(&self) -> SocketAddr {
        let mut asking = interval(Duration::from_millis(10));
        let port = patiently("it to listen", async {
            loop {
                asking.tick().await;
                if let Some(port) = self.port() {
                    return port;
                }
            }
        });
        SocketAddr::from(([127, 0, 0, 1], port.await))
    }

    fn port(&self) -> Option<u16> {
        let folder = format!("/proc/{}/fd", self.child.id());
        let open: Vec<_> = fs::read_dir(folder)
            .expect("it runs")
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()?.to_str().map(str::to_owned))
            .collect();
        let table = fs::read_to_string("/proc/net/tcp").expect("Linux");
        table.lines().find_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            // sl local_address rem_address st … inode: 0A is LISTEN.
            let ours = fields.get(3) == Some(&"0A") && open.contains(&format!("socket:[{}]", fields.get(9)?));
            ours.then(|| u16::from_str_radix(fields[1].rsplit(':').next()?, 16).ok())?
        })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
