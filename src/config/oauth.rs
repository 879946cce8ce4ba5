//! `oauth:` who may ask about tokens and revoke them (RFC 7662, RFC 7009).

use std::collections::HashSet;

use schemars::JsonSchema;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use super::{
    checks::Checks,
    item::{At, Item},
    secret::Secret,
    words::Name,
};
use crate::policy::oauth_client::{MIN_SECRET, OAuthClient};

/// The OAuth endpoints.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "OAuth")]
pub(super) struct RawOAuth {
    /// Services that may ask whether a token is good (POST /oauth/introspect) and revoke one (POST /oauth/revoke); each
    /// may do so with every token of this gateway. Without any, neither is served. Needs the portal.
    clients: Item<Vec<Item<RawClient>>>,
}

/// A client of the OAuth endpoints.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "OAuthClient")]
pub(super) struct RawClient {
    /// Its `client_id`; audit rows name it.
    id: Item<Name>,
    /// Its `client_secret`, at least 32 bytes (openssl rand -hex 32). In a basic Authorization header it may be
    /// form-encoded, as RFC 6749 has it, or as it is; a secret of letters and digits is the same either way.
    secret: Item<Secret>,
}

pub(super) fn check(item: Item<RawOAuth>, portal: Option<bool>, checks: &mut Checks) -> Option<Vec<OAuthClient>> {
    let at = item.at.or(&At::root(), "oauth");
    let clients = item.value?.clients;
    let place = clients.at.or(&at, "clients");
    let raw = clients.value?;
    if portal == Some(false) && !raw.is_empty() {
        checks.error(&place, "contradicts portal.enabled: false; there are no tokens of its own to ask about");
    }
    let mut ids = HashSet::new();
    let checked: Vec<_> = raw.into_iter().map(|client| check_client(client, &mut ids, checks)).collect();
    checked.into_iter().collect()
}

fn check_client(item: Item<RawClient>, ids: &mut HashSet<String>, checks: &mut Checks) -> Option<OAuthClient> {
    let at = item.at;
    let raw = item.value?;
    let id_at = raw.id.at.or(&at, "id");
    let id = checks.required(raw.id, &at, "id", "the client's client_id");
    let secret_at = raw.secret.at.or(&at, "secret");
    let secret = checks.required(raw.secret, &at, "secret", "a client without one is anybody");
    let (id, secret) = (id?, secret?);
    if !ids.insert(id.0.clone()) {
        checks.error(&id_at, format!("another client is called {id} too"));
    }
    let secret = secret.0.expose_secret().as_bytes();
    if secret.len() < MIN_SECRET {
        checks.error(&secret_at, "shorter than 32 bytes, which could be guessed; make one with openssl rand -hex 32");
    }
    Some(OAuthClient::new(&id.0, secret))
}
