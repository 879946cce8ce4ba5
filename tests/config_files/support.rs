//! What these tests share: a parser with its own environment, and a valid beginning to break.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use portcullis::config::{ConfigErrors, Source, parse, settings::Settings};

pub(crate) type Variables = HashMap<String, String>;

/// 32 bytes nobody uses.
pub(crate) const MASTER_KEY: &str = "8f1d2c3b4a59687786a5b4c3d2e1f00f9e8d7c6b5a4938271605f4e3d2c1b0a9";

pub(crate) fn config_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

pub(crate) fn variables(pairs: &[(&str, &str)]) -> Variables {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

pub(crate) fn parse_text(text: &str, variables: &Variables) -> Result<Settings, ConfigErrors> {
    parse(&Source { name: "f.yaml", text, base_dir: Path::new("/etc/portcullis") }, variables)
}

pub(crate) fn errors_with(text: &str, variables: &Variables) -> String {
    parse_text(text, variables).expect_err("the configuration is broken").to_string()
}

/// A valid beginning: six lines, so that what follows starts on line 7.
pub(crate) const BASE: &str = "\
tokens: {issuer: \"https://a.example\"}
clusters:
  rag: {endpoints: [\"http://127.0.0.1:8000\"]}
  chroma: {endpoints: [\"http://127.0.0.1:8001\"]}
limits: {per-address: {by: address, rate: 20/s}, per-user: {by: subject, rate: 5/s}}
#
";

/// What `BASE` and `rest` are told.
pub(crate) fn errors(rest: &str) -> String {
    errors_with(&format!("{BASE}{rest}"), &Variables::new())
}

/// The same with one valid route before `rest`, whose keys continue that route from line 10.
pub(crate) fn route_errors(rest: &str) -> String {
    errors(&format!("routes:\n  - name: r\n    match: {{path: /x}}\n{rest}"))
}
