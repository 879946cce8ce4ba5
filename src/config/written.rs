//! What a configuration says, kept so that two of them can be told apart: every key's effective value, defaults
//! included, so that writing a default down is no change.
//!
//! Secrets and the contents of files are kept as digests. What is given out are key paths, never values.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::{self, Write},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;

use super::living;

/// What was read beside the text: files, and digests of what may not be kept.
#[derive(Default)]
pub(super) struct Inputs {
    digests: BTreeMap<String, [u8; 32]>,
    files: BTreeSet<PathBuf>,
}

impl Inputs {
    /// This file belongs to the configuration, whether it can be read or not.
    pub(super) fn file(&mut self, path: &Path) {
        self.files.insert(path.to_owned());
    }

    /// What stood behind the key at this path.
    pub(super) fn content(&mut self, path: &str, content: &[u8]) {
        self.digests.insert(path.to_owned(), sha256(content));
    }

    /// The digest of what stood behind the key at this path.
    pub(super) fn digest(&self, path: &str) -> Option<&[u8; 32]> {
        self.digests.get(path)
    }

    /// Every file, in order.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.files.iter().cloned().collect()
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest(&SHA256, bytes).as_ref());
    sum
}

/// What a configuration says.
#[derive(Default)]
pub struct Written {
    values: Value,
    inputs: Inputs,
    sha256: String,
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Written(…)")
    }
}

impl Written {
    /// `values`: the effective tree, secrets left out.
    pub(super) fn new(text: &str, values: Value, inputs: Inputs) -> Self {
        let mut hex = String::with_capacity(64);
        for byte in sha256(text.as_bytes()) {
            // Writing to a String does not fail.
            let _ = write!(hex, "{byte:02x}");
        }
        Self { values, inputs, sha256: hex }
    }

    /// SHA-256 of the file's text in hex, as `sha256sum` prints it. Included files are not part of it.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The file and those it includes.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.inputs.files()
    }

    /// What `newer` says differently.
    #[must_use]
    pub fn differences(&self, newer: &Self) -> Differences {
        let mut found = Differences::default();
        compare(&Side::root(self), &Side::root(newer), "", &mut found);
        found
    }

    /// Whether both say the same of one cluster, the contents of its files included.
    #[must_use]
    pub fn same_cluster(&self, newer: &Self, name: &str) -> bool {
        let cluster = |written| Side::root(written).child("clusters")?.child(name);
        let (Some(old), Some(new)) = (cluster(self), cluster(newer)) else { return false };
        let mut found = Differences::default();
        compare(&old, &new, "", &mut found);
        found.is_empty()
    }
}

/// Key paths that differ between two configurations.
///
/// Shown as `routes[ask].auth`, a thing with a name that is new as `+routes[ask]`, one that is gone as `-routes[ask]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences(Vec<String>);

/// How many paths are shown at most.
const SHOWN: usize = 50;

impl Differences {
    /// Whether both say the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The paths, in order.
    #[must_use]
    pub fn paths(&self) -> &[String] {
        &self.0
    }

    /// Those that only a restart can bring into force.
    #[must_use]
    pub fn needing_a_restart(&self) -> Self {
        let bare = |path: &str| living::is_live(path.trim_start_matches(['+', '-']));
        Self(self.0.iter().filter(|path| !bare(path)).cloned().collect())
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<&str> = self.0.iter().take(SHOWN).map(String::as_str).collect();
        f.write_str(&shown.join(", "))?;
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// One value of one of the two, and the path its digest is kept under.
struct Side<'a> {
    written: &'a Written,
    value: &'a Value,
    path: String,
}

impl<'a> Side<'a> {
    fn root(written: &'a Written) -> Self {
        Self { written, value: &written.values, path: String::new() }
    }

    fn child(&self, key: &str) -> Option<Self> {
        let value = self.value.get(key)?;
        Some(Self { written: self.written, value, path: below(&self.path, key) })
    }

