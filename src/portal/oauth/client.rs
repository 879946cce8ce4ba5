//! A call's form, taken once its client has proven who it is: `client_secret_basic` or `client_secret_post` (RFC 6749
//! §2.3.1), never both.
//!
//! In a basic header id and secret are form-encoded first. Many clients leave that out, so that both readings are
//! tried: a secret nobody can guess is no easier to guess twice.

use std::sync::Arc;

use axum::extract::{FromRequest, Request};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, header};
use secrecy::{ExposeSecret, SecretString};

use super::BODY_LIMIT;
use crate::{
    gate::{exchange::Exchange, limits::charge_address, refusal::Refusal},
    policy::{
        oauth_client::{OAuthClient, authenticate},
        reason::Reason,
    },
    portal::{
        border::whole_body,
        form::{decode, is_form, pairs},
        state::Shared,
    },
};

/// A call of a client that is known.
pub(crate) struct ClientCall {
    /// Who calls.
    pub(crate) client: Arc<str>,
    /// The token it is about.
    pub(crate) token: SecretString,
}

/// Proof of who calls: pairs of id and secret, each a reading of what was sent.
type Readings = Vec<(String, SecretString)>;

impl FromRequest<Shared> for ClientCall {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &Shared) -> Result<Self, Refusal> {
        if !is_form(request.headers()) {
            return Err(malformed("Content-Type must be application/x-www-form-urlencoded"));
        }
        let (parts, body) = request.into_parts();
        let body = whole_body(Request::new(body), BODY_LIMIT).await?;
        let mut form = Form::read(&body)?;
        let readings = match (basic(&parts.headers)?, form.take("client_id"), form.take("client_secret")) {
            (Some(_), _, Some(_)) => return Err(malformed("the client authenticates in two ways at once")),
            (Some(readings), None, None) => readings,
            (Some(readings), Some(id), None) => {
                readings.into_iter().filter(|(one, _)| one == id.expose_secret()).collect()
            }
            (None, Some(id), Some(secret)) => vec![(id.expose_secret().to_owned(), secret)],
            (None, ..) => Vec::new(),
        };
        let Some(client) = known(&state.oauth, &readings) else {
            // Tries are the address's to pay for, as those of bad tokens are.
            if let Some(exchange) = parts.extensions.get::<Exchange>() {
                charge_address(exchange, &parts.headers);
            }
            return Err(Reason::ClientInvalid.into());
        };
        let token = form.take("token").ok_or_else(|| malformed("token is missing"))?;
        Ok(Self { client: Arc::clone(client.id()), token })
    }
}

/// A request that is not understood (RFC 6749 §5.2).
pub(super) fn malformed(why: &str) -> Refusal {
    Refusal::because(Reason::RequestInvalid, why)
}

fn known<'c>(clients: &'c [OAuthClient], readings: &Readings) -> Option<&'c OAuthClient> {
    // All are looked at, whichever fits.
    let found: Vec<_> =
        readings.iter().map(|(id, secret)| authenticate(clients, id, secret.expose_secret().as_bytes())).collect();
    found.into_iter().flatten().next()
}

/// What a basic `Authorization` header holds; no readings for one that holds nothing of use, which no client is known by.
fn basic(headers: &HeaderMap) -> Result<Option<Readings>, Refusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(malformed("Authorization came twice"));
    }
    Ok(Some(value.to_str().ok().and_then(readings).unwrap_or_default()))
}

fn readings(value: &str) -> Option<Readings> {
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = pair.split_once(':')?;
    let decoded = decode(id.as_bytes()).zip(decode(secret.as_bytes()));
    let readings = decoded.into_iter().chain([(id.to_owned(), secret.to_owned())]);
    Some(readings.map(|(id, secret)| (id, secret.into())).collect())
}

/// A form's parameters. Those nobody asks for are ignored (RFC 6749 §3.2).
struct Form(Vec<(String, SecretString)>);

impl Form {
    fn read(body: &[u8]) -> Result<Self, Refusal> {
        let pairs = pairs(body).ok_or_else(|| malformed("the body is no form"))?;
        for (at, (name, _)) in pairs.iter().enumerate() {
            if pairs.iter().take(at).any(|(before, _)| before == name) {
                return Err(malformed("a parameter came twice"));
            }
        }
        Ok(Self(pairs.into_iter().map(|(name, value)| (name, value.into())).collect()))
    }

    /// A parameter; one without a value is missing (RFC 6749 §3.2).
    fn take(&mut self, name: &str) -> Option<SecretString> {
        let at = self.0.iter().position(|(one, value)| one == name && !value.expose_secret().is_empty())?;
        Some(self.0.swap_remove(at).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Option<Vec<(String, String)>> {
        let pairs = readings(value)?.into_iter();
        Some(pairs.map(|(id, secret)| (id, secret.expose_secret().to_owned())).collect())
    }

    fn header(pair: &str) -> String {
        format!("Basic {}", STANDARD.encode(pair))
    }

    #[test]
    fn a_basic_header_is_read_encoded_and_as_it_is() {
        let pair = |id: &str, secret: &str| (id.to_owned(), secret.to_owned());
        assert_eq!(read(&header("a%3Ab:c%2Bd")), Some(vec![pair("a:b", "c+d"), pair("a%3Ab", "c%2Bd")]));
        assert_eq!(read(&header("a:b+c:d")), Some(vec![pair("a", "b c:d"), pair("a", "b+c:d")]));
        assert_eq!(read(&header("a:b%ff")), Some(vec![pair("a", "b%ff")]), "which is no UTF-8 when it is decoded");
        assert!(read(&header("a:b").replace("Basic", "bAsIc")).is_some());
        for bad in ["Basic", "Basic ", "Basic %%%", "Bearer YTpi", &header("ab"), "Basic /w=="] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_comes_twice_or_without_a_value_is_not_guessed_at() {
        let taken = |body: &str, name: &str| {
            let value = Form::read(body.as_bytes()).ok()?.take(name);
            Some(value.map(|value| value.expose_secret().to_owned()))
        };
        assert_eq!(taken("token=a&x=y", "token"), Some(Some("a".to_owned())));
        assert_eq!(taken("token=", "token"), Some(None));
        for body in ["token=a&token=b", "token=a&t%6Fken=a", "x=&x=", "a=%ff"] {
            assert_eq!(taken(body, "token"), None, "{body}");
        }
    }
}
