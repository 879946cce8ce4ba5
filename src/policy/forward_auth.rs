//! Forward-auth: where another proxy that asks for a decision says what *it* was asked, and how it takes a "no".
//!
//! Each proxy has an endpoint of its own below the portal's base paths (`/auth/forward/nginx`, …), since each sets
//! other headers: what one of them overwrites, a client can write past another. So each fact has one source here, and
//! one that is missing or doubled is refused, never guessed. Nothing of this is a standard; nginx's `auth_request`,
//! Traefik's `ForwardAuth`, Caddy's `forward_auth` and Envoy's `ext_authz` (HTTP) each do as their documents say. Of a
//! path nothing is judged here but that it is one: [`crate::policy::path`] judges it as it does any other.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, uri::PathAndQuery};

use crate::policy::reason::Reason;

/// Below each of the portal's base paths.
const FOLDER: &str = "/forward";

const X_ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const X_ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
const X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// How a proxy asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `auth_request`: `X-Original-Method`, `X-Original-URI` and `Host`, each set by `proxy_set_header`.
    Nginx,
    /// `ForwardAuth`: `X-Forwarded-Method`, `-Uri`, `-Host`, set by Traefik itself.
    Traefik,
    /// `forward_auth`: the same names, set by Caddy itself.
    Caddy,
    /// `ext_authz`: the original's own method and `Host`, its path behind this endpoint's (`path_prefix`).
    Envoy,
}

impl Form {
    const ALL: [Self; 4] = [Self::Nginx, Self::Traefik, Self::Caddy, Self::Envoy];

    /// Its name: in the path, and in the access log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Traefik => "traefik",
            Self::Caddy => "caddy",
            Self::Envoy => "envoy",
        }
    }

    /// The form that the rest of a path ([`below`]) asks in, and what stands behind it; `None`: in none there is.
    #[must_use]
    pub fn of(rest: &str) -> Option<(Self, &str)> {
        let rest = rest.strip_prefix('/')?;
        let (name, behind) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let form = Self::ALL.into_iter().find(|form| form.name() == name)?;
        (behind.is_empty() || form == Self::Envoy).then_some((form, behind))
    }

    /// The status for a refusal, where the proxy would not pass the true one on: nginx knows 401 and 403, and makes 500
    /// of any other. A fault of ours stays one.
    #[must_use]
    pub fn status(self, status: StatusCode) -> Option<StatusCode> {
        let known = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        (self == Self::Nginx && !known && status.is_client_error()).then_some(StatusCode::FORBIDDEN)
    }
}

/// What of a path lies below one of the places where decisions are asked for: `/nginx` of `/auth/forward/nginx`. In any
/// case, and whatever follows: a decision that was asked for in a wrong way must not be answered by a service. But in
/// other letters than these nothing is below: most proxies compare letter by letter what they keep from their clients.
#[must_use]
pub fn below<'a>(path: &'a str, bases: &[Arc<str>]) -> Option<&'a str> {
    let of_base = |base: &Arc<str>| {
        let (start, rest) = path.split_at_checked(base.len())?;
        let (folder, rest) = rest.split_at_checked(FOLDER.len())?;
        let here = start.eq_ignore_ascii_case(base) && folder.eq_ignore_ascii_case(FOLDER);
        let to_the_letter = *start == **base && folder == FOLDER;
        (here && (rest.is_empty() || rest.starts_with('/'))).then_some(if to_the_letter { rest } else { "" })
    };
    bases.iter().find_map(of_base)
}

/// What the proxy was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    /// The method.
    pub method: Method,
    /// Path and query, as they came.
    pub target: PathAndQuery,
    /// The host, where it is not that of the question itself.
    pub host: Option<HeaderValue>,
}

/// What the proxy was asked cannot be told. The text is for whoever configures the proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OriginalFault {
    /// Not there.
    #[error("{0} is missing: what was asked is not known")]
    Missing(HeaderName),
    /// There twice: one of them may be the client's.
    #[error("{0} came more than once: what was asked is not known")]
    Doubled(HeaderName),
    /// No path behind the endpoint's own.
    #[error("no path stands behind the endpoint's own: what was asked is not known")]
    NoPath,
    /// No method at all.
    #[error("the original method is none")]
    Method,
    /// Other than a path with a query: a whole URL, `*`, a fragment.
    #[error("the original target is no path with a query")]
    Target,
}

