//! The refresh cookie (RFC 6265bis): how it is read, set and cleared.
//!
//! `HttpOnly` keeps it from scripts, `Secure` from cleartext, `SameSite=Strict` from other sites' requests, and its path
//! from every request but the portal's own. The `__Secure-` prefix (checked in the configuration) keeps a cleartext
//! neighbour from planting one.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};
use secrecy::{ExposeSecret, SecretString};

use crate::{config::settings::Portal, gate::refusal::Refusal, policy::reason::Reason};

/// The refresh token in the request's cookies.
///
/// # Errors
/// [`Reason::RefreshInvalid`] when two cookies of that name came: one of them is planted, and nobody can say which.
pub(crate) fn read(headers: &HeaderMap, portal: &Portal) -> Result<Option<SecretString>, Refusal> {
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut values = pairs
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(name, value)| *name == &*portal.cookie_name && !value.is_empty())
        .map(|(_, value)| SecretString::from(value));
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(Reason::RefreshInvalid.into()),
        (value, None) => Ok(value),
    }
}

/// A `Set-Cookie` that hands out a refresh token for as long as it can be used.
pub(crate) fn set(token: &SecretString, life: Duration, portal: &Portal) -> Result<HeaderValue, Refusal> {
    write(token.expose_secret(), life.as_secs(), portal)
}

/// A `Set-Cookie` that takes it away.
pub(crate) fn clear(portal: &Portal) -> Result<HeaderValue, Refusal> {
    write("", 0, portal)
}

fn write(value: &str, max_age: u64, portal: &Portal) -> Result<HeaderValue, Refusal> {
    let name = &portal.cookie_name;
    let path = if portal.base_path.is_empty() { "/" } else { &portal.base_path };
    let line = format!("{name}={value}; Max-Age={max_age}; Path={path}; HttpOnly; Secure; SameSite=Strict");
    let mut line = HeaderValue::try_from(line)
        .map_err(|_| Refusal::internal("the refresh cookie's name or path is no header text"))?;
    line.set_sensitive(true);
    Ok(line)
}
