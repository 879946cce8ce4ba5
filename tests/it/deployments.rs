//! The examples of `config/examples` at work: each started as it is shipped, only addresses replaced, with the real
//! program it is for, and a user's journey through it.

use std::{collections::HashMap, fs, path::PathBuf, sync::Arc};

use portcullis::{
    app::{App, Rim, Running},
    config::{self, Source},
};
use tempfile::TempDir;

use crate::harness::soon;

mod nginx;

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
