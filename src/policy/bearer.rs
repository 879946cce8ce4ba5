//! The `Authorization` header: a bearer token, nothing, or a fault (RFC 6750 §2.1).
//!
//! Never "something else, so nothing": credentials that were meant and cannot be read are refused, not ignored.
//! (What becomes of the fault is the gate's to say: a route that asks for nobody never looks, and logout is lenient.)

use http::{HeaderMap, header::AUTHORIZATION};

use crate::policy::reason::Reason;

/// Why an `Authorization` header is not a bearer token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BearerFault {
    /// More than one header.
    #[error("the Authorization header came more than once")]
    Repeated,
    /// `Basic` and the like.
    #[error("the only Authorization scheme served is Bearer")]
    Scheme,
    /// No token, or one with characters that no token holds (`b64token`).
    #[error("the bearer token is malformed")]
    Token,
}

impl BearerFault {
    /// Always the same.
    #[must_use]
    pub const fn reason(self) -> Reason {
        Reason::CredentialsMalformed
    }
}

/// The bearer token of a request; `None` when it sends no `Authorization` at all.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, BearerFault> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(BearerFault::Repeated);
    }
    let value = value.as_bytes();
    let end = value.iter().position(|byte| *byte == b' ').unwrap_or(value.len());
    let (scheme, rest) = value.split_at(end);
    // RFC 9110 §11.1: schemes are case-insensitive.
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Err(BearerFault::Scheme);
    }
    // RFC 6750 §2.1: one or more spaces, of which nothing but a token may follow.
    let token = rest.iter().position(|byte| *byte != b' ').map_or(&[][..], |start| &rest[start..]);
    if !is_b64token(token) {
        return Err(BearerFault::Token);
    }
    std::str::from_utf8(token).map(Some).map_err(|_| BearerFault::Token)
}

/// `1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="`.
fn is_b64token(token: &[u8]) -> bool {
    let padding = token.iter().rev().take_while(|byte| **byte == b'=').count();
    let text = &token[..token.len() - padding];
    // A token is the longest text looked at on every request: no early exit and no branch, so that it is compared
    // many bytes at a time.
    !text.is_empty() && text.iter().fold(true, |ok, byte| ok & is_token_char(*byte))
}

const fn is_token_char(byte: u8) -> bool {
    let letter = (byte | 0x20).wrapping_sub(b'a') < 26;
    // `+` to `9` are `+,-./` and the digits.
    let other = byte.wrapping_sub(b'+') <= b'9' - b'+' && byte != b',';
    letter || other || byte == b'_' || byte == b'~'
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[&[u8]]) -> Result<Option<String>, BearerFault> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        }
        bearer(&headers).map(|token| token.map(str::to_owned))
    }

    #[test]
    fn no_header_is_no_credentials() {
        assert_eq!(of(&[]), Ok(None));
    }

    #[test]
    fn the_scheme_is_read_in_any_case() {
        for value in ["Bearer a.b-c_d~e+f/g==", "bearer a.b-c_d~e+f/g==", "BEARER   a.b-c_d~e+f/g=="] {
            assert_eq!(of(&[value.as_bytes()]), Ok(Some("a.b-c_d~e+f/g==".into())));
        }
    }

    #[test]
    fn two_headers_are_refused_even_when_equal() {
        assert_eq!(of(&[b"Bearer a", b"Bearer a"]), Err(BearerFault::Repeated));
    }

    #[test]
    fn other_schemes_are_a_fault_and_not_anonymous() {
        for value in ["Basic dTpw", "Digest x", "", "a.b.c", "Bearer\ta", "Bearera", "Token x", " Bearer a"] {
            assert_eq!(of(&[value.as_bytes()]), Err(BearerFault::Scheme), "{value}");
        }
    }

    #[test]
    fn what_is_no_token_is_a_fault() {
        for value in [
            "Bearer",
            "Bearer ",
            "Bearer    ",
            "Bearer a b",
            "Bearer a, Bearer b",
            "Bearer \"a\"",
            "Bearer =",
            "Bearer a=b",
            "Bearer a;b",
            "Bearer a\t",
        ] {
            assert_eq!(of(&[value.as_bytes()]), Err(BearerFault::Token), "{value}");
        }
        assert_eq!(of(&[b"Bearer \xff"]), Err(BearerFault::Token));
    }

    #[test]
    fn the_alphabet_is_exactly_that_of_the_rfc() {
        for byte in 0..=u8::MAX {
            let expected = byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
            assert_eq!(is_token_char(byte), expected, "{byte:#x}");
        }
    }

    proptest! {
        #[test]
        fn any_value_is_read_without_panic_and_only_tokens_come_out(value in prop::collection::vec(0x20_u8..0x7f, 0..40)) {
            let whole = [b"Bearer ".as_slice(), &value].concat();
            if let Ok(Some(token)) = of(&[&whole]) {
                prop_assert!(!token.contains([' ', ',', '"', ';']) && !token.is_empty());
                prop_assert!(whole.ends_with(token.as_bytes()));
            }
        }
    }
}
