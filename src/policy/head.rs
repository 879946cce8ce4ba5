//! Hygiene of a request head: what hyper lets through and two servers might still read differently
//! (RFC 9110 §7.2, §7.6.1; RFC 9112 §3.2, §6.1; RFC 9113 §8.2.2, §8.3.1).
//!
//! [`check`] refuses, it mends nothing: a client that sends an ambiguous head gets 400 (405 for CONNECT and TRACE) and
//! the upstream sees nothing. The path has its own file, [`crate::policy::path`]; which headers are removed is
//! [`crate::policy::headers`]'.

use std::net::Ipv6Addr;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri, Version,
    header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN, TRANSFER_ENCODING},
    uri::Scheme,
};

use crate::policy::reason::Reason;

/// Why a head is refused. The text is for the client: it names the header, never its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadFault {
    /// `CONNECT` or `TRACE` (RFC 9110 §9.3.6, §9.3.8): a tunnel, and an echo of credentials.
    #[error("this method is not served")]
    Method,
    /// No `Host` (and no authority).
    #[error("the Host header is missing")]
    HostMissing,
    /// `Host` more than once.
    #[error("the Host header came more than once")]
    HostRepeated,
    /// Not `host[:port]`: empty, with user information, or with characters no host name holds.
    #[error("the Host header or the authority of the target is malformed")]
    HostMalformed,
    /// The target's authority and `Host` differ.
    #[error("the Host header and the authority of the target differ")]
    HostMismatch,
    /// A target of another scheme than `http` and `https`, which nobody here speaks (RFC 9110 §7.4).
    #[error("the target's scheme is neither http nor https")]
    Scheme,
    /// Other than exactly one `chunked`.
    #[error("the only Transfer-Encoding served is chunked")]
    TransferEncoding,
    /// A `Content-Length` that is no plain number: with leading zeros some read it as octal.
    #[error("the Content-Length is no plain number")]
    ContentLength,
    /// A name with `_`, which CGI-like servers take for `-`.
    #[error("header names may not hold an underscore: {0}")]
    Underscore(HeaderName),
    /// A header that must be single came twice.
    #[error("this header may come only once: {0}")]
    Repeated(HeaderName),
    /// `Connection` nominates something other than hop-by-hop headers: an attempt to have us remove it.
    #[error("the Connection header may nominate hop-by-hop headers only")]
    Connection,
}

impl HeadFault {
    /// The label for body, log and metrics.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Method => Reason::MethodRefused,
            Self::HostMissing | Self::HostRepeated | Self::HostMalformed | Self::HostMismatch | Self::Scheme => {
                Reason::HostInvalid
            }
            Self::TransferEncoding => Reason::TransferEncodingInvalid,
            Self::ContentLength | Self::Underscore(_) | Self::Repeated(_) | Self::Connection => Reason::HeaderInvalid,
        }
    }
}

/// Headers of which a second one would let two servers pick different ones.
const SINGLE: [HeaderName; 4] = [AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, ORIGIN];

/// What `Connection` may nominate, lower case. `transfer-encoding` is not among them although it is hop-by-hop:
/// naming it has no use but to have the framing removed on the way (RFC 9110 §7.6.1).
const NOMINABLE: [&str; 7] = ["close", "keep-alive", "te", "trailer", "upgrade", "proxy-connection", "http2-settings"];

/// Refuses a head that two servers might read differently.
pub fn check(method: &Method, uri: &Uri, version: Version, headers: &HeaderMap) -> Result<(), HeadFault> {
    if matches!(*method, Method::CONNECT | Method::TRACE) {
        return Err(HeadFault::Method);
    }
    check_host(uri, version, headers)?;
    if uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS) {
        return Err(HeadFault::Scheme);
    }
    if let Some(name) = headers.keys().find(|name| name.as_str().contains('_')) {
        return Err(HeadFault::Underscore(name.clone()));
    }
    if let Some(name) = SINGLE.iter().find(|name| repeated(headers, name)) {
        return Err(HeadFault::Repeated(name.clone()));
    }
    if let Some(coding) = headers.get(TRANSFER_ENCODING)
        && (repeated(headers, &TRANSFER_ENCODING) || !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return Err(HeadFault::TransferEncoding);
    }
    if headers.get(CONTENT_LENGTH).is_some_and(|length| !is_plain_number(length.as_bytes())) {
        return Err(HeadFault::ContentLength);
    }
    if headers.get_all(CONNECTION).iter().all(nominates_hop_by_hop_only) { Ok(()) } else { Err(HeadFault::Connection) }
}

