//! `portcullis keys …` with the built program, beside a gateway that runs: what operators type, and what they are told.

use std::{collections::HashMap, fs, path::PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    harness::{
        binary::{self, Binary},
        gateway::MASTER_KEY,
        identity::published,
        soon,
        upstream::Upstream,
    },
    support::postgres,
};

/// A gateway's folder and environment.
pub(crate) struct Site {
    folder: TempDir,
    pub(crate) environment: HashMap<String, String>,
}

impl Site {
    pub(crate) fn new(store: &str, upstream: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let yaml = format!(
            "listeners: {{public: {{bind: \"127.0.0.1:0\"}}, admin: {{bind: \"127.0.0.1:0\"}}}}\n\
             tokens: {{issuer: \"https://gw.test\"}}\npasswords: {{hash_threads: 1}}\n{store}\n\
             clusters: {{rag: {{endpoints: [\"{upstream}\"]}}}}\nroutes:\n  \
             - {{name: ask, match: {{path: \"/ask/{{*rest}}\"}}, cluster: rag}}\n"
        );
        fs::write(folder.path().join("gateway.yaml"), yaml).unwrap();
        let environment = [("MASTER_KEY".to_owned(), MASTER_KEY.to_owned())].into();
        Self { folder, environment }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("gateway.yaml")
    }

    /// Exit code, standard output, standard error.
    pub(crate) fn run(&self, command: &str) -> (Option<i32>, String, String) {
        let file = self.file();
        let words = command.split(' ').map(|word| if word == "gateway.yaml" { file.to_str().unwrap() } else { word });
        let output = binary::run(&words.collect::<Vec<_>>(), &self.environment);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    /// Every key's name and state.
    fn keys(&self) -> Vec<(String, String)> {
        let (code, told, fault) = self.run("keys list --config gateway.yaml --json");
        assert_eq!((code, fault.as_str()), (Some(0), ""));
        let told: Value = serde_json::from_str(&told).unwrap();
        let text = |key: &Value, name: &str| key[name].as_str().unwrap().to_owned();
        told["keys"].as_array().unwrap().iter().map(|key| (text(key, "kid"), text(key, "state"))).collect()
    }
}

pub(crate) fn on_postgres() -> String {
    let url = postgres::cluster().create_database().url;
    format!("store: {{url: \"{url}\", master_key: {{env: MASTER_KEY}}}}")
}

/// The commands that the operations page shows, in their order.
fn shown() -> Vec<String> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    let commands = page.lines().filter_map(|line| line.trim_start().strip_prefix("portcullis keys "));
    commands.map(|command| format!("keys {}", command.split(" #").next().unwrap().trim_end())).collect()
}

