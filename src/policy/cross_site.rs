//! May a cookie speak for this request? The rule against cross-site request forgery, from what browsers cannot be made
//! to lie about (Fetch Metadata; RFC 6454 §7; OWASP's CSRF cheat sheet).

use std::sync::Arc;

use http::Method;

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
