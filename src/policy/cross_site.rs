//! TEMP cross-site rule.
use std::sync::Arc;

use http::Method;
/// Whether a cookie may be used.
#[must_use]
pub fn cookie_allowed(m: &Method, site: Option<&str>, origin: Option<&str>, own: &str, allowed: &[Arc<str>]) -> bool {
    m.is_safe()
        || matches!(site, Some("same-origin" | "none"))
        || origin.is_some_and(|o| o == own || allowed.iter().any(|a| **a == *o))
}