impl OriginalFault {
    /// The label for body, log and metrics.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Missing(_) | Self::Doubled(_) | Self::NoPath | Self::Method => Reason::ForwardAuthOriginal,
            // The client's doing, as it is without another proxy.
            Self::Target => Reason::PathInvalid,
        }
    }
}

/// Reads what the proxy was asked. `asked`: the question's own method, the path behind the endpoint's, its query.
pub fn original(
    form: Form,
    asked: (&Method, &str, Option<&str>),
    headers: &HeaderMap,
) -> Result<Original, OriginalFault> {
    let (own, behind, query) = asked;
    let named = |method: &HeaderName, uri: &HeaderName| {
        let method = Method::from_bytes(single(headers, method)?.as_bytes()).map_err(|_| OriginalFault::Method)?;
        Ok((method, target(single(headers, uri)?.as_bytes())?))
    };
    match form {
        Form::Nginx => {
            let (method, target) = named(&X_ORIGINAL_METHOD, &X_ORIGINAL_URI)?;
            Ok(Original { method, target, host: None })
        }
        Form::Traefik | Form::Caddy => {
            let (method, target) = named(&X_FORWARDED_METHOD, &X_FORWARDED_URI)?;
            Ok(Original { method, target, host: Some(single(headers, &X_FORWARDED_HOST)?.clone()) })
        }
        Form::Envoy if behind.is_empty() => Err(OriginalFault::NoPath),
        Form::Envoy => {
            let text = query.map_or_else(|| behind.to_owned(), |query| format!("{behind}?{query}"));
            Ok(Original { method: own.clone(), target: target(text.as_bytes())?, host: None })
        }
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a HeaderValue, OriginalFault> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if !value.is_empty() => Ok(value),
        (Some(_), Some(_)) => Err(OriginalFault::Doubled(name.clone())),
        _ => Err(OriginalFault::Missing(name.clone())),
    }
}

