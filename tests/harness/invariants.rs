//! What holds of *every* answer, whatever a test is about. The clients check it each time, so no test can forget to.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Mutex,
};

use portcullis::{gate::rescue, policy::reason::Reason};
use serde_json::Value;

use crate::harness::upstream::MARK;

/// Headers the gateway may put on an answer of its own; any other is a leak or an accident.
const OUR_HEADERS: [&str; 21] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "access-control-max-age",
    "allow",
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "date",
    "location",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "set-cookie",
    "transfer-encoding",
    "vary",
    "www-authenticate",
    "x-request-id",
];

/// Names only the gateway may use; on the way back an upstream must not be able to plant them.
const RESERVED: [&str; 5] = ["x-gateway-identity", "x-user-id", "x-user-email", "x-user-roles", "x-org-id"];

/// What betrays the inside of a program.
const INSIDES: [&str; 12] = [
    "SELECT ",
    "INSERT ",
    "UPDATE ",
    "sqlx",
    "sqlite",
    "postgres",
    "/src/",
    ".rs:",
    "panicked",
    "RUST_BACKTRACE",
    "stack backtrace",
    "signing key",
];

/// An answer, as either client read it.
pub(crate) struct Seen<'a> {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'a str, &'a str)>,
    /// `None`: streamed, not read yet.
    pub(crate) body: Option<&'a [u8]>,
    /// The answer to HEAD has no body to look at.
    pub(crate) head_only: bool,
}

impl Seen<'_> {
    fn all(&self, name: &str) -> Vec<&str> {
        let named = |(header, _): &&(&str, &str)| header.eq_ignore_ascii_case(name);
        self.headers.iter().filter(named).map(|(_, value)| *value).collect()
    }
}

/// Shared by every client of one gateway.
#[derive(Debug, Default)]
pub(crate) struct Invariants {
    ids: Mutex<HashSet<String>>,
    planted: Mutex<Vec<String>>,
}

impl Invariants {
    /// From now on `secret` may appear in no refusal.
    pub(crate) fn plant(&self, secret: &str) {
        self.planted.lock().unwrap().push(secret.to_owned());
    }

    #[track_caller]
    pub(crate) fn check(&self, seen: &Seen<'_>) {
        let ids = seen.all("x-request-id");
        assert_eq!(ids.len(), 1, "one request id: {} {:?}", seen.status, seen.headers);
        let id = ids[0];
        assert!(!id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic()), "request id {id:?}");
        assert!(self.ids.lock().unwrap().insert(id.to_owned()), "the request id {id} came twice");
        for name in RESERVED {
            assert!(seen.all(name).is_empty(), "{name} in an answer");
        }
        let readers = seen.all("access-control-allow-origin");
        if !seen.all(MARK).is_empty() {
            return;
        }
        assert!(readers.len() <= 1 && !readers.contains(&"*"), "everybody may read: {:?}", seen.headers);
        for (name, _) in &seen.headers {
            let name = name.to_ascii_lowercase();
            assert!(OUR_HEADERS.contains(&name.as_str()), "{} carries {name}: {:?}", seen.status, seen.headers);
        }
        if let Some(body) = seen.body {
            self.check_body(seen, body, id);
        }
    }

    #[track_caller]
    fn check_body(&self, seen: &Seen<'_>, body: &[u8], id: &str) {
        let text = String::from_utf8_lossy(body);
        for inside in INSIDES {
            assert!(!text.contains(inside), "{inside:?} in an answer: {text}");
        }
        if seen.status < 400 || seen.head_only {
            return;
        }
        for secret in self.planted.lock().unwrap().iter() {
            assert!(!text.contains(secret), "a secret in a refusal: {text}");
        }
        assert_eq!(seen.all("cache-control"), ["no-store"], "{} {text}", seen.status);
        let document: Value = serde_json::from_slice(body).unwrap_or_else(|_| panic!("not JSON: {text}"));
        if let Some(error) = document.get("error") {
            check_oauth(seen, error.as_str().unwrap_or_default(), &document);
            return;
        }
        assert_eq!(seen.all("content-type"), ["application/problem+json"], "{} {text}", seen.status);
        assert_eq!(document["status"], seen.status, "{text}");
        assert_eq!(document["request_id"], id, "{text}");
        assert_eq!(document["instance"], format!("urn:portcullis:request:{id}"), "{text}");
        let code = document["code"].as_str().unwrap_or_default();
        assert!(codes().contains(code), "{code:?} is no public code: {text}");
        for member in ["type", "title", "detail"] {
            assert!(document[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {text}");
        }
        if seen.status == 401 {
            assert_eq!(seen.all("www-authenticate").len(), 1, "a 401 without a challenge: {text}");
        }
        if matches!(seen.status, 429 | 503) {
            let wait = seen.all("retry-after").first().and_then(|wait| wait.parse::<u64>().ok());
            // Nobody knows when one of the requests or streams that are under way ends.
            let at_once = |policy: &&str| policy.contains(";qu=\"concurrent-");
            let is_full = seen.status == 429 && seen.all("ratelimit-policy").iter().any(at_once);
            let said = !seen.all("retry-after").is_empty();
            assert!(
                wait.is_some_and(|wait| wait > 0) || (is_full && !said),
                "{} without Retry-After: {text}",
                seen.status
            );
        }
    }
}

/// What a client of the OAuth endpoints is told (RFC 6749 §5.2).
#[track_caller]
fn check_oauth(seen: &Seen<'_>, error: &str, document: &Value) {
    assert_eq!(seen.all("content-type"), ["application/json"], "{document}");
    assert!(matches!(error, "invalid_client" | "invalid_request" | "unsupported_token_type"), "{document}");
    let description = document["error_description"].as_str().unwrap_or_default();
    assert!(!description.is_empty() && !description.contains(['"', '\\']) && description.is_ascii(), "{document}");
    assert_eq!(document.as_object().map(serde_json::Map::len), Some(2), "{document}");
    assert_eq!(seen.all("www-authenticate").len(), usize::from(seen.status == 401), "{document}");
}

/// Every code a client may be told.
fn codes() -> BTreeSet<&'static str> {
    Reason::ALL.iter().filter(|reason| **reason != Reason::Ok).map(|reason| rescue::row(*reason).code).collect()
}
