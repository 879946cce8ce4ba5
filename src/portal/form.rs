//! A login as a form: what front ends of FastAPI send (`OAuth2PasswordRequestForm`, the password grant of RFC 6749
//! §4.3.2), taken under `portal.compat: fastapi` and for a login only.
//!
//! A form is what a page of any site can make a browser send without asking, so that a stranger's page could log its
//! visitor in as somebody else. So one from a page counts as a cookie does: from our own pages and listed ones, and is
//! 403 from others. A request that does not say where it comes from is no browser's: it is answered with tokens in the
//! body, and is 403 when it asks for them in a cookie.
//!
//! The format is the URL standard's `application/x-www-form-urlencoded`, but strict where guessing would let two
//! passwords pass for one: bytes that are not UTF-8 are refused, not replaced.

use axum::extract::{FromRequest, Request};
use http::{HeaderMap, header};
use percent_encoding::percent_decode;

use crate::{
    config::settings::Compat,
    gate::refusal::Refusal,
    policy::{
        cross_site::{cookie_counts, origin_of, says_nothing},
        reason::Reason,
    },
    portal::{
        border::whole_body,
        endpoints::BODY_LIMIT,
        fields::Fields,
        state::{PortalState, Shared},
    },
};

/// Pairs that a form may have; a login needs half a dozen.
const MOST_PAIRS: usize = 32;

/// Members of the password grant that mean nothing here, where every client is public and there are no scopes to ask for.
/// Clients made from a service's description send them all, mostly empty.
pub(crate) const IGNORED: [&str; 3] = ["scope", "client_id", "client_secret"];

/// What a login sent, as JSON or as a form.
pub(crate) struct LoginBody {
    pub(crate) fields: Fields,
    /// Whether tokens may be answered in cookies.
    pub(crate) cookies: bool,
}

impl FromRequest<Shared> for LoginBody {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &Shared) -> Result<Self, Refusal> {
        if state.portal.compat != Compat::FastApi || !is_form(request.headers()) {
            return Ok(Self { fields: Fields::from_request(request, state).await?, cookies: true });
        }
        let cookies = ours(&request, state);
        if !cookies && !says_nothing(request.headers()) {
            return Err(Reason::CrossSite.into());
        }
        let body = whole_body(request, BODY_LIMIT).await?;
        let mut fields = parse(&body).ok_or_else(|| Refusal::because(Reason::BodyBroken, "the body is no form"))?;
        let grant = |name: String| if name == "password" { Ok(()) } else { Err("must be password, or empty") };
        let _ = fields.optional("grant_type", grant);
        for name in IGNORED {
            fields.ignore(name);
        }
        Ok(Self { fields, cookies })
    }
}

/// Whether a page of ours, or a listed one, sent it.
fn ours(request: &Request, state: &PortalState) -> bool {
    let own = origin_of(&state.tokens.issuer).unwrap_or_default();
    cookie_counts(request.method(), request.headers(), &own, &state.portal.allowed_origins)
}

/// Of that media type, in UTF-8, which is the only encoding it has and may be named all the same.
pub(crate) fn is_form(headers: &HeaderMap) -> bool {
    let Some(Ok(value)) = headers.get(header::CONTENT_TYPE).map(http::HeaderValue::to_str) else { return false };
    let mut parts = value.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let is_utf8 = |parameter: &str| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    };
    essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") && parts.all(is_utf8)
}

/// The members of a form. Empty ones are absent ones, as FastAPI reads them.
fn parse(body: &[u8]) -> Option<Fields> {
    let mut fields = Fields::default();
    for (name, value) in pairs(body)? {
        fields.give(name, &value);
    }
    fields.forget_empty();
    Some(fields)
}

