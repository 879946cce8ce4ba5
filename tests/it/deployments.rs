//! The examples of `config/examples` at work: each started as it is shipped, only addresses replaced, with the real
//! program it is for, and a user's journey through it.

use std::{collections::HashMap, fs, path::PathBuf, process::Command, sync::Arc};

use portcullis::{
    app::{App, Rim, Running},
    config::{self, Source},
};
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{client::PASSWORD, peer::patiently, soon};

mod chroma;
mod fastapi;
mod forward_auth;
mod lightrag;
mod nginx;
mod open_webui;

/// A file of `config/examples`.
fn shipped(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/examples").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `text` with what is only so on the operator's machine exchanged; fails when it does not say it.
fn exchanged(text: &str, there: &str, here: &str) -> String {
    assert!(text.contains(there), "the example does not say {there}");
    text.replace(there, here)
}

/// The gateway of an example.
struct Example {
    running: Running,
    /// Its store goes with it.
    _folder: TempDir,
}

impl Example {
    /// Starts it; `places` are addresses in the file and what they are here.
    async fn start(name: &str, places: &[(&str, &str)], variables: &[(&str, &str)], rim: Rim) -> Self {
        let text = places.iter().fold(shipped(name), |text, (there, here)| exchanged(&text, there, here));
        let folder = TempDir::new().unwrap();
        let variables: HashMap<_, _> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let source = Source { name, text: &text, base_dir: folder.path() };
        let mut settings = config::parse(&source, &variables).unwrap_or_else(|errors| panic!("{errors}"));
        settings.listeners.public.bind = "127.0.0.1:0".parse().unwrap();
        settings.listeners.admin = "127.0.0.1:0".parse().unwrap();
        let running = soon(name, App::start(settings, Arc::default(), rim)).await;
        Self { running: running.unwrap_or_else(|fault| panic!("{name}: {fault}")), _folder: folder }
    }

    /// The value of one line of `/metrics`, if it is there.
    async fn metric(&self, line: &str) -> Option<String> {
        let url = format!("http://{}/metrics", self.running.admin_addr());
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let text = soon("the metrics", async { client.get(url).send().await.unwrap().text().await.unwrap() }).await;
        text.lines().find_map(|one| one.strip_prefix(line)?.strip_prefix(' ')).map(str::to_owned)
    }
}

/// A user of an example's gateway, with the library most programs have at hand: nothing is checked here but what a test
/// asks, since the answers are a real service's.
struct User {
    client: reqwest::Client,
    base: String,
    token: String,
}

impl User {
    async fn registered(example: &Example) -> Self {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let base = format!("http://{}", example.running.public_addr());
        let account = json!({"email": "ann@example.org", "password": PASSWORD});
        let answer = sent(client.post(format!("{base}/auth/register")).json(&account)).await;
        assert_eq!(answer.status(), 201);
        let body: Value = answer.json().await.unwrap();
        Self { client, base, token: body["access_token"].as_str().unwrap().to_owned() }
    }

    /// The same user at another gateway.
    fn at(&self, example: &Example) -> Self {
        let base = format!("http://{}", example.running.public_addr());
        Self { client: self.client.clone(), base, token: self.token.clone() }
    }

    fn call(&self, method: &str, path: &str) -> RequestBuilder {
        let method = method.parse().unwrap();
        self.client.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token)
    }
}

/// The answer, however long a service thinks about it.
async fn sent(request: RequestBuilder) -> Response {
    patiently("an answer", request.send()).await.unwrap()
}

/// A script of a client; it must say that all was good.
async fn satisfied(mut script: Command) {
    let output = tokio::task::spawn_blocking(move || script.output().unwrap());
    let output = patiently("the script to end", output).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("all good"), "{said}");
}
