//! What is published: the keys that verify our tokens (RFC 7517) and where they are (OIDC Discovery 1.0).

use axum::extract::State;
use http::{HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    gate::refusal::Refusal,
    policy::mint::{ACCESS_TOKEN_TYPE, IDENTITY_TOKEN_TYPE},
    portal::{
        answers::Answer,
        state::{Published, Shared},
    },
};

/// How long anyone may keep what is published: [`crate::policy::key_life::PUBLISHED_CACHEABLE`]. A key is published for
/// longer than this before it signs.
const CACHEABLE: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// 200 with every public key there is.
pub(crate) async fn jwks(State(state): State<Published>) -> Result<Answer, Refusal> {
    publish(&state.keyring.published().jwks())
}

/// The subset of OIDC Discovery that is honoured: enough for a verifier to find issuer and keys. No endpoint
/// of OAuth's is named but those for revocation and introspection (RFC 8414 §2), while they are served; the two lists that
/// the specification requires and that would name flows are empty.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Discovery")]
pub(crate) struct Discovery<'a> {
    issuer: &'a str,
    jwks_uri: String,
    response_types_supported: [&'a str; 0],
    subject_types_supported: [&'a str; 1],
    id_token_signing_alg_values_supported: Vec<String>,
    claims_supported: &'a [&'a str],
    #[serde(skip_serializing_if = "Option::is_none")]
    revocation_endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revocation_endpoint_auth_methods_supported: Option<[&'a str; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    introspection_endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    introspection_endpoint_auth_methods_supported: Option<[&'a str; 2]>,
    /// `typ` of the tokens these keys sign: RFC 9068 access tokens, and the identity sent to upstreams.
    portcullis_token_types: [&'a str; 2],
}

const CLAIMS: &[&str] = &[
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "sid",
    "client_id",
    "roles",
    "scope",
    "org",
    "av",
    "gen",
    "email",
    "email_verified",
    "amr",
    "auth_time",
];

/// 200 with issuer, key address and algorithms.
pub(crate) async fn discovery(State(state): State<Shared>) -> Result<Answer, Refusal> {
    let issuer = &*state.tokens.issuer;
    let of_clients = |path: &str| (!state.oauth.is_empty()).then(|| format!("{issuer}{path}"));
    let proofs = (!state.oauth.is_empty()).then_some(["client_secret_basic", "client_secret_post"]);
    let published = state.keyring.published().jwks();
    let mut algorithms: Vec<String> = published["keys"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|key| Some(key.get("alg")?.as_str()?.to_owned()))
        .collect();
    algorithms.sort_unstable();
    algorithms.dedup();
    publish(&Discovery {
        issuer,
        jwks_uri: format!("{issuer}/.well-known/jwks.json"),
        response_types_supported: [],
        subject_types_supported: ["public"],
        id_token_signing_alg_values_supported: algorithms,
        claims_supported: CLAIMS,
        revocation_endpoint: of_clients("/oauth/revoke"),
        revocation_endpoint_auth_methods_supported: proofs,
        introspection_endpoint: of_clients("/oauth/introspect"),
        introspection_endpoint_auth_methods_supported: proofs,
        portcullis_token_types: [ACCESS_TOKEN_TYPE, IDENTITY_TOKEN_TYPE],
    })
}

pub(crate) fn publish(document: &impl Serialize) -> Result<Answer, Refusal> {
    Ok(Answer::json(StatusCode::OK, document)?.with(header::CACHE_CONTROL, CACHEABLE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::key_life::PUBLISHED_CACHEABLE;

    #[test]
    fn nobody_may_keep_a_key_set_for_longer_than_the_rotation_reckons_with() {
        assert_eq!(CACHEABLE, format!("public, max-age={}", PUBLISHED_CACHEABLE.as_secs()));
    }
}