const fn is_plain_number(text: &[u8]) -> bool {
    match text {
        [] => false,
        [b'0', rest @ ..] => rest.is_empty(),
        // That the rest are digits the HTTP library has seen to.
        [first, ..] => first.is_ascii_digit(),
    }
}

fn repeated(headers: &HeaderMap, name: &HeaderName) -> bool {
    // As many names as values: most requests are done here, without a look-up.
    headers.len() != headers.keys_len() && headers.get_all(name).iter().nth(1).is_some()
}

fn check_host(uri: &Uri, version: Version, headers: &HeaderMap) -> Result<(), HeadFault> {
    if repeated(headers, &HOST) {
        return Err(HeadFault::HostRepeated);
    }
    let host = match headers.get(HOST) {
        Some(host) => Some(host.to_str().map_err(|_| HeadFault::HostMalformed)?),
        // RFC 9113 §8.3.1: HTTP/2 has `:authority` instead.
        None if version >= Version::HTTP_2 => None,
        None => return Err(HeadFault::HostMissing),
    };
    let authority = uri.authority().map(http::uri::Authority::as_str);
    let (Some(one), other) = (host.or(authority), host.and(authority)) else { return Err(HeadFault::HostMissing) };
    if other.is_some_and(|other| !one.eq_ignore_ascii_case(other)) {
        return Err(HeadFault::HostMismatch);
    }
    if split_authority(one).is_none() { Err(HeadFault::HostMalformed) } else { Ok(()) }
}

/// `host[:port]` taken apart, the brackets of an IPv6 literal kept. Names are letters, digits, `-`, `.`, `_`: what
/// DNS and container networks hold; the percent-encodings and sub-delimiters of RFC 3986 §3.2.2 are refused.
fn split_authority(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, _) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            authority.split_at(address.len() + 2)
        }
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let name_ok = |host: &str| {
        host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
            && !host.is_empty()
            && !host.starts_with('.')
            && !host.contains("..")
    };
    if !host.starts_with('[') && !name_ok(host) {
        return None;
    }
    match port.strip_prefix(':') {
        None if port.is_empty() => Some((host, None)),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some((host, Some(digits.parse().ok()?))),
        _ => None,
    }
}

fn nominates_hop_by_hop_only(value: &HeaderValue) -> bool {
    value.to_str().is_ok_and(|value| {
        value
            .split(',')
            .map(|option| option.trim_matches([' ', '\t']))
            .all(|option| option.is_empty() || NOMINABLE.iter().any(|name| option.eq_ignore_ascii_case(name)))
    })
}

