//! Paths as the file writes them: a route's pattern, the prefixes of a rewrite, a health check's target.
//!
//! A pattern is matched against the canonical path, so it must itself be canonical: what could be read in two ways
//! could be authorised as one thing and forwarded as another.

use std::{borrow::Cow, str::FromStr};

use http::Uri;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    errors::Fault,
    scalar::{Scalar, scalar},
    words::{kept, word},
};

/// Whether a path could only ever mean one thing: visible ASCII, no escapes, no empty or dot segments.
pub(super) fn is_canonical(path: &str) -> bool {
    path.starts_with('/')
        && path.bytes().all(|byte| byte.is_ascii_graphic() && !b"%\\;?#\"<>^`|".contains(&byte))
        && !path.contains("//")
        && !path.split('/').any(|segment| matches!(segment, "." | ".."))
}

word! {
    /// A route's path pattern.
    PathPattern(String), "^/|\\$\\{", |value| value.clone(), |text| pattern(text)
}

fn pattern(text: &str) -> Result<PathPattern, Fault> {
    if !is_canonical(text) {
        let message = "a path pattern such as /docs/{id} or /files/{*rest}: a leading /, no empty or dot segments, \
                       no % \\ ; ? #";
        let fault = Fault::expected(message);
        let fixed = text.trim_end_matches('*').trim_end_matches('/');
        return Err(if text.ends_with("/**") && is_canonical(&format!("/{}", fixed.trim_start_matches('/'))) {
            fault.suggest(format!("{fixed}/{{*rest}}"))
        } else {
            fault
        });
    }
    if let Some(prefix) = text.strip_suffix("/*").or_else(|| text.strip_suffix("/**")) {
        return Err(Fault::expected("a named catch-all").suggest(format!("{prefix}/{{*rest}}")));
    }
    if let Some(name) = text.split('/').find_map(|segment| segment.strip_prefix(':')) {
        return Err(Fault::expected("a parameter in braces").suggest(format!("{{{name}}}")));
    }
    match matchit::Router::new().insert(text, ()) {
        Ok(()) => Ok(PathPattern(text.to_owned())),
        Err(_) => Err(Fault::expected("at most one {parameter} a segment and a {*catch_all} only at the end")),
    }
}

word! {
    /// A literal path without a trailing slash, or `/`.
    PathPrefix(String), "^/|\\$\\{", |value| value.clone(),
    |text| {
        let ok = is_canonical(text) && !text.contains(['{', '}']) && (text == "/" || !text.ends_with('/'));
        kept(ok, text, "a literal path such as /api, without a trailing slash").map(Self)
    }
}

word! {
    /// Path and query of a health check.
    RequestTarget(Uri), "^/|\\$\\{", |value| value.to_string(),
    |text| match Uri::from_str(text) {
        Ok(uri) if text.starts_with('/') && !text.contains('#') => Ok(Self(uri)),
        _ => Err(Fault::expected("a path such as /health")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn suggestion<T: Scalar>(text: &str) -> Option<String> {
        T::read(text).err().expect("refused").suggestion
    }

    #[test]
    fn a_pattern_is_canonical() {
        for text in ["/", "/docs", "/docs/", "/docs/{id}", "/files/{*rest}", "/v1/{id}/x", "/a.b/~c"] {
            assert!(PathPattern::read(text).is_ok(), "{text}");
        }
        for text in
            ["", "docs", "//", "/a//b", "/a/../b", "/a/./b", "/a%2fb", "/a;x", "/a?b", "/a#b", "/a\\b", "/ä", "/a b"]
        {
            assert!(PathPattern::read(text).is_err(), "{text:?}");
        }
        for text in ["/{a}-{b}", "/{*rest}/x", "/{", "/{}", "/x}"] {
            assert!(PathPattern::read(text).is_err(), "{text:?}");
        }
        assert_eq!(suggestion::<PathPattern>("/files/*").as_deref(), Some("/files/{*rest}"));
        assert_eq!(suggestion::<PathPattern>("/docs/:id").as_deref(), Some("{id}"));
    }

    proptest! {
        #[test]
        fn reading_a_path_never_panics(text in "/?\\PC{0,32}") {
            let _ = (PathPattern::read(&text), PathPrefix::read(&text), RequestTarget::read(&text));
        }

        #[test]
        fn an_accepted_pattern_is_never_ambiguous(text in "/[a-z{}*.%/;\\\\]{0,16}") {
            if PathPattern::read(&text).is_ok() {
                prop_assert!(!text.contains("..") || !text.split('/').any(|segment| segment == ".."));
                prop_assert!(!text.contains('%') && !text.contains('\\') && !text.contains(';') && !text.contains("//"));
            }
        }
    }
}