/// Each command of the runbooks does what the page says, on either store, and the gateway beside it follows.
async fn the_runbooks_hold(store: &str) {
    let upstream = Upstream::start().await;
    let site = Site::new(store, &upstream.url());
    let gateway = Binary::serve(&site.file(), &site.environment).await;
    let client = gateway.client();
    let session = client.register("ann@example.org").await;
    let first = site.keys().remove(0).0;
    let commands = shown();
    for wanted in ["keys list", "keys rotate --config", "keys rotate --now", "keys retire KID"] {
        assert!(commands.iter().any(|command| command.starts_with(wanted)), "the page does not show {wanted}");
    }
    for command in &commands {
        let before = site.keys();
        let current = before.iter().find(|(_, state)| state == "current").unwrap().0.clone();
        let (code, told, fault) = site.run(&command.replace("KID", &first));
        assert_eq!((code, fault.as_str()), (Some(0), ""), "{command}");
        let after = site.keys();
        let count = |state: &str| after.iter().filter(|(_, one)| one == state).count();
        assert_eq!(count("current"), 1, "{command}");
        assert!(after.iter().all(|(kid, state)| told.contains(kid) && told.contains(state)), "{command}: {told}");
        assert!(!told.contains(MASTER_KEY));
        let is_there = after.iter().any(|(kid, _)| *kid == current);
        match command.split(' ').nth(1).unwrap() {
            "list" => assert_eq!(before, after),
            "rotate" if command.contains("--now") => assert!(is_there && !after.contains(&(current, "current".into()))),
            "rotate" => assert_eq!(count("next"), 1),
            _ => assert!(is_there && !after.iter().any(|(kid, _)| *kid == first)),
        }
    }
    // The gateway holds what the table holds.
    let names: Vec<_> = site.keys().into_iter().map(|(kid, _)| kid).collect();
    assert!(!names.contains(&first), "the runbooks retire the key that signed first");
    let follows = async {
        loop {
            let set = published(&client).await;
            if set.keys.len() == names.len() && names.iter().all(|kid| set.find(kid).is_some()) {
                break;
            }
        }
    };
    soon("the gateway to publish what the store holds", follows).await;
    client.get("/ask/a").bearer(&session.access).send().await.refused(401, "invalid_token");
    let session = client.refreshed(&session.refresh).await;
    assert_eq!(client.status("/ask/a", &session.access).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_runbooks_for_keys_hold_on_sqlite() {
    the_runbooks_hold("store: {url: \"sqlite://data/test.db\"}").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_runbooks_for_keys_hold_on_postgres() {
    the_runbooks_hold(&on_postgres()).await;
}

#[tokio::test]
async fn a_command_that_cannot_be_carried_out_says_why_and_changes_nothing() {
    let upstream = Upstream::start().await;
    let mut site = Site::new(&on_postgres(), &upstream.url());
    assert_eq!(site.keys(), [], "nobody has needed one yet");
    let gateway = Binary::serve(&site.file(), &site.environment).await;
    let before = site.keys();
    let (code, told, fault) = site.run("keys retire nobody --config gateway.yaml");
    assert_eq!((code, told.as_str()), (Some(1), ""));
    assert!(fault.contains("no signing key nobody"), "{fault}");
    let (code, _, _) = site.run("keys retire --config gateway.yaml");
    assert_eq!(code, Some(2));

    let another = "eeWK66dgem/mYcFEl827wgr7Q0zNWRIHy30TjSt2OBo=";
    site.environment.insert("MASTER_KEY".to_owned(), another.to_owned());
    let retire = format!("keys retire {} --config gateway.yaml", before[0].0);
    for command in ["keys rotate --config gateway.yaml", "keys rotate --now --config gateway.yaml", &retire] {
        let (code, _, fault) = site.run(command);
        assert_eq!(code, Some(1), "{command}");
        assert!(fault.contains("master key is not the one") && !fault.contains(another), "{fault}");
    }
    site.environment.insert("MASTER_KEY".to_owned(), MASTER_KEY.to_owned());
    assert_eq!(site.keys(), before);
    drop(gateway);

    let nowhere = Site::new("store: {url: \"sqlite://data/test.db\"}", &upstream.url());
    let (code, _, fault) = nowhere.run("keys list --config gateway.yaml");
    assert!(code == Some(1) && fault.contains("test.db is not there"), "{code:?} {fault}");
    assert!(!nowhere.folder.path().join("data").exists(), "a look makes no database");
    let storeless = Site::new("store: {url: none}\nportal: {enabled: false}", &upstream.url());
    fs::write(
        storeless.file(),
        fs::read_to_string(storeless.file()).unwrap().replace("cluster: rag}", "auth: none, cluster: rag}"),
    )
    .unwrap();
    let (code, _, fault) = storeless.run("keys rotate --config gateway.yaml");
    assert!(code == Some(1) && fault.contains("store.url is none"), "{code:?} {fault}");
    fs::write(site.file(), "tokens: {rotation: 1}").unwrap();
    assert_eq!(site.run("keys list --config gateway.yaml").0, Some(64));
}
