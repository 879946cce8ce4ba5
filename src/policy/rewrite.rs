//! Prefix rewrite: the path an upstream sees under another root. It replaces whole segments of the canonical path that
//! was matched, so what is forwarded is canonical too and has no second reading.

use std::borrow::Cow;

/// `path` with the leading `prefix` replaced by `to`; `None` when the prefix is not a whole number of its segments.
///
/// All three are canonical and start with `/`; a final slash of `prefix` or `to` does not count. `/api/rag/q` with
/// `/api/rag` → `/` is `/q`; `/api/rag` itself is `/`; `/api/ragged` is `None`.
#[must_use]
pub fn rewrite<'a>(path: &'a str, prefix: &str, to: &str) -> Option<Cow<'a, str>> {
    let (prefix, to) = (prefix.trim_end_matches('/'), to.trim_end_matches('/'));
    let rest = path.strip_prefix(prefix)?;
    match (to, rest) {
        (_, rest) if !rest.is_empty() && !rest.starts_with('/') => None,
        ("", "") => Some(Cow::Borrowed("/")),
        ("", rest) => Some(Cow::Borrowed(rest)),
        (to, rest) => Some(Cow::Owned([to, rest].concat())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::path::canonical;

    #[test]
    fn a_prefix_is_replaced_by_whole_segments() {
        for (path, prefix, to, expected) in [
            ("/api/rag/q", "/api/rag", "/", "/q"),
            ("/api/rag/q", "/api/rag/", "/", "/q"),
            ("/api/rag", "/api/rag", "/", "/"),
            ("/api/rag/", "/api/rag", "/", "/"),
            ("/api/rag/q", "/api/rag", "/v1", "/v1/q"),
            ("/api/rag/q/", "/api/rag", "/v1/", "/v1/q/"),
            ("/api/rag", "/api/rag", "/v1", "/v1"),
            ("/q", "/", "/v1", "/v1/q"),
            ("/", "/", "/v1", "/v1/"),
            ("/q", "/", "/", "/q"),
        ] {
            assert_eq!(rewrite(path, prefix, to).as_deref(), Some(expected), "{path} {prefix} {to}");
        }
    }

    #[test]
    fn half_a_segment_is_no_prefix() {
        for (path, prefix) in [("/api/ragged", "/api/rag"), ("/ap", "/api"), ("/x/api", "/api"), ("/API/x", "/api")] {
            assert_eq!(rewrite(path, prefix, "/"), None, "{path}");
        }
    }

    #[test]
    fn taking_a_prefix_off_allocates_nothing() {
        assert!(matches!(rewrite("/api/q", "/api", "/"), Some(Cow::Borrowed("/q"))));
    }

    proptest! {
        #[test]
        fn what_comes_out_of_canonical_paths_is_canonical(path in "(/[a-b]{1,2}){0,3}/?", prefix in "(/[a-b]{1,2}){0,2}/?", to in "(/[c]{1,2}){0,2}/?") {
            let path = if path.is_empty() { "/".into() } else { path };
            if let Some(rewritten) = rewrite(&path, &prefix, &to) {
                prop_assert!(matches!(canonical(&rewritten), Ok(Cow::Borrowed(_))), "{}", rewritten);
            }
        }
    }
}
