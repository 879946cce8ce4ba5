//! The built program as an operator meets it: arguments, exit code, signals, log lines, memory.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::Arc,
};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde_json::Value;
use tokio::sync::watch;

use crate::harness::{client::Client, invariants::Invariants, soon};

/// Runs it to its end.
pub(crate) fn run(arguments: &[&str], environment: &HashMap<String, String>) -> Output {
    command(environment).args(arguments).output().unwrap()
}

fn command(environment: &HashMap<String, String>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    // Nothing of the machine's own environment: what the configuration may use is what the test says.
    command.env_clear().envs(environment).stdin(Stdio::null());
    command
}

/// A gateway in a process of its own.
pub(crate) struct Binary {
    pid: Pid,
    log: watch::Receiver<Vec<String>>,
    exit: watch::Receiver<Option<ExitStatus>>,
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) invariants: Arc<Invariants>,
}

impl Binary {
    /// Serves this file; gives up the test when it does not.
    pub(crate) async fn serve(config: &Path, environment: &HashMap<String, String>) -> Self {
        let mut child = command(environment)
            .arg("serve")
            .arg("--config")
            .arg(config)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        let log = watch::Sender::new(Vec::new());
        let mut lines = log.subscribe();
        follow(child.stdout.take().unwrap(), log.clone());
        follow(child.stderr.take().unwrap(), log);
        let exit = exit_of(child);
        let is_serving = |line: &&String| line.contains("\"serving\"") || line.contains(" serving public=");
        let serving = |lines: &Vec<String>| lines.iter().any(|line| is_serving(&line));
        let told = soon("the program to serve", lines.wait_for(serving)).await.map(|lines| lines.clone());
        let Ok(told) = told else { panic!("it ended: {:#?}", *lines.borrow()) };
        let line = told.iter().find(is_serving).unwrap();
        let (public, admin) = (address(line, "public"), address(line, "admin"));
        Self { pid, log: lines, exit, public, admin, invariants: Arc::default() }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&format!("http://{}", self.public), &self.invariants)
    }

    /// Every line it has written so far, to standard output and error alike.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.borrow().clone()
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        kill_process(self.pid, Signal::TERM).unwrap();
    }

    /// SIGHUP.
    pub(crate) fn hang_up(&self) {
        kill_process(self.pid, Signal::HUP).unwrap();
    }

    /// It gets no new file descriptor, for a log, a connection or a file it reads, until the guard is dropped.
    pub(crate) fn without_descriptors(&self) -> Descriptors {
        let none = Rlimit { current: Some(0), ..getrlimit(Resource::Nofile) };
        Descriptors(self.pid, prlimit(Some(self.pid), Resource::Nofile, none).unwrap())
    }

    /// Waits until it has written a line that fits, and gives it.
    pub(crate) async fn logged(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let mut lines = self.log.clone();
        let told = soon(what, lines.wait_for(|lines| lines.iter().any(|line| fits(line)))).await;
        let told = told.map_or_else(|_| panic!("it ended: {:#?}", self.log()), |lines| lines.clone());
        told.into_iter().find(|line| fits(line)).unwrap()
    }

    /// Waits for its end; gives exit code and everything it wrote.
    pub(crate) async fn ended(mut self) -> (Option<i32>, Vec<String>) {
        let status = soon("the program to end", self.exit.wait_for(Option::is_some)).await.unwrap().unwrap();
        // The pipes close with the process; what is in them still has to be read.
        while soon("the end of its log", self.log.changed()).await.is_ok() {}
        (status.code(), self.log())
    }

    /// Resident memory, KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most resident memory it ever had, KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(&self, field: &str) -> u64 {
        let path = PathBuf::from(format!("/proc/{}/status", self.pid.as_raw_nonzero()));
        let text = std::fs::read_to_string(path).unwrap();
        let line = text.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// See [`Binary::without_descriptors`].
pub(crate) struct Descriptors(Pid, Rlimit);

impl Drop for Descriptors {
    fn drop(&mut self) {
        let _ = prlimit(Some(self.0), Resource::Nofile, self.1);
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        if self.exit.borrow().is_none() {
            let _ = kill_process(self.pid, Signal::KILL);
        }
    }
}

/// Gathers the lines of a stream as they come.
pub(crate) fn follow(stream: impl Read + Send + 'static, log: watch::Sender<Vec<String>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            log.send_modify(|lines| lines.push(line));
        }
    });
}

fn exit_of(mut child: Child) -> watch::Receiver<Option<ExitStatus>> {
    let (sender, receiver) = watch::channel(None);
    std::thread::spawn(move || sender.send_replace(child.wait().ok()));
    receiver
}

/// An address in a log line, JSON or text.
fn address(line: &str, name: &str) -> SocketAddr {
    let Ok(value) = serde_json::from_str::<Value>(line) else {
        let found = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        return found.unwrap_or_else(|| panic!("no {name} in {line}")).parse().unwrap();
    };
    let found = value.get(name).or_else(|| value["fields"].get(name));
    found.and_then(Value::as_str).unwrap_or_else(|| panic!("no {name} in {line}")).parse().unwrap()
}