    fn item(&self, index: usize) -> Option<Self> {
        let value = self.value.get(index)?;
        Some(Self { written: self.written, value, path: format!("{}[{index}]", self.path) })
    }

    fn digest(&self) -> Option<&[u8; 32]> {
        self.written.inputs.digest(&self.path)
    }

    /// The names of a list whose items have them.
    fn names(&self) -> Option<Vec<&'a str>> {
        let items = self.value.as_array()?.iter();
        let names: Vec<_> = items.map(|item| item.get("name")?.as_str()).collect::<Option<_>>()?;
        let different: HashSet<_> = names.iter().collect();
        (different.len() == names.len()).then_some(names)
    }
}

fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn compare(old: &Side<'_>, new: &Side<'_>, shown: &str, found: &mut Differences) {
    match (old.value, new.value) {
        (Value::Object(olds), Value::Object(news)) => {
            let keys: BTreeSet<&String> = olds.keys().chain(news.keys()).collect();
            for key in keys {
                either(old.child(key).as_ref(), new.child(key).as_ref(), &below(shown, key), found);
            }
        }
        (Value::Array(olds), Value::Array(news)) => match (old.names(), new.names()) {
            (Some(before), Some(after)) => by_name(old, new, (&before, &after), shown, found),
            _ if olds.len() == news.len() => {
                let mut inside = Differences::default();
                for index in 0..olds.len() {
                    either(old.item(index).as_ref(), new.item(index).as_ref(), "", &mut inside);
                }
                if !inside.is_empty() {
                    found.0.push(shown.to_owned());
                }
            }
            _ => found.0.push(shown.to_owned()),
        },
        (before, after) if before != after || old.digest() != new.digest() => found.0.push(shown.to_owned()),
        _ => {}
    }
}

fn either(old: Option<&Side<'_>>, new: Option<&Side<'_>>, shown: &str, found: &mut Differences) {
    match (old, new) {
        (Some(old), Some(new)) => compare(old, new, shown, found),
        (None, Some(_)) => found.0.push(format!("+{shown}")),
        (Some(_), None) => found.0.push(format!("-{shown}")),
        (None, None) => {}
    }
}