/// Names and values as they come; `None`: too many, or no text.
pub(crate) fn pairs(body: &[u8]) -> Option<Vec<(String, String)>> {
    let pairs = body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty());
    let mut read = Vec::new();
    for (count, pair) in pairs.enumerate() {
        let equals = pair.iter().position(|byte| *byte == b'=');
        let (name, value) = equals.map_or((pair, &[][..]), |at| (&pair[..at], &pair[at + 1..]));
        let pair = (decode(name)?, decode(value)?);
        if count == MOST_PAIRS {
            return None;
        }
        read.push(pair);
    }
    Some(read)
}

/// How a form is read: names, and values as JSON. For the fuzz target alone.
#[must_use]
pub fn read_form(body: &[u8]) -> Option<Vec<(String, String)>> {
    parse(body)?.texts()
}

/// `+` is a space; what is no escape stands for itself.
pub(crate) fn decode(text: &[u8]) -> Option<String> {
    let spaced: Vec<_> = text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    percent_decode(&spaced).decode_utf8().ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use secrecy::{ExposeSecret, SecretString};

    use super::*;
    use crate::portal::fields::as_given;

    fn taken(body: &str, name: &'static str) -> Option<String> {
        let mut fields = parse(body.as_bytes())?;
        fields.optional(name, as_given::<SecretString>).map(|value| value.expose_secret().to_owned())
    }

    #[test]
    fn a_plus_is_a_space_and_an_escaped_plus_is_a_plus() {
        for (sent, meant) in [
            ("a+b", "a b"),
            ("a%2Bb", "a+b"),
            ("a%20b%26c%3Dd%25", "a b&c=d%"),
            ("a=b=", "a=b="),
            ("100%", "100%"),
            ("100%zz%4", "100%zz%4"),
            ("%C3%BC", "ü"),
            ("ü", "ü"),
            ("a;b", "a;b"),
            ("%00", "\0"),
        ] {
            assert_eq!(taken(&format!("x=y&&password={sent}&"), "password").as_deref(), Some(meant), "{sent}");
        }
        assert_eq!(taken("pass%77ord=x", "password").as_deref(), Some("x"), "names are decoded too");
        assert_eq!((taken("password", "password"), taken("password=&a=b", "password")), (None, None));
    }

    #[test]
    fn bytes_that_are_no_utf_8_are_refused_and_never_replaced() {
        for body in [&b"password=%ff"[..], b"password=\xff", b"%C3=x", b"password=%ED%A0%80"] {
            assert!(parse(body).is_none(), "{body:?}");
        }
    }

    #[test]
    fn what_comes_twice_is_a_fault() {
        for body in ["password=a&password=b", "password=a&p%61ssword=a", "password=&password=a", "scope=&scope="] {
            let fields = parse(body.as_bytes()).unwrap();
            assert!(format!("{fields:?}").contains("given twice"), "{body}: {fields:?}");
        }
    }

    #[test]
    fn a_form_of_endless_pairs_is_none() {
        assert!(parse("a=b&".repeat(MOST_PAIRS).as_bytes()).is_some());
        assert!(parse("a=b&".repeat(MOST_PAIRS + 1).as_bytes()).is_none());
    }

    #[test]
    fn the_media_type_is_a_form_s_in_utf_8() {
        let form = |value: &str| is_form(&HeaderMap::from_iter([(header::CONTENT_TYPE, value.parse().unwrap())]));
        for good in [
            "application/x-www-form-urlencoded",
            "Application/X-WWW-Form-Urlencoded; charset=UTF-8",
            "application/x-www-form-urlencoded;charset=\"utf-8\"",
            "application/x-www-form-urlencoded; boundary=x",
        ] {
            assert!(form(good), "{good}");
        }
        for bad in [
            "application/x-www-form-urlencoded; charset=iso-8859-1",
            "application/x-www-form-urlencoded-x",
            "text/plain",
            "multipart/form-data; boundary=x",
            "",
        ] {
            assert!(!form(bad), "{bad}");
        }
        assert!(!is_form(&HeaderMap::new()));
    }
}