/// The host asked for, without its port and without the dot of a fully qualified name, in the case it was sent:
/// compare with `eq_ignore_ascii_case`. `None` when there is none or it is malformed ([`check`] says which).
#[must_use]
pub fn host_of<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let authority = match uri.authority() {
        Some(authority) => authority.as_str(),
        None => headers.get(HOST)?.to_str().ok()?,
    };
    let (host, _) = split_authority(authority)?;
    Some(host.strip_suffix('.').unwrap_or(host))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        pairs.iter().map(pair).collect()
    }

    fn h1(target: &str, pairs: &[(&str, &str)]) -> Result<(), HeadFault> {
        check(&Method::GET, &target.parse().unwrap(), Version::HTTP_11, &head(pairs))
    }

    fn with(name: &str, value: &str) -> Result<(), HeadFault> {
        h1("/", &[("host", "a.test"), (name, value)])
    }

    #[test]
    fn an_ordinary_head_passes() {
        let pairs = [("host", "a.test:8080"), ("authorization", "Bearer x"), ("connection", "keep-alive")];
        assert_eq!(h1("/a?b", &pairs), Ok(()));
        assert_eq!(h1("http://A.test:8080/a", &pairs), Ok(()));
    }

    #[test]
    fn a_missing_host_is_refused_on_every_version() {
        for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
            let refused = check(&Method::GET, &"/".parse().unwrap(), version, &head(&[]));
            assert_eq!(refused, Err(HeadFault::HostMissing), "{version:?}");
        }
        // RFC 9112 §3.2: Host is sent even with the absolute form.
        assert_eq!(h1("http://a.test/", &[]), Err(HeadFault::HostMissing));
    }

    #[test]
    fn an_authority_stands_for_host_on_http_2() {
        let uri = "https://a.test/".parse().unwrap();
        assert_eq!(check(&Method::GET, &uri, Version::HTTP_2, &head(&[])), Ok(()));
        let other = head(&[("host", "b.test")]);
        assert_eq!(check(&Method::GET, &uri, Version::HTTP_2, &other), Err(HeadFault::HostMismatch));
    }

    #[test]
    fn two_hosts_are_refused_even_when_equal() {
        assert_eq!(h1("/", &[("host", "a.test"), ("host", "a.test")]), Err(HeadFault::HostRepeated));
    }

    #[test]
    fn the_target_s_authority_must_be_host() {
        for host in ["b.test", "a.test:80", "a.test.", "a.testx"] {
            assert_eq!(h1("http://a.test/", &[("host", host)]), Err(HeadFault::HostMismatch), "{host}");
        }
        assert_eq!(h1("http://a.test/", &[("host", "A.TEST")]), Ok(()));
    }

    #[test]
    fn a_host_that_is_no_host_is_refused() {
        for host in [
            "",
            ".",
            "a..test",
            ".a.test",
            "a.test..",
            ":80",
            "a b",
            "user@a.test",
            "a.test:",
            "a.test:x",
            "a.test:65536",
            "a.test:-1",
            "a.test:+1",
            "a.test/x",
            "a.test?x",
            "a,b",
            "[::1",
            "[::1]x",
            "[1.2.3.4]",
            "::1",
            "a%2eb",
            "a\\b",
            "http://a.test",
        ] {
            let refused = h1("/", &[("host", host)]);
            assert_eq!(refused, Err(HeadFault::HostMalformed), "{host}");
        }
        for host in ["a.test", "a", "10.0.0.1:80", "[::1]", "[2001:db8::1]:443", "my_service:8000", "a.test."] {
            assert_eq!(h1("/", &[("host", host)]), Ok(()), "{host}");
        }
    }

    #[test]
    fn user_information_in_the_target_is_refused() {
        let host = [("host", "u:p@a.test")];
        assert_eq!(h1("http://u:p@a.test/", &host), Err(HeadFault::HostMalformed));
    }

    #[test]
    fn a_target_of_another_scheme_is_refused() {
        let host = [("host", "a.test")];
        for scheme in ["ftp", "ws", "file", "coap+tcp"] {
            assert_eq!(h1(&format!("{scheme}://a.test/"), &host), Err(HeadFault::Scheme), "{scheme}");
        }
        // Whether TLS was spoken the edge knows, not the client.
        assert_eq!(h1("https://a.test/", &host), Ok(()));
        assert_eq!(h1("HTTP://a.test/", &host), Ok(()));
    }

    #[test]
    fn tunnels_and_echoes_are_refused() {
        for method in [Method::CONNECT, Method::TRACE] {
            let refused = check(&method, &"/".parse().unwrap(), Version::HTTP_11, &head(&[("host", "a.test")]));
            assert_eq!(refused, Err(HeadFault::Method));
        }
    }

    #[test]
    fn names_with_an_underscore_are_refused() {
        for name in ["x_user_id", "x-user_id", "_", "content_length"] {
            assert_eq!(with(name, "1"), Err(HeadFault::Underscore(name.parse().unwrap())));
        }
    }

    #[test]
    fn the_only_transfer_encoding_is_chunked() {
        assert_eq!(with("transfer-encoding", "Chunked"), Ok(()));
        for coding in ["identity", "gzip, chunked", "chunked, chunked", "xchunked", "", "chunked;q=1", "\"chunked\""] {
            assert_eq!(with("transfer-encoding", coding), Err(HeadFault::TransferEncoding), "{coding}");
        }
        let twice = [("host", "a.test"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")];
        assert_eq!(h1("/", &twice), Err(HeadFault::TransferEncoding));
    }

    #[test]
    fn a_length_has_no_leading_zeros() {
        for length in ["0", "7", "10", "18446744073709551615"] {
            assert_eq!(with("content-length", length), Ok(()), "{length}");
        }
        for length in ["", "00", "007", "+7", "-7", " 7", "x7"] {
            assert_eq!(with("content-length", length), Err(HeadFault::ContentLength), "{length}");
        }
    }

    #[test]
    fn headers_that_decide_may_come_only_once() {
        for name in SINGLE {
            let twice = [("host", "a.test"), (name.as_str(), "1"), (name.as_str(), "1")];
            assert_eq!(h1("/", &twice), Err(HeadFault::Repeated(name.clone())));
        }
        assert_eq!(h1("/", &[("host", "a.test"), ("accept", "a"), ("accept", "b")]), Ok(()));
    }

    #[test]
    fn connection_cannot_take_off_end_to_end_headers() {
        for value in ["authorization", "close, X-User-Id", "host", "cookie", "transfer-encoding", "content-length", "é"]
        {
            let value = HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static("x"));
            let mut headers = head(&[("host", "a.test")]);
            headers.insert(CONNECTION, value);
            let refused = check(&Method::GET, &"/".parse().unwrap(), Version::HTTP_11, &headers);
            assert_eq!(refused, Err(HeadFault::Connection));
        }
        for value in ["close", "Keep-Alive, TE", "Upgrade, HTTP2-Settings", "", ", close ,,\ttrailer"] {
            assert_eq!(with("connection", value), Ok(()), "{value}");
        }
    }

    #[test]
    fn a_second_connection_header_is_looked_at_too() {
        let pairs = [("host", "a.test"), ("connection", "close"), ("connection", "authorization")];
        assert_eq!(h1("/", &pairs), Err(HeadFault::Connection));
    }

    #[test]
    fn the_host_for_matching_has_no_port_and_no_final_dot() {
        let of = |host: &str| host_of(&"/".parse().unwrap(), &head(&[("host", host)])).map(str::to_owned);
        assert_eq!(of("a.test:80").unwrap(), "a.test");
        assert_eq!(of("A.test.").unwrap(), "A.test");
        assert_eq!(of("[::1]:80").unwrap(), "[::1]");
        assert_eq!(of("u@a.test"), None);
        assert_eq!(host_of(&"http://b.test/".parse().unwrap(), &head(&[])), Some("b.test"));
    }

    #[test]
    fn the_client_s_sentence_names_the_header_and_no_value() {
        assert_eq!(
            with("x_secret", "hunter2").unwrap_err().to_string(),
            "header names may not hold an underscore: x_secret"
        );
        assert_eq!(with("connection", "hunter2").unwrap_err().reason(), Reason::HeaderInvalid);
    }

    proptest! {
        #[test]
        fn any_host_passes_or_fails_without_panic_and_passes_only_when_it_matches(host in "[a-z0-9.:@\\[\\]%_/ -]{0,20}") {
            let headers = head(&[("host", &host)]);
            let uri = Uri::from_static("/");
            let passes = check(&Method::GET, &uri, Version::HTTP_11, &headers).is_ok();
            prop_assert_eq!(passes, host_of(&uri, &headers).is_some());
        }
    }
}