/// A path with or without a query (RFC 9112 §3.2.1). The library would cut a fragment off, and the proxy forward it.
fn target(bytes: &[u8]) -> Result<PathAndQuery, OriginalFault> {
    if bytes.first() != Some(&b'/') || bytes.contains(&b'#') {
        return Err(OriginalFault::Target);
    }
    PathAndQuery::try_from(bytes).map_err(|_| OriginalFault::Target)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bases() -> Vec<Arc<str>> {
        vec!["/auth".into(), "/api/auth".into()]
    }

    fn head(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    fn read(form: Form, pairs: &[(&str, &str)]) -> Result<Original, OriginalFault> {
        original(form, (&Method::GET, "", None), &head(pairs))
    }

    #[test]
    fn endpoints_are_spelled_in_one_way_and_no_other_leads_elsewhere() {
        for (path, rest) in [
            ("/auth/forward/nginx", "/nginx"),
            ("/api/auth/forward/envoy/a/b", "/envoy/a/b"),
            ("/auth/forward", ""),
            ("/AUTH/forward/nginx", ""),
            ("/auth/Forward/envoy/a", ""),
        ] {
            assert_eq!(below(path, &bases()), Some(rest), "{path}");
        }
        for path in ["/auth", "/auth/forwarding/nginx", "/forward/nginx", "/x/auth/forward/nginx", "/", "/autö/forward"]
        {
            assert_eq!(below(path, &bases()), None, "{path}");
        }
    }

    #[test]
    fn only_envoy_s_endpoint_has_a_path_behind_it() {
        assert_eq!(Form::of("/nginx"), Some((Form::Nginx, "")));
        assert_eq!(Form::of("/envoy/a//b"), Some((Form::Envoy, "/a//b")));
        assert_eq!(Form::of("/envoy"), Some((Form::Envoy, "")));
        for rest in ["", "/", "/nginx/", "/nginx/a", "/Nginx", "/caddy/..", "/envoyer/a", "/apache"] {
            assert_eq!(Form::of(rest), None, "{rest}");
        }
    }

    #[test]
    fn each_proxy_is_believed_its_own_headers_and_no_others() {
        let theirs = [("x-original-method", "POST"), ("x-original-uri", "/a?b=c")];
        let ours = [("x-forwarded-method", "PUT"), ("x-forwarded-uri", "/d"), ("x-forwarded-host", "rag.test")];
        let both = [&theirs[..], &ours].concat();
        let nginx = read(Form::Nginx, &both).unwrap();
        assert_eq!((nginx.method, nginx.target.as_str(), nginx.host), (Method::POST, "/a?b=c", None));
        for form in [Form::Traefik, Form::Caddy] {
            let other = read(form, &both).unwrap();
            assert_eq!((other.method, other.target.as_str()), (Method::PUT, "/d"));
            assert_eq!(other.host.unwrap(), "rag.test");
            assert!(read(form, &theirs).is_err());
        }
        assert!(read(Form::Nginx, &ours).is_err());
        let envoy = original(Form::Envoy, (&Method::DELETE, "/e%20f", Some("g")), &head(&both)).unwrap();
        assert_eq!((envoy.method, envoy.target.as_str(), envoy.host), (Method::DELETE, "/e%20f?g", None));
    }

    #[test]
    fn what_is_missing_or_doubled_is_not_guessed() {
        for (form, names) in [
            (Form::Nginx, &["x-original-method", "x-original-uri"][..]),
            (Form::Traefik, &["x-forwarded-method", "x-forwarded-uri", "x-forwarded-host"]),
            (Form::Caddy, &["x-forwarded-method", "x-forwarded-uri", "x-forwarded-host"]),
        ] {
            let whole: Vec<_> =
                names.iter().map(|name| (*name, if name.ends_with("uri") { "/a" } else { "GET" })).collect();
            assert!(read(form, &whole).is_ok());
            for (at, (name, value)) in whole.iter().enumerate() {
                let name: HeaderName = name.parse().unwrap();
                let without: Vec<_> = whole.iter().copied().filter(|(other, _)| name != *other).collect();
                assert_eq!(read(form, &without), Err(OriginalFault::Missing(name.clone())));
                let twice = [&whole[..], &[(name.as_str(), *value)]].concat();
                assert_eq!(read(form, &twice), Err(OriginalFault::Doubled(name.clone())));
                let mut empty = whole.clone();
                empty[at].1 = "";
                assert_eq!(read(form, &empty), Err(OriginalFault::Missing(name)));
            }
        }
        assert_eq!(original(Form::Envoy, (&Method::GET, "", None), &head(&[])), Err(OriginalFault::NoPath));
    }

    #[test]
    fn a_target_is_a_path_and_nothing_is_cut_off_it() {
        for odd in ["*", "a", "http://rag.test/a", "/open#/../closed", "/a?b#c", "rag.test:443", "?a", "#"] {
            let pairs = [("x-original-method", "GET"), ("x-original-uri", odd)];
            assert_eq!(read(Form::Nginx, &pairs), Err(OriginalFault::Target), "{odd}");
        }
        let pairs = [("x-original-method", "G T"), ("x-original-uri", "/")];
        assert_eq!(read(Form::Nginx, &pairs), Err(OriginalFault::Method));
    }

    #[test]
    fn nginx_is_told_what_it_knows_and_the_others_the_truth() {
        for (status, told) in
            [(401, None), (403, None), (404, Some(403)), (429, Some(403)), (400, Some(403)), (503, None)]
        {
            let (status, told) =
                (StatusCode::from_u16(status).unwrap(), told.map(|told| StatusCode::from_u16(told).unwrap()));
            assert_eq!(Form::Nginx.status(status), told, "{status}");
            assert_eq!(Form::Caddy.status(status), None);
        }
    }

    proptest! {
        #[test]
        fn a_target_that_is_read_is_read_whole(text in "/[a-z0-9/.;%#?\\\\é{} |-]{0,24}") {
            let mut headers = head(&[("x-original-method", "GET")]);
            headers.insert(X_ORIGINAL_URI, HeaderValue::from_bytes(text.as_bytes()).unwrap());
            if let Ok(read) = original(Form::Nginx, (&Method::GET, "", None), &headers) {
                prop_assert_eq!(read.target.as_str(), text);
            }
        }
    }
}
