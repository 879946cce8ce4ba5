//! Our own cookies (RFC 6265): read, and taken out of a request before it goes on.

use std::sync::Arc;

use http::{
    HeaderMap, HeaderValue,
    header::{CACHE_CONTROL, COOKIE},
};

/// Removes our cookies and leaves the others as they are, folded into one header if there were several: HTTP/2 sends
/// them in crumbs, and an HTTP/1.1 service must get one (RFC 9113 §8.2.3).
pub fn strip(headers: &mut HeaderMap, own: &[Arc<str>]) {
    let mut several = headers.get_all(COOKIE).iter();
    let several = match (several.next(), several.next()) {
        (None, _) => return,
        (Some(_), next) => next.is_some(),
    };
    let is_own = |value: &HeaderValue| {
        value.as_bytes().split(|byte| *byte == b';').any(|pair| own.iter().any(|name| names(pair, name.as_bytes())))
    };
    if !several && !headers.get_all(COOKIE).iter().any(is_own) {
        return;
    }
    let mut kept = Vec::new();
    for value in headers.get_all(COOKIE) {
        for pair in value.as_bytes().split(|byte| *byte == b';') {
            if !own.iter().any(|name| names(pair, name.as_bytes())) {
                if !kept.is_empty() {
                    kept.extend_from_slice(b"; ");
                }
                kept.extend_from_slice(pair.trim_ascii());
            }
        }
    }
    headers.remove(COOKIE);
    if !kept.is_empty()
        && let Ok(value) = HeaderValue::from_bytes(&kept)
    {
        headers.insert(COOKIE, value);
    }
}

/// The one value of a cookie; empty ones count as none.
///
/// # Errors
/// [`Planted`] when two came: one of them is planted, and nobody can say which.
pub fn only<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Planted> {
    // Byte by byte: browsers send whatever a page has put into some other cookie, and that must not hide ours.
    let pairs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let value_of = |pair: &'a [u8]| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=");
    let mut values = pairs.filter_map(value_of).filter(|value| !value.is_empty());
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(Planted),
        // One that is no text is one that no token is.
        (Some(value), None) => Ok(Some(std::str::from_utf8(value).unwrap_or("\u{fffd}"))),
        (None, None) => Ok(None),
    }
}

/// Keeps shared caches from storing an answer that was given to a cookie: what RFC 9111 §3.5 says of `Authorization`
/// nobody says of cookies, and one user's page would be another's. A service that says who may store it is believed.
pub fn keep_private(answer: &mut HeaderMap) {
    const SAID: [&[u8]; 5] = [b"public", b"private", b"no-store", b"s-maxage", b"must-revalidate"];
    let directives =
        answer.get_all(CACHE_CONTROL).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut names = directives.map(|one| one.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii());
    if !names.any(|name| SAID.iter().any(|said| name.eq_ignore_ascii_case(said))) {
        answer.append(CACHE_CONTROL, HeaderValue::from_static("private"));
    }
}

/// Two cookies of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cookie of ours came twice")]
pub struct Planted;

fn names(pair: &[u8], name: &[u8]) -> bool {
    let pair = pair.trim_ascii();
    pair.strip_prefix(name).is_some_and(|rest| rest.trim_ascii_start().first().is_none_or(|byte| *byte == b'='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (COOKIE, HeaderValue::from_static(value))).collect()
    }

    fn own() -> Vec<Arc<str>> {
        vec!["__Secure-r".into()]
    }

    #[test]
    fn ours_is_taken_out_and_theirs_stay() {
        let mut map = headers(&["a=1; __Secure-r=secret; b=2", "c=3"]);
        strip(&mut map, &own());
        assert_eq!(map.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }

    #[test]
    fn no_spelling_lets_ours_through() {
        for spelled in ["__Secure-r=x", "a=1;__Secure-r=x", " __Secure-r =x", "__Secure-r", "a=1; __Secure-r=x=y"] {
            let mut map = headers(&[]);
            map.insert(COOKIE, HeaderValue::from_str(spelled).unwrap());
            strip(&mut map, &own());
            let left = map.get(COOKIE).map_or("", |value| value.to_str().unwrap());
            assert!(!left.contains("__Secure-r"), "{spelled} left {left}");
        }
    }

    #[test]
    fn somebody_else_s_cookie_hides_none_of_ours_whatever_it_holds() {
        let lines = |lines: &[&'static [u8]]| -> HeaderMap {
            lines.iter().map(|line| (COOKIE, HeaderValue::from_bytes(line).unwrap())).collect()
        };
        let name = "__Host-a";
        for line in [&b"name=Jos\xc3\xa9; __Host-a=t"[..], b"__Host-a=t; name=Jos\xe9", b"\xff;__Host-a=t;\xff=\xff"] {
            assert_eq!(only(&lines(&[line]), name), Ok(Some("t")), "{line:?}");
        }
        for planted in [&[&b"__Host-a=p; x=\xff"[..], b"__Host-a=t"][..], &[b"__Host-a=t; __Host-a=\xff"]] {
            assert_eq!(only(&lines(planted), name), Err(Planted), "{planted:?}");
        }
        assert_eq!(only(&lines(&[b"__Host-a=; __Host-ab=t; a=__Host-a; __Host-a"]), name), Ok(None));
        assert!(matches!(only(&lines(&[b"__Host-a=\xff"]), name), Ok(Some(no_token)) if !no_token.is_ascii()));
    }

    #[test]
    fn crumbs_are_folded_even_when_none_is_ours() {
        let mut map = headers(&["a=1", "b=2"]);
        strip(&mut map, &own());
        assert_eq!(map.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn an_answer_to_a_cookie_is_for_no_shared_cache_unless_its_service_says_so() {
        for (said, kept) in [
            (&[][..], vec!["private"]),
            (&["max-age=60"], vec!["max-age=60", "private"]),
            (&["max-age=60, Public"], vec!["max-age=60, Public"]),
            (&["no-cache", "s-maxage=5"], vec!["no-cache", "s-maxage=5"]),
            (&["private=\"x-a\""], vec!["private=\"x-a\""]),
            (&["no-store"], vec!["no-store"]),
        ] {
            let mut answer: HeaderMap =
                said.iter().map(|value| (CACHE_CONTROL, HeaderValue::from_static(value))).collect();
            keep_private(&mut answer);
            assert_eq!(answer.get_all(CACHE_CONTROL).iter().collect::<Vec<_>>(), kept);
        }
    }

    #[test]
    fn a_longer_name_is_another_cookie() {
        let mut map = headers(&["__Secure-rx=1"]);
        strip(&mut map, &own());
        assert_eq!(map[COOKIE], "__Secure-rx=1");
    }
}