fn by_name(old: &Side<'_>, new: &Side<'_>, names: (&[&str], &[&str]), shown: &str, found: &mut Differences) {
    fn places<'n>(names: &[&'n str]) -> BTreeMap<&'n str, usize> {
        names.iter().enumerate().map(|(place, name)| (*name, place)).collect()
    }
    let (olds, news) = (places(names.0), places(names.1));
    // Which of two routes of one pattern goes first is the file's order.
    let before = names.0.iter().filter(|name| news.contains_key(**name));
    let after = names.1.iter().filter(|name| olds.contains_key(**name));
    if !before.eq(after) {
        found.0.push(shown.to_owned());
    }
    let all: BTreeSet<&str> = olds.keys().chain(news.keys()).copied().collect();
    for name in all {
        let old = olds.get(name).and_then(|place| old.item(*place));
        let new = news.get(name).and_then(|place| new.item(*place));
        either(old.as_ref(), new.as_ref(), &format!("{shown}[{name}]"), found);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::config::{Source, parse};

    const BASE: &str = "\
tokens: {issuer: \"https://a.example\"}
store: {url: \"${URL}\", master_key: {env: KEY}}
limits: {wide: {by: address, rate: 20/s}}
clusters:
  rag: {endpoints: [\"http://127.0.0.1:8000\"]}
  web: {endpoints: [\"http://127.0.0.1:8001\"]}
routes:
  - {name: ask, match: {path: /ask}, cluster: rag}
  - {name: web, match: {path: /web}, cluster: web}
";

    fn written(text: &str, key: &str) -> std::sync::Arc<Written> {
        let environment = HashMap::from([
            ("URL".to_owned(), "postgres://ann:s3cr3t@db.internal/x".to_owned()),
            ("KEY".to_owned(), key.to_owned()),
        ]);
        let source = Source { name: "f.yaml", text, base_dir: Path::new("/nowhere") };
        parse(&source, &environment).unwrap_or_else(|errors| panic!("{errors}")).written
    }

    const KEY: &str = "8f1d2c3b4a59687786a5b4c3d2e1f00f9e8d7c6b5a4938271605f4e3d2c1b0a9";
    const OTHER_KEY: &str = "9f1d2c3b4a59687786a5b4c3d2e1f00f9e8d7c6b5a4938271605f4e3d2c1b0a9";

    fn told(from: &str, to: &str) -> String {
        written(BASE, KEY).differences(&written(&BASE.replace(from, to), KEY)).to_string()
    }

    #[test]
    fn the_paths_that_differ_are_told() {
        assert_eq!(told("20/s", "30/s"), "limits.wide.rate");
        assert_eq!(told("name: ask", "name: question"), "-routes[ask], +routes[question]");
        assert_eq!(told("  web: {", "  shop: {endpoints: [\"http://127.0.0.1:1\"]}\n  web: {"), "+clusters.shop");
        assert_eq!(told("path: /ask", "path: /questions"), "routes[ask].match.path");
        assert_eq!(told("cluster: rag}", "cluster: rag, timeouts: {total: 1s}}"), "routes[ask].timeouts.total");
        assert_eq!(told("127.0.0.1:8001", "127.0.0.1:8002"), "clusters.web.endpoints");
    }

    #[test]
    fn a_new_route_in_front_changes_no_other_and_a_new_order_is_a_change() {
        let front = "routes:\n  - {name: new, match: {path: /new}, cluster: rag}";
        assert_eq!(told("routes:", front), "+routes[new]");
        let (ask, web) =
            ("name: ask, match: {path: /ask}, cluster: rag", "name: web, match: {path: /web}, cluster: web");
        let turned = BASE.replace(ask, "X").replace(web, ask).replace('X', web);
        assert_eq!(written(BASE, KEY).differences(&written(&turned, KEY)).to_string(), "routes");
    }

    #[test]
    fn defaults_and_comments_make_no_difference_but_the_text_is_another() {
        let same = BASE.to_owned() + "# a comment\nruntime: {workers: auto}\n";
        let (old, new) = (written(BASE, KEY), written(&same, KEY));
        assert!(new.sha256() != old.sha256() && new.sha256().len() == 64);
        assert_eq!(old.differences(&new), Differences::default());
        let sqlite = BASE.replace("store: {url: \"${URL}\", master_key: {env: KEY}}", "store: {}");
        let default = sqlite.replace("store: {}", "store: {url: \"sqlite://data/portcullis.db\"}");
        assert_eq!(written(&sqlite, KEY).differences(&written(&default, KEY)), Differences::default());
    }

    #[test]
    fn another_secret_is_told_by_its_key_and_neither_value_is() {
        let (old, new) = (written(BASE, KEY), written(BASE, OTHER_KEY));
        let differences = old.differences(&new);
        assert_eq!(differences.to_string(), "store.master_key");
        assert_eq!(differences.needing_a_restart(), differences);
        let shown = format!("{old:?} {differences:?} {:?}", old.values);
        assert!(!shown.contains("s3cr3t") && !shown.contains("8f1d"), "{shown}");
    }

    #[test]
    fn a_cluster_is_the_same_until_something_of_it_changes() {
        let (old, new) = (written(BASE, KEY), written(&BASE.replace(":8001", ":8002"), KEY));
        assert!(old.same_cluster(&new, "rag"));
        assert!(!old.same_cluster(&new, "web"));
        assert!(!old.same_cluster(&new, "none"));
    }

    #[test]
    fn a_thousand_changes_are_not_a_thousand_words() {
        let many = Differences((0..60).map(|n| format!("routes[{n}]")).collect());
        assert!(many.to_string().ends_with("routes[49] and 10 more"), "{many}");
    }
}
