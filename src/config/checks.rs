//! What the checks of all sections share: where mistakes go, and the few questions every section asks.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{
    errors::{ConfigError, nearest},
    item::{At, Item},
    tls::Pem,
    written::Inputs,
};

/// Something was wrong, and that has been noted.
#[derive(Debug)]
pub(super) struct Noted;

/// Collects the mistakes of the checks.
pub(super) struct Checks<'a> {
    /// Relative paths start here.
    pub(super) base_dir: &'a Path,
    pub(super) errors: Vec<ConfigError>,
    pub(super) inputs: Inputs,
    /// Where secrets stand that sign, and the key that others are sealed under.
    signing: Vec<String>,
}

impl<'a> Checks<'a> {
    pub(super) fn new(base_dir: &'a Path, errors: Vec<ConfigError>) -> Self {
        Self { base_dir, errors, inputs: Inputs::default(), signing: vec!["store.master_key".to_owned()] }
    }

    /// Notes a mistake.
    pub(super) fn error(&mut self, at: &At, message: impl Into<String>) {
        self.note(at, message.into(), None);
    }

    /// Notes a mistake and what was probably meant.
    pub(super) fn error_near(&mut self, at: &At, message: impl Into<String>, suggestion: Option<String>) {
        self.note(at, message.into(), suggestion);
    }

    fn note(&mut self, at: &At, message: String, suggestion: Option<String>) {
        let key_path = at.path.clone();
        self.errors.push(ConfigError { line: at.line.max(1), column: at.column.max(1), key_path, message, suggestion });
    }

    /// The value of a key that has no default. A missing key is noted; a wrong one has been.
    pub(super) fn required<T>(&mut self, item: Item<T>, parent: &At, key: &str, why: &str) -> Option<T> {
        if !item.is_written() {
            self.error(&parent.child(key), format!("missing; {why}"));
        }
        item.value
    }

    /// The position of a reference among the names it may refer to.
    pub(super) fn resolve<T: fmt::Display>(
        &mut self,
        reference: &Item<T>,
        names: &[&str],
        kind: &str,
    ) -> Option<usize> {
        let wanted = reference.value.as_ref()?.to_string();
        let found = names.iter().position(|name| *name == wanted);
        if found.is_none() {
            let near = nearest(&wanted, names.iter().copied()).filter(|_| !reference.from_environment);
            let message = if names.is_empty() {
                format!("no {kind} is named {}; there is none at all", reference.quoted())
            } else {
                format!("no {kind} is named {}", reference.quoted())
            };
            self.error_near(&reference.at, message, near);
        }
        found
    }

    /// Notes every item that stands in its list twice.
    pub(super) fn no_repeats<T: fmt::Display>(&mut self, items: &[Item<T>]) {
        let mut seen = std::collections::HashSet::new();
        for item in items {
            if let Some(value) = &item.value
                && !seen.insert(value.to_string())
            {
                self.error(&item.at, format!("{} stands in this list twice", item.quoted()));
            }
        }
    }

    /// The secret at `at` signs. Whoever verifies by it can sign by it, so no other section's may be the same: a service
    /// could make access tokens, or an issuer tokens of ours. Nor may it be the key that everything is sealed under.
    pub(super) fn signs(&mut self, at: &At) {
        fn section(path: &str) -> &str {
            path.split('.').next().unwrap_or_default()
        }
        let digest = self.inputs.digest(&at.path);
        let same = |path: &&String| section(path) != section(&at.path) && self.inputs.digest(path) == digest;
        let twin = digest.and_then(|_| self.signing.iter().find(same).cloned());
        if let Some(path) = twin {
            self.error(at, format!("is {path} too: whoever holds it for one could use it for the other"));
        }
        self.signing.push(at.path.clone());
    }

    /// A path of the file as the program opens it.
    pub(super) fn path(&self, written: &str) -> PathBuf {
        self.base_dir.join(written)
    }

    /// A PEM file that the key at `at` names: part of the configuration from now on.
    pub(super) fn pem(&mut self, at: &At, written: &str) -> Result<Pem, String> {
        let path = self.path(written);
        self.inputs.file(&path);
        let pem = Pem::read(path)?;
        self.inputs.content(&at.path, pem.content());
        Ok(pem)
    }
}

/// The values of a list; `None` when one of them was wrong.
pub(super) fn values<T>(items: Vec<Item<T>>) -> Option<Vec<T>> {
    items.into_iter().map(|item| item.value).collect()
}
