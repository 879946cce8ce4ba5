//! What is wrong with a configuration: every mistake with its place, never a secret.
//!
//! [`Fault`] is a mistake whose place is not known yet (a scalar that does not parse); [`ConfigError`] has its place;
//! [`ConfigErrors`] is all of them, in the order of the file. Messages and suggestions may quote what stands in the
//! file, except secrets, whatever the environment gave, and anything with an `@` in it (a URL with a password). Paths
//! of files that cannot be read are shown whole.

use std::{fmt, path::PathBuf};

use super::written::Inputs;

/// One mistake in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Line of the key (or list item), from 1; 0 when the file could not be read at all.
    pub line: u32,
    /// Column of the key (or list item) in characters, from 1; 0 when the file could not be read at all.
    pub column: u32,
    /// Where it is in the tree, e.g. `routes[0].cluster`; empty for the file as a whole.
    pub key_path: String,
    /// What is wrong, without a full stop.
    pub message: String,
    /// The nearest thing that would be right.
    pub suggestion: Option<String>,
}

/// Everything wrong with a configuration file; at least one error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    file: String,
    errors: Vec<ConfigError>,
    files: Vec<PathBuf>,
}

impl ConfigErrors {
    /// Sorts by place. `errors` is not empty.
    pub(super) fn new(file: &str, mut errors: Vec<ConfigError>) -> Self {
        errors.sort_by_key(|error| (error.line, error.column));
        // One anchor used twice reports its mistake once.
        errors.dedup();
        Self { file: file.to_owned(), errors, files: Vec::new() }
    }

    /// The file could not be read.
    pub(super) fn unreadable(file: &str, message: String) -> Self {
        Self {
            file: file.to_owned(),
            errors: vec![ConfigError { line: 0, column: 0, key_path: String::new(), message, suggestion: None }],
            files: Vec::new(),
        }
    }

    /// With the files that were read on the way.
    pub(super) fn reading(self, inputs: &Inputs) -> Self {
        Self { files: inputs.files(), ..self }
    }

    /// The files the configuration is made of, as far as it could be read: mending one of them may mend it.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The mistakes, in the order of the file.
    #[must_use]
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }
}

impl fmt::Display for ConfigErrors {
    /// One mistake a line, as compilers print them: `file:line:column: key.path: message; did you mean "…"?`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:", self.file)?;
            if error.line > 0 {
                write!(f, "{}:{}:", error.line, error.column)?;
            }
            if !error.key_path.is_empty() {
                write!(f, " {}:", error.key_path)?;
            }
            write!(f, " {}", error.message)?;
            if let Some(suggestion) = &error.suggestion {
                write!(f, "; did you mean \"{suggestion}\"?")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// A mistake whose place is not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// What is wrong, without a full stop.
    pub(super) message: String,
    /// The nearest thing that would be right.
    pub(super) suggestion: Option<String>,
    /// Whether `, found …` is to be added by whoever knows what stands there and whether it may be shown.
    pub(super) add_found: bool,
}

impl Fault {
    /// `expected {what}`, to be completed by what was found.
    pub(super) fn expected(what: impl fmt::Display) -> Self {
        Self { message: format!("expected {what}"), suggestion: None, add_found: true }
    }

    /// A whole sentence.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), suggestion: None, add_found: false }
    }

    /// With the nearest thing that would be right.
    pub(super) fn suggest(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl serde::de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        super::scalar::uncarry(message.to_string())
    }

    // The default texts of these two quote the value, which may be a secret.
    fn invalid_type(_found: serde::de::Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Self::expected(expected)
    }

    fn invalid_value(_found: serde::de::Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Self::expected(expected)
    }
}

/// The candidate nearest to `word`, when one is near enough to be what was meant.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let allowed = (word.chars().count() / 3).max(1) + 1;
    candidates
        .into_iter()
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&word.to_lowercase(), &candidate.to_lowercase());
            (distance, candidate)
        })
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_suggested_and_a_far_one_is_not() {
        assert_eq!(nearest("ragg", ["rag", "chroma"]).as_deref(), Some("rag"));
        assert_eq!(nearest("timeout", ["timeouts", "tls"]).as_deref(), Some("timeouts"));
        assert_eq!(nearest("completely_else", ["rag", "chroma"]), None);
        assert_eq!(nearest("x", ["a"]), None, "a one-letter word shares nothing with another");
        assert_eq!(nearest("Bind", ["bind"]).as_deref(), Some("bind"));
    }

    #[test]
    fn errors_print_in_the_order_of_the_file() {
        let error = |line, message: &str| ConfigError {
            line,
            column: 3,
            key_path: "a.b".into(),
            message: message.into(),
            suggestion: None,
        };
        let errors = ConfigErrors::new("f.yaml", vec![error(9, "later"), error(2, "earlier")]);
        assert_eq!(errors.to_string(), "f.yaml:2:3: a.b: earlier\nf.yaml:9:3: a.b: later");
    }

    #[test]
    fn an_unreadable_file_has_no_place() {
        let errors = ConfigErrors::unreadable("f.yaml", "cannot be read".into());
        assert_eq!(errors.to_string(), "f.yaml: cannot be read");
    }
}
