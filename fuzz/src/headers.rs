//! `policy::headers`: what is taken off is gone in every spelling, and nothing else is.

use http::{HeaderMap, HeaderName, HeaderValue};
use portcullis::policy::headers::{
    Ours, is_reserved, strip_hop_by_hop, strip_own, strip_reserved, strip_reserved_response, strip_trailers,
};

use super::lines;

const COOKIE: &str = "__Host-portcullis";

/// A few of the reserved names and beginnings, told apart by themselves.
const NAMES: [&str; 8] = [
    "x-gateway-identity",
    "x-user-id",
    "x-user-roles",
    "forwarded",
    "x-real-ip",
    "client-cert",
    "x-rewrite-url",
    "proxy",
];
const BEGINNINGS: [&str; 8] =
    ["x-forwarded-", "x-auth-", "remote-", "x-goog-", "cf-", "x-original-", "x-envoy-", "tailscale-"];

const HOP_BY_HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// The bytes as header lines.
pub fn check(data: &[u8]) -> bool {
    let sent = lines::headers(data);
    let own = [HeaderName::from_static("x-who-is-it")];
    let mut headers = sent.clone();
    strip_reserved(&mut headers);
    assert_nothing_reserved(&headers);
    assert_only_removed(&sent, &headers, is_reserved);

    let reserved_gone = headers.clone();
    strip_own(&mut headers, &own);
    assert!(!headers.keys().any(|name| lines::plain(name) == "x-who-is-it"));
    assert_only_removed(&reserved_gone, &headers, |name| lines::plain(name) == "x-who-is-it");

    let before_hop = headers.clone();
    strip_hop_by_hop(&mut headers);
    assert!(!headers.keys().any(|name| HOP_BY_HOP.contains(&name.as_str())), "{headers:?}");
    let nominated = |name: &HeaderName| {
        let options =
            before_hop.get_all("connection").iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        options.map(<[u8]>::trim_ascii).any(|option| option.eq_ignore_ascii_case(name.as_str().as_bytes()))
    };
    let one_hop =
        |name: &HeaderName| HOP_BY_HOP.contains(&name.as_str()) || is_more_of_one_hop(name) || nominated(name);
    assert_only_removed(&before_hop, &headers, one_hop);

    let mut answer = sent.clone();
    strip_reserved_response(&mut answer, &[COOKIE]);
    assert_nothing_reserved(&answer);
    assert_no_cookie_of_ours(&answer);

    let request_id = HeaderName::from_static("x-request-id");
    let mut trailers = sent.clone();
    strip_trailers(&mut trailers, &Ours { cookies: &[COOKIE], identity: &own, request_id: &request_id });
    assert_nothing_reserved(&trailers);
    assert_no_cookie_of_ours(&trailers);
    for name in trailers.keys().map(lines::plain) {
        let said = ["x-who-is-it", "x-request-id", "content-length", "host"].contains(&&*name);
        assert!(!said && !HOP_BY_HOP.contains(&&*name), "{name} in a trailer");
    }
    sent.len() == answer.len()
}

fn is_more_of_one_hop(name: &HeaderName) -> bool {
    let more = ["proxy-authenticate", "proxy-authentication-info", "proxy-authorization", "http2-settings", "expect"];
    more.contains(&name.as_str())
}

fn assert_nothing_reserved(headers: &HeaderMap) {
    for name in headers.keys() {
        let plain = lines::plain(name);
        assert!(!NAMES.contains(&&*plain), "{name} is left");
        assert!(!BEGINNINGS.iter().any(|beginning| plain.starts_with(beginning)), "{name} is left");
        assert!(!is_reserved(name), "{name} is left");
    }
}

/// What is left is what was there, in its order, without what was condemned.
fn assert_only_removed(before: &HeaderMap, after: &HeaderMap, condemned: impl Fn(&HeaderName) -> bool) {
    for name in before.keys() {
        let all = |headers: &HeaderMap| headers.get_all(name).iter().cloned().collect::<Vec<HeaderValue>>();
        assert_eq!(all(after), if condemned(name) { Vec::new() } else { all(before) }, "{name}");
    }
    assert!(after.len() <= before.len());
}

/// As browsers read a `Set-Cookie` (RFC 6265bis §5.6): up to the first `;`, name and value apart at the first `=`, both
/// trimmed; without a name the value is sent back as it is.
fn assert_no_cookie_of_ours(headers: &HeaderMap) {
    for value in headers.get_all("set-cookie") {
        let pair = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        let equals = pair.iter().position(|byte| *byte == b'=');
        let (name, rest) = equals.map_or((&b""[..], pair), |at| (&pair[..at], &pair[at + 1..]));
        let (name, rest) = (name.trim_ascii(), rest.trim_ascii());
        let sent_back = if name.is_empty() { rest.to_vec() } else { [name, b"=", rest].concat() };
        let read = sent_back.split(|byte| *byte == b'=').next().unwrap_or_default();
        assert!(!read.eq_ignore_ascii_case(COOKIE.as_bytes()), "{value:?} sets a cookie of ours");
    }
}
