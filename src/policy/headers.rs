//! Which headers are taken off, in requests, answers and trailers: reserved names, names that the operator chose for
//! the identity, what speaks to one hop only, and in answers `Set-Cookie` for a cookie of ours. (Our cookies in
//! requests are [`crate::policy::cookies`]'.)
//!
//! A reserved name is one by which services or proxies tell who calls, from where, or what was asked. It is removed
//! from every request, on public routes too, and only then set by us, if we set it at all: whatever an upstream reads
//! under such a name comes from the gateway. Names are compared lower-case with `_` as `-`, as CGI-like servers read
//! them. Hop-by-hop: RFC 9110 §7.6.1.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, SET_COOKIE},
};

/// Reserved names: what an upstream must be able to believe.
///
/// `x-request-id` is not here: it is set over by the layer that makes it. `traceparent` is not either: it says
/// nothing an upstream would authorise by, and losing it breaks traces.
const RESERVED: &[&str] = &[
    // The identity we forward, and the names other gateways forward it under.
    "x-gateway-identity",
    "x-user",
    "x-user-id",
    "x-user-email",
    "x-user-name",
    "x-user-roles",
    "x-user-groups",
    "x-org-id",
    "x-remote-user",
    "x-remote-groups",
    "x-authenticated-user",
    // Who the client is on the network: the upstream's logs and limits go by it.
    "forwarded",
    "x-forwarded",
    "fastly-client-ip",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    // A client certificate, as TLS-terminating proxies forward it.
    "x-client-cert",
    "client-cert",
    "client-cert-chain",
    // Another path or method than the one the policy was applied to.
    "x-rewrite-url",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    // CGI turns `Proxy` into HTTP_PROXY, which sends the upstream's own calls to whom the client likes ("httpoxy").
    "proxy",
];

/// Reserved beginnings.
const RESERVED_PREFIXES: &[&str] = &[
    "x-forwarded-",
    "x-auth-",
    "x-remote-user-",
    "remote-",
    "x-webauth-",
    "x-authentik-",
    "x-pomerium-",
    "x-goog-",
    "x-amzn-oidc-",
    "x-ms-client-principal",
    "x-openwebui-",
    "x-original-",
    "x-envoy-",
    "x-ssl-client-",
    "ssl-client-",
    "cf-",
    "tailscale-",
];

/// Whether a name is reserved.
#[must_use]
pub fn is_reserved(name: &HeaderName) -> bool {
    let name = name.as_str();
    // The common headers of every request are told apart by their first letter.
    if !matches!(name.as_bytes().first(), Some(b'x' | b'f' | b'r' | b't' | b'c' | b'p' | b's')) {
        return false;
    }
    let name = if name.contains('_') { Cow::Owned(name.replace('_', "-")) } else { Cow::Borrowed(name) };
    RESERVED.contains(&&*name) || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether one of `own`, the names the operator chose, is meant: with `_` as `-`, too.
fn is_own(name: &HeaderName, own: &[HeaderName]) -> bool {
    let name = name.as_str();
    own.iter().map(HeaderName::as_str).any(|own| {
        own.len() == name.len()
            && own.bytes().zip(name.bytes()).all(|(own, byte)| own == byte || (own, byte) == (b'-', b'_'))
    })
}

/// Removes every header under a name that the operator chose for us: a name that is not reserved by itself.
pub fn strip_own(headers: &mut HeaderMap, own: &[HeaderName]) {
    if !own.is_empty() {
        strip(headers, |name| is_own(name, own));
    }
}

/// Removes every reserved header: first thing on the way in.
pub fn strip_reserved(headers: &mut HeaderMap) {
    strip(headers, is_reserved);
}

/// Removes what speaks to one hop only, either way: what `Connection` nominates and what always does.
///
/// `Expect` is among them, since hyper has answered it; `TE: trailers` too: trailers of a request are not forwarded.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        for name in nominated(headers) {
            headers.remove(name);
        }
    }
    strip(headers, is_hop_by_hop);
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authentication-info"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
            | "expect"
    )
}

/// Removes the headers so named. What is looked for is rare, so looking again after each find costs less than
/// collecting first, and a map without any is only read.
fn strip(headers: &mut HeaderMap, condemned: impl Fn(&HeaderName) -> bool) {
    while let Some(name) = headers.keys().find(|name| condemned(name)).cloned() {
        headers.remove(name);
    }
}

fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(CONNECTION).iter();
    let options = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    options
        .map(<[u8]>::trim_ascii)
        .filter(|option| !option.eq_ignore_ascii_case(b"close") && !option.eq_ignore_ascii_case(b"keep-alive"))
        .filter_map(|option| HeaderName::from_bytes(option).ok())
        .collect()
}

