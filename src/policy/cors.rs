//! Cross-origin requests (the Fetch standard, "CORS protocol"): which page may read an answer, and what a preflight
//! asks.
//!
//! Origins are compared byte for byte with the listed ones; there is no `*` and no pattern, since every listed origin
//! may also send cookies. A page that is not listed can still *send* simple requests, as ever: what guards against
//! those is the rule of [`crate::policy::cross_site`].

use std::sync::Arc;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
        ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
    },
};

/// How long a browser may keep what a preflight said, seconds: Chromium keeps nothing longer than two hours.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Headers of ours that a page on a listed origin may read.
const EXPOSED: &str = "www-authenticate, retry-after, ratelimit, ratelimit-policy";

/// The method that a preflight asks for; `None` for a request that is none.
#[must_use]
pub fn preflight(method: &Method, headers: &HeaderMap) -> Option<Method> {
    if *method != Method::OPTIONS || !headers.contains_key(ORIGIN) {
        return None;
    }
    let asked = only(headers, &ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(asked.as_bytes()).ok()
}

/// The origin a request comes from, if it is a listed one. Two `Origin` headers are nobody's.
#[must_use]
pub fn allowed<'a>(headers: &'a HeaderMap, listed: &[Arc<str>]) -> Option<&'a HeaderValue> {
    only(headers, &ORIGIN).filter(|origin| listed.iter().any(|one| one.as_bytes() == origin.as_bytes()))
}

fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// What a preflight for `method` is told, but for what every answer says (see [`tell`]). The headers asked for are
/// allowed as they are: what a listed origin may send is the request's own check to make.
#[must_use]
pub fn permission(method: &Method, asked: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(3);
    if let Ok(method) = HeaderValue::from_str(method.as_str()) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, method);
    }
    if let Some(names) = only(asked, &ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    headers
}

/// Says on an answer who may read it: `origin`, a listed one, or nobody. In place of whatever a service said, since two
/// answers are none to a browser and a service does not know whom we list. `id` is the name of the request id's header.
pub fn tell(headers: &mut HeaderMap, origin: Option<&HeaderValue>, id: &HeaderName) {
    headers.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
    headers.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
    // Without a readable origin too: a cache must not give one origin's answer to another.
    if !varies_by_origin(headers) {
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
    let Some(origin) = origin else { return };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    if let Ok(exposed) = HeaderValue::try_from(format!("{id}, {EXPOSED}")) {
        // Beside what a service exposes of its own.
        headers.append(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

fn varies_by_origin(headers: &HeaderMap) -> bool {
    let mut names = headers.get_all(VARY).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    names.any(|name| matches!(name.trim_ascii(), b"*") || name.trim_ascii().eq_ignore_ascii_case(b"origin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: HeaderName = HeaderName::from_static("x-request-id");

    fn head(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        pairs.iter().map(pair).collect()
    }

    fn may_read(origins: &[&str]) -> bool {
        let pairs: Vec<_> = origins.iter().map(|origin| ("origin", *origin)).collect();
        allowed(&head(&pairs), &["https://app.test".into(), "http://localhost:3000".into()]).is_some()
    }

    #[test]
    fn an_origin_is_listed_to_the_last_byte() {
        assert!(may_read(&["https://app.test"]) && may_read(&["http://localhost:3000"]));
        for near in [
            "https://app.test.evil.test",
            "https://evil-app.test",
            "https://sub.app.test",
            "http://app.test",
            "https://app.test:8443",
            "https://app.test/",
            "HTTPS://APP.TEST",
            "https://app.test, https://evil.test",
            "null",
            "*",
            "",
        ] {
            assert!(!may_read(&[near]), "{near}");
        }
        assert!(!may_read(&[]));
        assert!(!may_read(&["https://app.test", "https://evil.test"]));
        assert!(!may_read(&["https://app.test", "https://app.test"]));
    }

    #[test]
    fn a_preflight_is_options_with_an_origin_and_one_method() {
        let asked = [("origin", "https://a.test"), ("access-control-request-method", "PATCH")];
        assert_eq!(preflight(&Method::OPTIONS, &head(&asked)), Some(Method::PATCH));
        assert_eq!(preflight(&Method::GET, &head(&asked)), None);
        assert_eq!(preflight(&Method::OPTIONS, &head(&asked[..1])), None);
        assert_eq!(preflight(&Method::OPTIONS, &head(&asked[1..])), None);
        let twice = [asked[0], asked[1], ("access-control-request-method", "GET")];
        assert_eq!(preflight(&Method::OPTIONS, &head(&twice)), None);
    }

    #[test]
    fn what_a_service_says_of_origins_does_not_stand() {
        let wild = [("access-control-allow-origin", "*"), ("access-control-allow-credentials", "true")];
        let origin = HeaderValue::from_static("https://a.test");
        let mut headers = head(&wild);
        tell(&mut headers, Some(&origin), &ID);
        assert_eq!(headers.get_all(ACCESS_CONTROL_ALLOW_ORIGIN).iter().collect::<Vec<_>>(), ["https://a.test"]);
        let mut headers = head(&wild);
        tell(&mut headers, None, &ID);
        assert_eq!(headers, head(&[("vary", "origin")]));
    }

    #[test]
    fn vary_names_the_origin_once() {
        for (before, after) in [
            (&[][..], vec!["origin"]),
            (&["accept"], vec!["accept", "origin"]),
            (&["accept, Origin"], vec!["accept, Origin"]),
            (&["*"], vec!["*"]),
        ] {
            let pairs: Vec<_> = before.iter().map(|value| ("vary", *value)).collect();
            let mut headers = head(&pairs);
            tell(&mut headers, None, &ID);
            assert_eq!(headers.get_all(VARY).iter().collect::<Vec<_>>(), after);
        }
    }

    #[test]
    fn no_answer_ever_allows_every_origin() {
        let asked = head(&[("access-control-request-headers", "authorization,content-type")]);
        let mut headers = permission(&Method::PUT, &asked);
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_HEADERS], "authorization,content-type");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_METHODS], "PUT");
        tell(&mut headers, None, &ID);
        assert!(!headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
        assert!(!headers.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS));
    }
}
