//! Front ends as people write them, in Node: axios that refreshes on 401, and `fetch` with cookies, each with a jar
//! that keeps the cookies' rules, over TLS, from the gateway's own origin, be there one gateway behind it or two. The
//! scripts are `examples/browser-clients`; they ask for the clock to be moved on. `make test` installs the packages
//! they need and names their folder in `PORTCULLIS_TEST_NODE`.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::harness::{
    gateway::Setup,
    gateways::{Deployment, Gateways},
    soon,
    tls::Authority,
    upstream::Upstream,
};

on_every_deployment!(
    axios_refreshes_on_401_and_two_tabs_may_do_so_at_once,
    fetch_with_cookies_refreshes_and_two_tabs_may_do_so_at_once,
);

fn node(script: &str) -> Command {
    #[expect(clippy::disallowed_methods, reason = "a test's own environment")]
    let packages = std::env::var_os("PORTCULLIS_TEST_NODE")
        .expect("PORTCULLIS_TEST_NODE names the folder of the packages of examples/browser-clients: run `make test`");
    let mut command = Command::new("node");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/browser-clients");
    command.arg(script).current_dir(folder).env("NODE_PATH", packages);
    command
}

/// The script's process; ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a script against the gateway's own origin, moving the clock on whenever it asks.
async fn satisfied(script: &str, gateways: &Gateways, ca: &str) {
    let folder = TempDir::new().unwrap();
    let roots = folder.path().join("ca.pem");
    std::fs::write(&roots, ca).unwrap();
    let mut command = node(script);
    command.arg(format!("https://localhost:{}", gateways.balanced().await.port())).env("NODE_EXTRA_CA_CERTS", roots);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running(command.spawn().expect("node starts"));
    let (mut answer, mut faults) = (running.0.stdin.take().unwrap(), running.0.stderr.take().unwrap());
    let said = BufReader::new(running.0.stdout.take().unwrap()).lines();
    let (tell, mut lines) = mpsc::unbounded_channel();
    let told = tokio::task::spawn_blocking(move || {
        said.for_each(|line| tell.send(line.unwrap()).unwrap());
        let mut told = String::new();
        faults.read_to_string(&mut told).unwrap();
        told
    });
    let conversation = async {
        let mut last = String::new();
        while let Some(line) = lines.recv().await {
            last = line;
            match last.as_str() {
                "an hour" => gateways.clock.advance(Duration::from_hours(1)),
                "a second" => gateways.know_what_ended().await,
                _ => continue,
            }
            answer.write_all(b"\n").unwrap();
        }
        (last, told.await.unwrap())
    };
    let (last, told) = soon("the script to end", conversation).await;
    assert!(last == "all good", "{last}\n{told}");
}

async fn gateways(deployment: Deployment, authority: &Authority, upstream: &Upstream, rest: &str) -> Gateways {
    let ours = authority.certify("localhost");
    let yaml = format!(
        "listeners:\n  public: {{bind: \"127.0.0.1:0\", tls: {{certificate: cert.pem, key: key.pem}}}}\n  \
         admin: {{bind: \"127.0.0.1:0\"}}\n\
         clusters: {{rag: {{endpoints: [\"{}\"]}}}}\n{rest}",
        upstream.url()
    );
    let files = |setup: Setup| setup.file("cert.pem", &ours.certificate).file("key.pem", &ours.key);
    Gateways::start_with(deployment, &yaml, files).await
}

async fn axios_refreshes_on_401_and_two_tabs_may_do_so_at_once(deployment: Deployment) {
    let (authority, upstream) = (Authority::new(), Upstream::start().await);
    let rest = "portal: {compat: fastapi, base_paths: [/auth, /api/auth]}\n\
                routes: [{name: ask, match: {path: \"/ask/{*rest}\"}, cluster: rag}]\n";
    let gateways = gateways(deployment, &authority, &upstream, rest).await;
    satisfied("client_axios.js", &gateways, authority.pem()).await;
}

async fn fetch_with_cookies_refreshes_and_two_tabs_may_do_so_at_once(deployment: Deployment) {
    let (authority, upstream) = (Authority::new(), Upstream::start().await);
    let rest =
        "routes: [{name: page, match: {path: \"/page/{*rest}\"}, credentials: [bearer, cookie], cluster: rag}]\n";
    let gateways = gateways(deployment, &authority, &upstream, rest).await;
    satisfied("client_fetch.js", &gateways, authority.pem()).await;
    // No token and no cookie of ours ever reached the service; who asked did.
    assert!(upstream.received().iter().all(|one| one.head.header("cookie").is_none()));
    assert!(upstream.received().iter().all(|one| one.head.header("x-user-id").is_some()));
}
