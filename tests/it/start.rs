//! What an operator sees: every configuration we ship starts, a broken one never does, the commands say what they
//! promise, and a stop lets requests finish.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use portcullis::{
    app::{App, Rim},
    config::{self, Source},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    harness::{
        binary::{self, Binary},
        client::Client,
        gateway::MASTER_KEY,
        invariants::Invariants,
        raw::Raw,
        soon,
        tls::Authority,
        upstream::{Refusing, Upstream},
    },
    support::{postgres, redis::Redis},
};

fn shipped() -> Vec<PathBuf> {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let yaml = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "yaml");
    let folder = |folder: PathBuf| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = folder(config.clone()).chain(folder(config.join("examples"))).filter(yaml).collect();
    files.sort();
    files
}

/// A folder with what the examples expect beside them, and an authority that made the certificates.
fn beside() -> (TempDir, Authority) {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let certified = authority.certify("localhost");
    fs::create_dir(folder.path().join("tls")).unwrap();
    for (name, text) in [("chain", certified.certificate.as_str()), ("key", &certified.key), ("ca", authority.pem())] {
        fs::write(folder.path().join(format!("tls/{name}.pem")), text).unwrap();
    }
    (folder, authority)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_configuration_we_ship_starts_and_answers() {
    let files = shipped();
    assert!(files.len() >= 5, "{files:?}");
    let redis = Redis::private();
    for file in files {
        let (folder, authority) = beside();
        let variables = HashMap::from(
            [
                ("DATABASE_URL", postgres::cluster().create_database().url.as_str()),
                ("PORTCULLIS_MASTER_KEY", MASTER_KEY),
                ("PUBLIC_URL", "https://rag.example.com"),
                ("REDIS_URL", redis.url().as_str()),
                ("PORTCULLIS_DEMO_DATA", "data"),
                // Nobody there: keys are fetched in the background.
                ("ISSUER_URL", "http://127.0.0.1:9"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let text = fs::read_to_string(&file).unwrap();
        let name = file.display().to_string();
        let source = Source { name: &name, text: &text, base_dir: folder.path() };
        let mut settings = config::parse(&source, &variables).unwrap_or_else(|errors| panic!("{errors}"));
        let https = settings.listeners.public.tls.is_some();
        settings.listeners.public.bind = "127.0.0.1:0".parse().unwrap();
        settings.listeners.admin = "127.0.0.1:0".parse().unwrap();
        let running = soon(&name, App::start(settings, Arc::default(), Rim::system())).await;
        let running = running.unwrap_or_else(|fault| panic!("{name}: {fault}"));

        let (port, invariants) = (running.public_addr().port(), Arc::<Invariants>::default());
        let client = if https {
            Client::tls(&format!("https://localhost:{port}"), &invariants, authority.pem())
        } else {
            Client::new(&format!("http://127.0.0.1:{port}"), &invariants)
        };
        let keys = client.get("/.well-known/jwks.json").send().await.expect(200).json();
        assert_eq!(keys["keys"].as_array().unwrap().len(), 1, "{name}");
        let live = reqwest::Client::builder().no_proxy().build().unwrap();
        let live = live.get(format!("http://{}/livez", running.admin_addr())).send().await.unwrap();
        assert_eq!(live.status(), 200, "{name}");
        soon("the gateway to stop", running.stop()).await;
    }
}

/// A configuration file in a folder of its own.
struct Project {
    folder: TempDir,
    environment: HashMap<String, String>,
}

impl Project {
    fn new(yaml: &str) -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("gateway.yaml"), yaml).unwrap();
        Self { folder, environment: HashMap::new() }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("gateway.yaml")
    }

    async fn serve(&self) -> Binary {
        Binary::serve(&self.file(), &self.environment).await
    }

    /// Runs a command to its end: exit code, standard output, standard error.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = binary::run(arguments, &self.environment);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }
}

fn good(upstream: &str, listeners: &str) -> String {
    format!(
        "listeners: {{public: {{bind: \"127.0.0.1:0\"}}, admin: {{bind: \"127.0.0.1:0\"}}{listeners}}}\n\
         tokens: {{issuer: \"https://gw.test\"}}\npasswords: {{hash_threads: 1}}\n\
         clusters: {{rag: {{endpoints: [\"{upstream}\"]}}}}\nroutes:\n  \
         - {{name: it, match: {{path: \"/open/{{*rest}}\"}}, auth: none, cluster: rag}}\n"
    )
}

#[tokio::test]
async fn a_broken_configuration_exits_64_before_a_port_is_bound() {
    // Had it tried to bind, it would have failed with another code: the port is taken.
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let yaml = format!(
        "listeners: {{public: {{bind: \"{address}\"}}}}\ntokens: {{isuer: \"https://gw.test\"}}\n\
         clusters: {{rag: {{endpoints: [\"http://127.0.0.1:1\"]}}}}\nroutes:\n  \
         - {{name: it, match: {{path: /a}}, cluster: rga}}\n"
    );
    let project = Project::new(&yaml);
    let file = project.file();
    let file = file.to_str().unwrap();
    for arguments in [&["serve", "--config", file][..], &["check", file]] {
        let (code, _, told) = project.run(arguments);
        assert_eq!(code, Some(64), "{told}");
        // Both mistakes at once, each with its place, its key and the nearest word.
        assert!(told.contains(":2:") && told.contains("isuer") && told.contains("issuer"), "{told}");
        assert!(told.contains(":5:") && told.contains("rga") && told.contains("rag"), "{told}");
    }
    assert!(!project.folder.path().join("data").exists(), "a broken configuration leaves no files behind");
    let (code, _, told) = project.run(&["serve", "--config", "/nowhere/gateway.yaml"]);
    assert_eq!(code, Some(64), "{told}");
}

#[tokio::test]
async fn a_good_configuration_passes_the_check_and_starts_nothing() {
    let project = Project::new(&good("http://127.0.0.1:1", ""));
    let (code, _, told) = project.run(&["check", project.file().to_str().unwrap()]);
    assert_eq!((code, told.as_str()), (Some(0), ""));
    assert!(!project.folder.path().join("data").exists());
}

#[tokio::test]
async fn a_port_that_is_taken_is_a_failed_start_and_says_so() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let yaml = good("http://127.0.0.1:1", "").replacen("127.0.0.1:0", &address, 1);
    let project = Project::new(&yaml);
    let (code, _, told) = project.run(&["serve", "--config", project.file().to_str().unwrap()]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains(&address), "{told}");
}

#[tokio::test]
async fn the_schema_is_printed_as_json() {
    let (code, schema, _) = Project::new("").run(&["schema"]);
    let schema: Value = serde_json::from_str(&schema).unwrap();
    assert_eq!(code, Some(0));
    assert!(schema["properties"]["routes"].is_object());
}

#[tokio::test]
async fn a_profile_that_weakens_rules_is_warned_of_at_every_start() {
    let upstream = Upstream::start().await;
    let warns = async |yaml: &str| {
        let project = Project::new(yaml);
        // Said before it serves, so it is there once it does.
        let log = project.serve().await.log();
        log.iter().any(|line| line.contains("\"WARN\"") && line.contains("portal.compat: fastapi is on"))
    };
    let plain = good(&upstream.url(), "");
    assert!(!warns(&plain).await);
    assert!(warns(&format!("{plain}portal: {{compat: fastapi}}\n")).await);
}

#[tokio::test]
async fn health_says_whether_a_gateway_lives() {
    let upstream = Upstream::start().await;
    let project = Project::new(&good(&upstream.url(), ""));
    let gateway = project.serve().await;
    let admin = gateway.admin.to_string();
    assert_eq!(project.run(&["health", "--admin", &admin]).0, Some(0));
    let refusing = Refusing::new();
    let nobody = refusing.url().replace("http://", "");
    assert_eq!(project.run(&["health", "--admin", &nobody]).0, Some(1));
}

#[tokio::test]
async fn sigterm_lets_the_request_in_flight_finish_and_takes_no_new_one() {
    let upstream = Upstream::start().await;
    upstream.hold("/open/a");
    let project = Project::new(&good(&upstream.url(), ", drain: 20s"));
    let gateway = project.serve().await;
    let mut idle = Raw::connect(gateway.public, &gateway.invariants).await;
    idle.send("GET /open/idle HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(idle.answer().await.unwrap().status, 200);
    let client = gateway.client();
    let asking = tokio::spawn(async move { client.get("/open/a").open().await });
    let mut held = upstream.held().await;
    held.begin(200, &[]).await;
    let mut answer = asking.await.unwrap();

    gateway.terminate();
    // The drain has begun: who has nothing to wait for is closed, and nobody listens any more.
    assert_eq!(idle.closed().await, b"");
    assert!(tokio::net::TcpStream::connect(gateway.public).await.is_err(), "somebody still listens");
    for n in 0..100 {
        held.chunk(&format!("{n}")).await;
        assert_eq!(answer.chunk().await, Ok(Some(n.to_string())));
    }
    held.end(&[]).await;
    assert_eq!(answer.chunk().await, Ok(None));
    assert_eq!(gateway.ended().await.0, Some(0));
}

#[tokio::test]
async fn a_drain_that_takes_too_long_cuts_and_still_ends() {
    let upstream = Upstream::start().await;
    upstream.hold("/open/a");
    let project = Project::new(&good(&upstream.url(), ", drain: 100ms"));
    let gateway = project.serve().await;
    let mut raw = Raw::connect(gateway.public, &gateway.invariants).await;
    raw.send("GET /open/a HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    let held = upstream.held().await;
    gateway.terminate();
    assert_eq!(raw.closed().await, b"");
    held.given_up().await;
    assert_eq!(gateway.ended().await.0, Some(0));
}

#[tokio::test]
async fn a_second_start_finds_the_same_users_and_keys() {
    let upstream = Upstream::start().await;
    let project = Project::new(&good(&upstream.url(), ""));
    let first = project.serve().await;
    let ann = first.client().register("ann@example.org").await;
    let keys = first.client().get("/.well-known/jwks.json").send().await.expect(200).json();
    first.terminate();
    assert_eq!(first.ended().await.0, Some(0));

    let second = project.serve().await;
    let client = second.client();
    assert_eq!(client.get("/.well-known/jwks.json").send().await.expect(200).json(), keys);
    assert_eq!(client.login("ann@example.org").await.user["id"], ann.user["id"]);
    client.get("/auth/me").bearer(&ann.access).send().await.expect(200);
}

#[tokio::test]
async fn a_lost_or_wrong_master_key_never_makes_a_new_one() {
    let upstream = Upstream::start().await;
    let project = Project::new(&good(&upstream.url(), ""));
    let first = project.serve().await;
    first.terminate();
    first.ended().await;

    let key = project.folder.path().join("data/master.key");
    let kept = fs::read_to_string(&key).unwrap();
    fs::remove_file(&key).unwrap();
    let file = project.file();
    let serve = ["serve", "--config", file.to_str().unwrap()];
    let (code, _, told) = project.run(&serve);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("master.key") && !key.exists(), "{told}");

    let other = Project::new(&good(&upstream.url(), ""));
    let stranger = other.serve().await;
    fs::copy(other.folder.path().join("data/master.key"), &key).unwrap();
    drop(stranger);
    let (code, _, told) = project.run(&serve);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("master key") && !told.contains(kept.trim()), "{told}");

    fs::write(&key, &kept).unwrap();
    project.serve().await;
}