/// Removes from an upstream's answer what only we may say: reserved headers, and `Set-Cookie` for our own cookies.
pub fn strip_reserved_response<N: AsRef<str>>(headers: &mut HeaderMap, own_cookies: &[N]) {
    strip_reserved(headers);
    if !headers.get_all(SET_COOKIE).iter().any(|value| sets(value, own_cookies)) {
        return;
    }
    let theirs: Vec<_> =
        headers.get_all(SET_COOKIE).iter().filter(|value| !sets(value, own_cookies)).cloned().collect();
    headers.remove(SET_COOKIE);
    for value in theirs {
        headers.append(SET_COOKIE, value);
    }
}

/// What only we say in an answer, wherever in it.
#[derive(Debug, Clone, Copy)]
pub struct Ours<'a, N> {
    /// Names of our own cookies.
    pub cookies: &'a [N],
    /// Names, not reserved by themselves, that the operator chose for an identity.
    pub identity: &'a [HeaderName],
    /// The name of the request id.
    pub request_id: &'a HeaderName,
}

/// Removes from the trailers of an upstream's answer what is not taken from its head either, and what may stand in no
/// trailer: the framing and form of the content (RFC 9110 §6.5.1). A client may merge trailers into the head (§6.5.2).
pub fn strip_trailers<N: AsRef<str>>(trailers: &mut HeaderMap, ours: &Ours<'_, N>) {
    strip_reserved_response(trailers, ours.cookies);
    strip_own(trailers, ours.identity);
    strip(trailers, |name| {
        let content = ["content-length", "content-encoding", "content-type", "content-range", "host"];
        is_hop_by_hop(name) || content.contains(&name.as_str()) || is_own(name, std::slice::from_ref(ours.request_id))
    });
}

