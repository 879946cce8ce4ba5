//! May a cookie speak for this request? The rule against cross-site request forgery, from what browsers cannot be made
//! to lie about (Fetch Metadata; RFC 6454 §7; OWASP's CSRF cheat sheet).

use std::sync::Arc;

use http::{
    HeaderMap, HeaderName, Method, Uri,
    header::{ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE},
};

/// Whether a cookie counts as a credential here: the method is safe (RFC 9110 §9.2.1), or `Sec-Fetch-Site` says
/// `same-origin` or `none` (typed by the user), or `Origin` is our own or a listed one.
///
/// Both headers absent on an unsafe method: refused; that is no browser of this decade, and clients that are none use
/// bearer tokens. `own_origin` and `allowed` are serialised origins (`https://a.test`, a port only when it is not the
/// default), compared without regard to case. The opaque origin `null` is nobody's, listed or not.
#[must_use]
pub fn cookie_allowed(
    method: &Method,
    sec_fetch_site: Option<&str>,
    origin: Option<&str>,
    own_origin: &str,
    allowed: &[Arc<str>],
) -> bool {
    method.is_safe()
        || matches!(sec_fetch_site, Some("same-origin" | "none"))
        || origin.is_some_and(|origin| {
            let is = |other: &str| origin.eq_ignore_ascii_case(other);
            !is("null") && !is("") && (is(own_origin) || allowed.iter().any(|listed| is(listed)))
        })
}

/// [`cookie_allowed`] for a request's own headers.
///
/// A request to change protocols is no safe method, whatever it says: over a WebSocket anything may follow, and no
/// preflight guards it.
#[must_use]
pub fn cookie_counts(method: &Method, headers: &HeaderMap, own_origin: &str, allowed: &[Arc<str>]) -> bool {
    // A header that came twice or is no text is treated as a foreign one, not as an absent one.
    let text = |name: HeaderName| {
        let mut values = headers.get_all(name).iter();
        values.next().map(|value| match values.next() {
            None => value.to_str().unwrap_or("null"),
            Some(_) => "null",
        })
    };
    // Another proxy that asks whether it may forward the handshake may have taken `Upgrade` off; not what only browsers
    // that open a WebSocket send, and no script can leave out (RFC 6455 §4.1).
    let upgrades = [UPGRADE, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION].iter().any(|name| headers.contains_key(name));
    let method = if upgrades { &Method::POST } else { method };
    cookie_allowed(method, text(SEC_FETCH_SITE), text(ORIGIN), own_origin, allowed)
}

/// Whether nothing says where a request comes from, as no browser of this decade would send an unsafe one.
#[must_use]
pub fn says_nothing(headers: &HeaderMap) -> bool {
    !headers.contains_key(ORIGIN) && !headers.contains_key(SEC_FETCH_SITE)
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The origin (RFC 6454 §6.2) of an http(s) URL, as a browser writes it: default ports left out.
#[must_use]
pub fn origin_of(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let (scheme, host) = (uri.scheme_str()?, uri.host()?.to_ascii_lowercase());
    Some(match (scheme, uri.port_u16()) {
        (_, None) | ("https", Some(443)) | ("http", Some(80)) => format!("{scheme}://{host}"),
        (_, Some(port)) => format!("{scheme}://{host}:{port}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "https://gw.test";

    fn post(site: Option<&str>, origin: Option<&str>) -> bool {
        cookie_allowed(&Method::POST, site, origin, OWN, &["https://app.test:8443".into()])
    }

    #[test]
    fn a_form_on_another_site_cannot_use_the_cookie() {
        assert!(!post(Some("cross-site"), Some("https://evil.test")));
        assert!(!post(Some("cross-site"), None));
        assert!(!post(None, Some("https://evil.test")));
    }

    #[test]
    fn a_socket_from_another_site_cannot_use_the_cookie() {
        let count = |pairs: &[(&str, &str)]| {
            let pair = |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            cookie_counts(&Method::GET, &pairs.iter().map(pair).collect(), OWN, &[])
        };
        assert!(count(&[("origin", "https://evil.test")]));
        assert!(!count(&[("upgrade", "websocket"), ("origin", "https://evil.test")]));
        assert!(!count(&[("upgrade", "websocket")]));
        // What is left of a handshake when another proxy asks about it.
        for name in ["sec-websocket-key", "sec-websocket-version"] {
            assert!(!count(&[(name, "13"), ("origin", "https://evil.test")]), "{name}");
        }
        assert!(count(&[("upgrade", "websocket"), ("origin", OWN)]));
        assert!(!count(&[("upgrade", "websocket"), ("origin", OWN), ("origin", "https://evil.test")]));
    }

    #[test]
    fn an_issuer_s_origin_is_as_browsers_write_it() {
        for (url, expected) in [
            ("https://gw.test", "https://gw.test"),
            ("https://GW.test:443", "https://gw.test"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://gw.test:80/base", "http://gw.test"),
            ("https://gw.test:80", "https://gw.test:80"),
            ("http://[::1]:8080", "http://[::1]:8080"),
        ] {
            assert_eq!(origin_of(url).as_deref(), Some(expected));
        }
        assert_eq!(origin_of("gw.test"), None);
        assert_eq!(origin_of("/auth"), None);
    }

    #[test]
    fn a_sibling_host_is_not_us() {
        assert!(!post(Some("same-site"), Some("https://evil.gw.test")));
        assert!(!post(Some("same-site"), None));
    }

    #[test]
    fn our_own_pages_and_listed_origins_can() {
        assert!(post(Some("same-origin"), None));
        assert!(post(Some("none"), None));
        assert!(post(None, Some(OWN)) && post(None, Some("HTTPS://GW.test")));
        assert!(post(Some("cross-site"), Some("https://app.test:8443")));
    }

    #[test]
    fn saying_nothing_is_refused() {
        assert!(!post(None, None));
    }

    #[test]
    fn origins_that_only_look_like_ours_are_refused() {
        for near in
            ["http://gw.test", "https://gw.test:8443", "https://gw.test.evil.test", "https://gw.test/", "null", ""]
        {
            assert!(!post(None, Some(near)), "{near}");
        }
    }

    #[test]
    fn the_opaque_origin_is_nobody_s_even_when_listed() {
        assert!(!cookie_allowed(&Method::POST, None, Some("null"), OWN, &["null".into()]));
        assert!(!cookie_allowed(&Method::POST, None, Some(""), "", &["".into()]));
    }

    #[test]
    fn words_of_fetch_metadata_are_compared_exactly() {
        for near in ["Same-Origin", "same-origin ", "none, cross-site", ""] {
            assert!(!post(Some(near), None), "{near}");
        }
    }

    #[test]
    fn safe_methods_pass_and_every_other_is_guarded() {
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            assert!(cookie_allowed(&method, Some("cross-site"), None, OWN, &[]), "{method}");
        }
        for method in ["POST", "PUT", "PATCH", "DELETE", "PURGE", "get"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert!(!cookie_allowed(&method, Some("cross-site"), None, OWN, &[]), "{method}");
        }
    }
}
