//! Servers for tests, started from installed binaries and gone when the test process is, however it ends.
//!
//! Each server runs under a small shell that waits on a pipe from the test process: when the pipe closes (the end,
//! a panic, SIGKILL), the shell stops the server and removes its folder. Sockets are UNIX ones in private folders, so
//! there are no ports to collide. Works as root too: the servers that refuse root run as an unprivileged user.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::{
        fd::OwnedFd,
        unix::{fs::chown, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, mpsc},
    thread,
};

pub(crate) mod postgres;
pub(crate) mod redis;
pub(crate) mod redis_cluster;
pub(crate) mod redis_sentinel;

/// Whom the servers run as: `None` is ourselves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner(Option<(u32, u32)>);

impl Owner {
    /// An unprivileged user: ourselves, unless we are root.
    pub(crate) fn unprivileged() -> Self {
        if !rustix::process::geteuid().is_root() {
            return Self(None);
        }
        let users = fs::read_to_string("/etc/passwd").expect("/etc/passwd tells the users");
        let ids = |name: &str| {
            let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
            let mut fields = line.split(':').skip(2);
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        };
        let ids = ["postgres", "nobody"].into_iter().find_map(ids);
        Self(Some(ids.expect("as root, the tests need a user `postgres` or `nobody` to run servers as")))
    }

    /// A command that will run as this user.
    pub(crate) fn command(self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        if let Self(Some((uid, gid))) = self {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// A fresh folder that belongs to this user. Whoever starts the server removes it.
    pub(crate) fn folder(self, prefix: &str) -> PathBuf {
        let folder = tempfile::Builder::new().prefix(prefix).tempdir().expect("a temporary folder").keep();
        if let Self(Some((uid, gid))) = self {
            chown(&folder, Some(uid), Some(gid)).expect("root may give a folder away");
        }
        folder
    }
}

/// Finds an installed program in `PATH` or one of `more`.
///
/// # Panics
/// When it is not installed: a test that needs it fails, it is never skipped.
pub(crate) fn program(name: &str, more: &[PathBuf], package: &str) -> PathBuf {
    let path = Command::new("sh").args(["-c", "printf %s \"$PATH\""]).output().expect("sh runs").stdout;
    let path = String::from_utf8_lossy(&path).into_owned();
    std::env::split_paths(&path)
        .chain(more.iter().cloned())
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("`{name}` is not installed; the tests need it: apt-get install {package}"))
}

/// A server and the shell that outlives us just long enough to stop it.
#[derive(Debug)]
pub(crate) struct Supervised {
    shell: Child,
    /// Takes the script's orders; closing it ends the script.
    pipe: Option<ChildStdin>,
    /// What the script prints; the lock only makes it shareable.
    told: Mutex<mpsc::Receiver<String>>,
}

impl Supervised {
    /// Runs `script` (`$1` is the folder) and waits until it prints a line that holds `ready`. The script must stop
    /// the server and remove the folder when its stdin ends.
    ///
    /// # Panics
    /// When it ends before that, with the script's last words.
    pub(crate) fn start(owner: Owner, script: &str, folder: &Path, ready: &str) -> Self {
        Self::with_socket(owner, script, folder, ready, None)
    }

    /// The same; the script has a socket that listens already, in place of its standard error.
    pub(crate) fn with_socket(
        owner: Owner,
        script: &str,
        folder: &Path,
        ready: &str,
        socket: Option<TcpListener>,
    ) -> Self {
        let stderr = socket.map_or_else(Stdio::inherit, |socket| Stdio::from(OwnedFd::from(socket)));
        let mut shell = owner
            .command("sh")
            .args(["-c", script, "supervisor"])
            .arg(folder)
            .current_dir(folder)
            // Out of the terminal's process group: Ctrl-C reaches the tests first, the pipe then tells the shell.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("sh runs");
        let pipe = shell.stdin.take();
        let lines = BufReader::new(shell.stdout.take().expect("stdout is piped")).lines();
        let (tell, told) = mpsc::channel();
        // Goes on reading for ever, so that a chatty server never blocks on a full pipe.
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        let mut started = Self { shell, pipe, told: Mutex::new(told) };
        started.await_line(ready);
        started
    }

    /// Gives the script an order and waits until it prints a line that holds `done`.
    pub(crate) fn order(&mut self, order: &str, done: &str) {
        let pipe = self.pipe.as_mut().expect("open until dropped");
        writeln!(pipe, "{order}").expect("the script listens");
        self.await_line(done);
    }

    fn await_line(&mut self, awaited: &str) {
        let told = self.told.get_mut().expect("not poisoned");
        let mut seen = Vec::new();
        // The channel ends when the script's output does.
        while let Ok(line) = told.recv() {
            if line.contains(awaited) {
                return;
            }
            seen.push(line);
        }
        panic!("the server's script ended before it said `{awaited}`:\n{}", seen.join("\n"));
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.shell.wait();
    }
}