/// Whether a `Set-Cookie` names one of these cookies, in any case. A nameless cookie (`=name=value`) is sent back by
/// browsers as `name=value` (RFC 6265bis §5.7), so leading `=` are looked through.
fn sets<N: AsRef<str>>(value: &HeaderValue, own_cookies: &[N]) -> bool {
    let pair = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    let start = pair.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'=')).unwrap_or(pair.len());
    let name = pair[start..].split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
    own_cookies.iter().any(|own| name.eq_ignore_ascii_case(own.as_ref().as_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        pairs.iter().map(pair).collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_client_cannot_say_who_it_is_or_where_it_comes_from() {
        for name in RESERVED.iter().chain(&["x-forwarded-for", "X-Forwarded-Host", "x-auth-request-email", "X-USER-ID"])
        {
            let mut headers = head(&[("accept", "*/*"), (name, "1"), (name, "2")]);
            strip_reserved(&mut headers);
            assert_eq!(names(&headers), ["accept"], "{name}");
        }
    }

    #[test]
    fn an_underscore_is_no_way_around() {
        for name in ["x_user_id", "x-user_id", "x_forwarded_for", "remote_user", "x_gateway-identity"] {
            assert!(is_reserved(&name.parse().unwrap()), "{name}");
        }
    }

    #[test]
    fn other_gateways_names_for_an_identity_or_an_address_are_reserved_too() {
        for name in [
            "x-user-groups",
            "remote-groups",
            "remote-email",
            "x-webauth-email",
            "x-authentik-username",
            "x-pomerium-jwt-assertion",
            "x-pomerium-claim-email",
            "x-goog-iap-jwt-assertion",
            "cf-access-jwt-assertion",
            "cf-connecting-ip",
            "fastly-client-ip",
            "x-envoy-external-address",
            "x-ms-client-principal",
            "x-openwebui-user-id",
            "tailscale-user-login",
            "ssl-client-cert",
            "x-ssl-client-dn",
            "x-original-host",
            "x-original-method",
            "x-http-method",
            "x-forwarded",
        ] {
            assert!(is_reserved(&name.parse().unwrap()), "{name}");
        }
    }

    #[test]
    fn names_the_operator_chose_are_as_good_as_reserved() {
        let own = [HeaderName::from_static("x-who-is-it")];
        let mut headers =
            head(&[("x-who-is-it", "1"), ("X_Who-is_it", "2"), ("x-who-is-i", "3"), ("x-who-is-its", "4")]);
        strip_own(&mut headers, &own);
        assert_eq!(names(&headers), ["x-who-is-i", "x-who-is-its"]);
    }

    #[test]
    fn ordinary_headers_are_left_alone() {
        for name in [
            "host",
            "accept",
            "authorization",
            "cookie",
            "content-type",
            "traceparent",
            "x-request-id",
            "x-api-key",
            "x-user-agent",
            "x-requested-with",
            "range",
            "referer",
            "te",
            "forwarded-for",
            "x-authority",
        ] {
            assert!(!is_reserved(&name.parse().unwrap()), "{name}");
        }
    }

    #[test]
    fn hop_by_hop_headers_are_removed_with_what_connection_nominates() {
        let mut headers = head(&[
            ("connection", "close, X-Once"),
            ("connection", "x-twice,, ,é"),
            ("x-once", "1"),
            ("x-twice", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("proxy-authorization", "Basic x"),
            ("proxy-authenticate", "Basic"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("expect", "100-continue"),
            ("content-length", "3"),
            ("x-kept", "1"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(names(&headers), ["content-length", "x-kept"]);
    }

    #[test]
    fn an_upstream_cannot_set_our_cookies_or_speak_as_the_gateway() {
        let own = ["__Secure-portcullis_refresh", "__Host-portcullis"];
        let mut headers = head(&[
            ("set-cookie", "theirs=1; Path=/"),
            ("set-cookie", "__Secure-portcullis_refresh=evil; Path=/auth"),
            ("set-cookie", "__secure-PORTCULLIS_refresh=evil"),
            ("set-cookie", "  __Host-portcullis =evil"),
            ("set-cookie", "=__Host-portcullis=evil"),
            ("set-cookie", " = __Host-portcullis=evil"),
            ("set-cookie", "__Host-portcullis"),
            ("set-cookie", "__Host-portcullis2=fine"),
            ("set-cookie", "a=__Host-portcullis"),
            ("x-gateway-identity", "forged"),
        ]);
        strip_reserved_response(&mut headers, &own);
        let left: Vec<_> = headers.get_all(SET_COOKIE).iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(left, ["theirs=1; Path=/", "__Host-portcullis2=fine", "a=__Host-portcullis"]);
        assert_eq!(names(&headers), ["set-cookie"]);
    }

    #[test]
    fn trailers_say_nothing_that_the_head_may_not_say() {
        let (identity, request_id) = ([HeaderName::from_static("x-who")], HeaderName::from_static("x-request-id"));
        let ours = Ours { cookies: &["__Host-portcullis"], identity: &identity, request_id: &request_id };
        let mut trailers = head(&[
            ("x-user-id", "eve"),
            ("X-Who", "eve"),
            ("x_who", "eve"),
            ("x-request-id", "another"),
            ("x_request-id", "another"),
            ("set-cookie", "__host-Portcullis=evil"),
            ("set-cookie", "theirs=1"),
            ("content-length", "7"),
            ("content-type", "text/html"),
            ("transfer-encoding", "chunked"),
            ("connection", "close"),
            ("trailer", "x"),
            ("x-checksum", "abc"),
            ("grpc-status", "0"),
        ]);
        strip_trailers(&mut trailers, &ours);
        assert_eq!(names(&trailers), ["grpc-status", "set-cookie", "x-checksum"]);
        assert_eq!(trailers[SET_COOKIE], "theirs=1");
    }

    #[test]
    fn cookies_of_others_keep_their_order_when_none_is_ours() {
        let mut headers = head(&[("set-cookie", "b=1"), ("set-cookie", "a=1"), ("set-cookie", "")]);
        let before = headers.clone();
        strip_reserved_response(&mut headers, &["__Host-x"]);
        assert_eq!(headers, before);
    }

    /// Any spelling of a name: any case, `-` or `_`.
    fn respelled(name: &str, seed: u64) -> String {
        let respell = |(i, c): (usize, char)| match (c, seed >> (i % 64) & 1) {
            ('-', 1) => '_',
            (c, 1) => c.to_ascii_uppercase(),
            (c, _) => c,
        };
        name.chars().enumerate().map(respell).collect()
    }

    proptest! {
        #[test]
        fn nothing_reserved_survives_in_any_spelling(
            picks in prop::collection::vec((prop::sample::select(RESERVED.to_vec()), any::<u64>()), 0..8),
            suffixes in prop::collection::vec((prop::sample::select(RESERVED_PREFIXES.to_vec()), "[a-z0-9_-]{0,8}"), 0..4),
            others in prop::collection::vec("[a-z][a-z0-9_-]{0,12}", 0..8),
        ) {
            let mut headers = HeaderMap::new();
            let spelled = picks.iter().map(|(name, seed)| respelled(name, *seed));
            let prefixed = suffixes.iter().map(|(prefix, suffix)| format!("{prefix}{suffix}"));
            for name in spelled.chain(prefixed).chain(others) {
                headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_static("x"));
            }
            strip_reserved(&mut headers);
            for name in headers.keys() {
                let plain = name.as_str().replace('_', "-");
                prop_assert!(!RESERVED.contains(&&*plain) && !RESERVED_PREFIXES.iter().any(|prefix| plain.starts_with(prefix)));
            }
        }

        #[test]
        fn whatever_an_upstream_writes_our_cookie_is_not_set(lead in "[ \t=]{0,3}", tail in "[ =;a-z]{0,6}", seed in any::<u64>()) {
            let value = format!("{lead}{}{tail}", respelled("__host-portcullis", seed).replace('_', "-").replacen("--", "__", 1));
            let mut headers = HeaderMap::new();
            headers.append(SET_COOKIE, value.parse().unwrap());
            strip_reserved_response(&mut headers, &["__Host-portcullis"]);
            for left in headers.get_all(SET_COOKIE) {
                let left = left.to_str().unwrap().trim_start_matches([' ', '\t', '=']).to_ascii_lowercase();
                let name = left.split(['=', ';']).next().unwrap().trim();
                prop_assert_ne!(name, "__host-portcullis");
            }
        }
    }
}
