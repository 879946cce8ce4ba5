//! What the documents name exists: tests in `docs/threats.md`, files behind relative links, commands and
//! configurations shown, the examples, and the reference pages (`BLESS=1` writes them). So are alerts, dashboard and
//! runbook ([`monitoring`]).

#![expect(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

#[path = "docs/monitoring.rs"]
mod monitoring;
#[path = "docs/reference.rs"]
mod reference;

use portcullis::config;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files with this extension below `folder`; build output left out.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() && !path.ends_with("target") {
                walk(&path, extension, found);
            } else if path.extension().is_some_and(|actual| actual == extension) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), extension, &mut found);
    found
}

/// Macros whose list of names becomes tests.
const LISTS: [&str; 6] = [
    "on_both_stores!",
    "on_every_deployment!",
    "on_one_and_three!",
    "on_both_engines!",
    "both_ways!",
    "with_each_proxy!",
];

/// Names of functions that stand below a test attribute or in a list of [`LISTS`].
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in ["src", "tests", "examples"].into_iter().flat_map(|folder| files(folder, "rs")) {
        let text = fs::read_to_string(file).unwrap();
        let mut marked = false;
        let mut listed = false;
        for line in text.lines().map(str::trim) {
            if LISTS.iter().any(|list| line.starts_with(list)) {
                listed = true;
            } else if line.starts_with([')', '}']) {
                listed = false;
            } else if listed {
                names.insert(line.trim_end_matches(',').to_owned());
            }
            let declared = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
            if let Some(declared) = declared {
                if marked {
                    names.insert(declared.split(['(', '<']).next().unwrap_or("").to_owned());
                }
                marked = false;
            } else {
                marked |= line == "#[test]" || line.starts_with("#[tokio::test");
            }
        }
    }
    names
}

/// What stands between single backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_test_that_the_threats_name_exists() {
    let text = fs::read_to_string(root().join("docs/threats.md")).unwrap();
    let tests = tests();
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| threat"));
    let mut named = 0;
    let mut missing = Vec::new();
    for row in rows {
        let last = row.trim_end_matches('|').rsplit('|').next().unwrap_or("");
        assert!(quoted(last).next().is_some(), "no test holds: {row}");
        for test in quoted(last) {
            named += 1;
            if !tests.contains(test) {
                missing.push(test.to_owned());
            }
        }
    }
    assert!(named > 40, "{named}");
    assert!(missing.is_empty(), "named but not there:\n{}", missing.join("\n"));
}

/// The lines of every block in this language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).filter_map(|rest| rest.split("```").next()).map(str::to_owned).collect()
}

#[test]
fn the_readmes_tour_is_word_for_word_what_the_demo_prints_and_checks() {
    let printed = Command::new(root().join("scripts/demo")).arg("--print").output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let mut compared = 0;
    for line in blocks(&readme, "sh").iter().flat_map(|block| block.lines()) {
        // The other words are `make demo`, `make test`, `portcullis …`, which have tests of their own, and the build.
        if ["make ", "portcullis ", "cargo build "].iter().any(|other| line.starts_with(other)) {
            continue;
        }
        assert!(printed.lines().any(|known| known == line), "the demo does not print: {line}");
        compared += 1;
    }
    assert_eq!(compared, 6);
}

#[test]
fn every_configuration_shown_is_one_that_starts() {
    let mut shown = 0;
    for document in files("docs", "md").into_iter().chain([root().join("README.md")]) {
        let text = fs::read_to_string(&document).unwrap();
        for block in blocks(&text, "yaml") {
            // A fragment shows some keys; what else it needs is the least there is.
            let mut whole = block.clone();
            if !block.contains("issuer:") {
                whole.push_str("\ntokens: {issuer: \"http://127.0.0.1:8080\"}\n");
            }
            let source = config::Source { name: "shown.yaml", text: &whole, base_dir: root() };
            let parsed = config::parse(&source, &HashMap::new());
            assert!(parsed.is_ok(), "{}:\n{block}\n{}", document.display(), parsed.unwrap_err());
            shown += 1;
        }
    }
    assert!(shown > 0);
}

#[test]
fn the_metrics_page_is_what_the_table_says() {
    assert_current("metrics", &portcullis::telemetry::metrics::reference());
}

#[test]
fn the_configuration_page_is_what_the_schema_says() {
    assert_current("config", &reference::configuration());
}

#[test]
fn the_errors_page_is_what_the_table_says() {
    assert_current("errors", &reference::errors());
}

#[track_caller]
fn assert_current(page: &str, current: &str) {
    let file = root().join(format!("docs/reference/{page}.md"));
    if std::env::vars().any(|(name, _)| name == "BLESS") {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, current).unwrap();
    }
    let committed = fs::read_to_string(&file).unwrap_or_default();
    assert!(committed == current, "docs/reference/{page}.md is not what the code says; run make docs");
}

#[test]
fn every_example_is_listed_in_the_readme() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let examples = fs::read_dir(root().join("config/examples")).unwrap();
    let names = examples.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let missing: Vec<_> = names.filter(|name| !readme.contains(&format!("](config/examples/{name})"))).collect();
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut broken = Vec::new();
    let documents = files("docs", "md").into_iter().chain(["README.md", "CHANGELOG.md"].map(|name| root().join(name)));
    for document in documents.filter(|document| document.exists()) {
        let text = fs::read_to_string(&document).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or("");
            if !path.is_empty() && !path.contains("://") && !document.with_file_name(path).exists() {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
