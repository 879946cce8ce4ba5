//! The cookies (RFC 6265bis), first of all the refresh cookie: how it is read, set and cleared.
//!
//! `HttpOnly` keeps it from scripts, `Secure` from cleartext, `SameSite=Strict` from other sites' requests, and its
//! path from every request but the portal's own. The `__Secure-` prefix (checked in the configuration) keeps a
//! cleartext neighbour from planting one. `__Host-` keeps other hosts of the domain from it too, at the price of the
//! path: browsers take such a cookie with `Path=/` only, and then send it with every request to this host; it is taken
//! off before one goes upstream.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    config::settings::{Lockout, Portal},
    gate::refusal::Refusal,
    policy::{cookies, reason::Reason},
};

/// The refresh token in the request's cookies.
///
/// # Errors
/// [`Reason::RefreshInvalid`] when two cookies of that name came: one of them is planted, and nobody can say which.
pub(crate) fn read(headers: &HeaderMap, portal: &Portal) -> Result<Option<SecretString>, Refusal> {
    let value = cookies::only(headers, &portal.cookie_name).map_err(|_| Reason::RefreshInvalid)?;
    Ok(value.map(SecretString::from))
}

/// The `Set-Cookie` lines that hand out a refresh token for as long as it can be used: one for each path that the portal
/// lives under, so that a login under one can be refreshed under another.
pub(crate) fn set(token: &SecretString, life: Duration, portal: &Portal) -> Result<Vec<HeaderValue>, Refusal> {
    write(token.expose_secret(), life.as_secs(), portal)
}

/// The `Set-Cookie` lines that take every token away.
pub(crate) fn clear(portal: &Portal) -> Result<Vec<HeaderValue>, Refusal> {
    let mut lines = write("", 0, portal)?;
    lines.extend(access(&SecretString::default(), 0, portal)?);
    Ok(lines)
}

/// The `Set-Cookie` that hands out an access token for so many seconds, if any route takes one. With every request to
/// this host, which is what it is for; as strict as the refresh cookie, so that a link from elsewhere arrives without it.
pub(crate) fn access(token: &SecretString, seconds: u64, portal: &Portal) -> Result<Option<HeaderValue>, Refusal> {
    let name = &portal.access_cookie_name;
    portal.sets_access_cookie.then(|| line(name, token.expose_secret(), seconds, "/")).transpose()
}

/// The device cookie in the request; two count as none, since one of them is planted.
pub(crate) fn device(headers: &HeaderMap, lockout: &Lockout) -> Option<SecretString> {
    cookies::only(headers, &lockout.device_cookie).ok().flatten().map(SecretString::from)
}

/// The `Set-Cookie` lines that hand out a device cookie.
pub(crate) fn set_device(
    cookie: &SecretString,
    lockout: &Lockout,
    portal: &Portal,
) -> Result<Vec<HeaderValue>, Refusal> {
    lines(&lockout.device_cookie, cookie.expose_secret(), lockout.device_life.as_secs(), portal)
}

fn write(value: &str, max_age: u64, portal: &Portal) -> Result<Vec<HeaderValue>, Refusal> {
    lines(&portal.cookie_name, value, max_age, portal)
}

fn lines(name: &str, value: &str, max_age: u64, portal: &Portal) -> Result<Vec<HeaderValue>, Refusal> {
    if name.starts_with("__Host-") {
        return Ok(vec![line(name, value, max_age, "/")?]);
    }
    portal.base_paths.iter().map(|path| line(name, value, max_age, path)).collect()
}

fn line(name: &str, value: &str, max_age: u64, path: &str) -> Result<HeaderValue, Refusal> {
    let line = format!("{name}={value}; Max-Age={max_age}; Path={path}; HttpOnly; Secure; SameSite=Strict");
    let mut line =
        HeaderValue::try_from(line).map_err(|_| Refusal::internal("a cookie's name or path is no header text"))?;
    line.set_sensitive(true);
    Ok(line)
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;
    use crate::portal::tests::portal;

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::COOKIE, line.parse().unwrap());
        }
        headers
    }

    fn token(lines: &[&str]) -> Result<Option<String>, Reason> {
        match read(&headers(lines), &portal()) {
            Ok(token) => Ok(token.map(|token| token.expose_secret().to_owned())),
            Err(refusal) => Err(refusal.reason),
        }
    }

    #[test]
    fn the_cookie_is_found_among_others_and_in_split_lines() {
        assert_eq!(token(&["a=b; __Secure-refresh=t1; c=d"]), Ok(Some("t1".into())));
        assert_eq!(token(&["a=b", "__Secure-refresh=t1"]), Ok(Some("t1".into())));
    }

    #[test]
    fn no_cookie_and_an_empty_one_are_none() {
        for lines in [&[][..], &["a=b"], &["__Secure-refresh="], &["__secure-refresh=t1"], &["x__Secure-refresh=t1"]] {
            assert_eq!(token(lines), Ok(None), "{lines:?}");
        }
    }

    #[test]
    fn a_planted_second_cookie_spoils_both() {
        assert_eq!(token(&["__Secure-refresh=t1; __Secure-refresh=t2"]), Err(Reason::RefreshInvalid));
        assert_eq!(token(&["__Secure-refresh=t1", "__Secure-refresh=t1"]), Err(Reason::RefreshInvalid));
    }

    #[test]
    fn the_cookie_is_set_with_every_guard() {
        let value = set(&"t1".into(), Duration::from_secs(90), &portal()).unwrap().remove(0);
        let expected = "__Secure-refresh=t1; Max-Age=90; Path=/auth; HttpOnly; Secure; SameSite=Strict";
        assert_eq!(value.to_str().unwrap(), expected);
        assert!(!format!("{value:?}").contains("t1"), "a logged header would show it");
    }

    #[test]
    fn the_cookie_is_cleared_under_the_same_name_and_path() {
        let value = clear(&portal()).unwrap().remove(0);
        let expected = "__Secure-refresh=; Max-Age=0; Path=/auth; HttpOnly; Secure; SameSite=Strict";
        assert_eq!(value.to_str().unwrap(), expected);
    }

    #[test]
    fn every_path_of_the_portal_gets_the_cookie() {
        let portal = Portal { base_paths: vec!["/auth".into(), "/api/auth".into()], ..portal() };
        for lines in [set(&"t1".into(), Duration::from_secs(90), &portal), clear(&portal)] {
            let lines = lines.unwrap();
            let paths: Vec<_> = lines.iter().map(|line| line.to_str().unwrap().split("; ").nth(2).unwrap()).collect();
            assert_eq!(paths, ["Path=/auth", "Path=/api/auth"]);
        }
    }

    #[test]
    fn a_host_prefixed_cookie_has_the_only_path_that_browsers_take_it_with() {
        let base_paths = vec!["/auth".into(), "/api/auth".into()];
        let portal = Portal { cookie_name: "__Host-refresh".into(), base_paths, ..portal() };
        for value in [set(&"t1".into(), Duration::from_secs(90), &portal), clear(&portal)] {
            let value = value.unwrap().remove(0);
            assert!(value.to_str().unwrap().contains("; Path=/; HttpOnly; Secure;"), "{value:?}");
            assert!(!value.to_str().unwrap().contains("Domain"), "{value:?}");
        }
    }
}
