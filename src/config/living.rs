//! Which keys a running gateway takes from a changed file, and which need a restart.
//!
//! Every key has a row, its own or one above it; the longest that fits decides. What a restart alone can change is
//! bound, opened or sized once; or it would be unsafe to change under tokens that are out there (their life decides
//! how long an ended session is remembered).

/// When a changed key comes into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// At the next reload.
    Live,
    /// At the next start; a reload that changes it is refused whole.
    AtStart,
}

/// Every key or section and when it is taken.
pub const TAKEN: &[(&str, Taken)] = &[
    ("listeners", Taken::AtStart),
    ("listeners.public.tls.certificate", Taken::Live),
    ("listeners.public.tls.key", Taken::Live),
    ("listeners.trusted_proxies", Taken::Live),
    ("runtime", Taken::AtStart),
    ("overload", Taken::Live),
    ("store", Taken::AtStart),
    ("shared_state", Taken::AtStart),
    ("tokens", Taken::AtStart),
    ("issuers", Taken::AtStart),
    ("tokens.refresh", Taken::Live),
    ("tokens.max_sessions", Taken::Live),
    ("tokens.delivery", Taken::Live),
    ("passwords", Taken::AtStart),
    ("lockout", Taken::Live),
    ("credential_stuffing", Taken::Live),
    ("limits", Taken::Live),
    ("quotas", Taken::Live),
    ("clusters", Taken::Live),
    ("routes", Taken::Live),
    ("portal", Taken::Live),
    ("oauth", Taken::Live),
    ("forward_auth", Taken::Live),
    ("security_events", Taken::AtStart),
    ("telemetry", Taken::AtStart),
    ("telemetry.request_id_header", Taken::Live),
];

/// When the key at this path is taken; `None` for a section that has no row.
#[must_use]
pub fn taken(path: &str) -> Option<Taken> {
    let fits = |key: &str| path.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
    TAKEN.iter().filter(|(key, _)| fits(key)).max_by_key(|(key, _)| key.len()).map(|(_, taken)| *taken)
}

/// Closed by default: a key nobody has thought about needs a restart.
pub(super) fn is_live(path: &str) -> bool {
    taken(path) == Some(Taken::Live)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_row_decides() {
        assert!(is_live("routes[ask].auth"));
        assert!(is_live("clusters.rag.tls.ca_file"));
        assert!(is_live("listeners.public.tls.key"));
        assert!(is_live("tokens.refresh.idle"));
        // Plaintext does not become TLS, nor the other way, while it runs.
        assert!(!is_live("listeners.public.tls"));
        assert!(!is_live("listeners.public.bind"));
        assert!(!is_live("tokens.access_ttl"));
        assert!(!is_live("tokens.refreshing"));
        assert!(!is_live("something_new"));
    }
}
