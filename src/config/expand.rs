//! `${NAME}` inside values: what the environment says instead of the file.
//!
//! `${NAME}` must be set; `${NAME:-default}` falls back when it is unset or empty; `$${` is a literal `${`. A value
//! with a variable in it counts as secret: no message ever shows it.

use super::{Environment, errors::Fault};

/// A value after its variables were filled in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expanded {
    pub(super) text: String,
    /// At least one variable stood in it.
    pub(super) from_environment: bool,
    /// Nothing but variables stood in it.
    pub(super) only_environment: bool,
}

/// Fills in the variables of one scalar.
pub(super) fn expand(text: &str, environment: &dyn Environment) -> Result<Expanded, Fault> {
    let mut expanded = Expanded { text: String::new(), from_environment: false, only_environment: true };
    let mut missing = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, from_dollar) = rest.split_at(start);
        if let Some(literal) = before.strip_suffix('$') {
            expanded.literal(literal);
            expanded.literal("${");
            rest = &from_dollar[2..];
            continue;
        }
        expanded.literal(before);
        let Some((inside, after)) = from_dollar[2..].split_once('}') else {
            return Err(Fault::new("\"${\" without \"}\"; write \"$${\" for a literal \"${\""));
        };
        expanded.variable(inside, environment, &mut missing)?;
        rest = after;
    }
    expanded.literal(rest);
    expanded.only_environment &= expanded.from_environment;
    match missing.as_slice() {
        [] => Ok(expanded),
        [name] => Err(Fault::new(format!("the environment variable {name} is not set"))),
        names => Err(Fault::new(format!("the environment variables {} are not set", names.join(", ")))),
    }
}

impl Expanded {
    fn literal(&mut self, text: &str) {
        if !text.is_empty() {
            self.only_environment = false;
            self.text.push_str(text);
        }
    }

    fn variable(
        &mut self,
        inside: &str,
        environment: &dyn Environment,
        missing: &mut Vec<String>,
    ) -> Result<(), Fault> {
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_name(name) {
            return Err(Fault::new("a variable is written ${NAME} or ${NAME:-default}; NAME is letters, digits and _"));
        }
        self.from_environment = true;
        match (environment.var(name), default) {
            (Some(value), None) => self.text.push_str(&value),
            (Some(value), Some(_)) if !value.is_empty() => self.text.push_str(&value),
            (_, Some(default)) => {
                // A default is a literal of the file.
                self.only_environment = false;
                self.text.push_str(default);
            }
            (None, None) => missing.push(name.to_owned()),
        }
        Ok(())
    }
}

/// A name a shell can set.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn with(text: &str) -> Result<Expanded, Fault> {
        let environment = HashMap::from([("A".to_owned(), "alpha".to_owned()), ("EMPTY".to_owned(), String::new())]);
        expand(text, &environment)
    }

    fn text(input: &str) -> String {
        with(input).unwrap().text
    }

    #[test]
    fn variables_are_filled_in_anywhere_in_a_value() {
        assert_eq!(text("${A}"), "alpha");
        assert_eq!(text("x-${A}-${A}"), "x-alpha-alpha");
        assert_eq!(text("${NONE:-d}"), "d");
        assert_eq!(text("${EMPTY:-d}"), "d");
        assert_eq!(text("${A:-d}"), "alpha");
        assert_eq!(text("${EMPTY}"), "");
    }

    #[test]
    fn a_dollar_is_only_special_before_a_brace() {
        assert_eq!(text("$A $5 a$"), "$A $5 a$");
        assert_eq!(text("$${A}"), "${A}");
        assert_eq!(text("x$${A}${A}"), "x${A}alpha");
    }

    #[test]
    fn every_missing_variable_is_named() {
        assert_eq!(with("${NONE}").unwrap_err().message, "the environment variable NONE is not set");
        assert_eq!(with("${N1}${N2}").unwrap_err().message, "the environment variables N1, N2 are not set");
    }

    #[test]
    fn a_malformed_variable_is_refused() {
        for input in ["${", "${A", "${}", "${1A}", "${a b}", "${A:-x"] {
            assert!(with(input).is_err(), "{input}");
        }
    }

    #[test]
    fn a_value_is_known_to_come_from_the_environment_alone() {
        assert!(with("${A}").unwrap().only_environment);
        assert!(!with("x${A}").unwrap().only_environment);
        assert!(!with("x").unwrap().only_environment);
        assert!(!with("").unwrap().only_environment);
        assert!(!with("${NONE:-literal}").unwrap().only_environment);
        assert!(!with("x").unwrap().from_environment);
    }

    #[test]
    fn a_value_is_not_expanded_twice() {
        let environment = HashMap::from([("A".to_owned(), "${A}".to_owned())]);
        assert_eq!(expand("${A}", &environment).unwrap().text, "${A}");
    }

    proptest! {
        #[test]
        fn never_panics(input in "[${}A:x-]{0,20}") {
            let _ = with(&input);
        }
    }
}
