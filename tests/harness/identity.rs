//! The identity token as an upstream checks it: against the published JWKS, with a library that is not ours.

use jsonwebtoken::{
    Algorithm, DecodingKey, Validation,
    jwk::{JwkSet, KeyAlgorithm},
};
use serde_json::Value;

use crate::harness::{client::Client, clock::BEGIN};

/// Its claims, if the signature, `typ`, `iss` and `aud` are right.
pub(crate) async fn verify(client: &Client, token: &str, issuer: &str, audience: &str) -> Result<Value, String> {
    let claims = verify_kind(client, token, "gw-id+jwt", issuer, audience).await?;
    let time = |name: &str| claims[name].as_i64().unwrap();
    assert_eq!(time("exp") - time("iat"), 60, "an identity lives for a minute");
    Ok(claims)
}

/// The claims that an identity referred to, checked alike.
pub(crate) async fn verify_claims(client: &Client, token: &str, issuer: &str, audience: &str) -> Result<Value, String> {
    verify_kind(client, token, "gw-claims+jwt", issuer, audience).await
}

async fn verify_kind(client: &Client, token: &str, typ: &str, issuer: &str, audience: &str) -> Result<Value, String> {
    verify_by(&published(client).await, token, typ, issuer, audience)
}

/// The key set as it is now.
pub(crate) async fn published(client: &Client) -> JwkSet {
    let answer = client.get("/.well-known/jwks.json").send().await.expect(200);
    serde_json::from_slice(&answer.body).unwrap()
}

/// By keys that a service got earlier.
pub(crate) fn verify_by(keys: &JwkSet, token: &str, typ: &str, issuer: &str, audience: &str) -> Result<Value, String> {
    let header = jsonwebtoken::decode_header(token).map_err(|error| error.to_string())?;
    if header.typ.as_deref() != Some(typ) {
        return Err(format!("typ is {:?}", header.typ));
    }
    let published = keys.find(&header.kid.ok_or("no kid")?).ok_or("its key is not published")?;
    let key = DecodingKey::from_jwk(published).map_err(|error| error.to_string())?;
    // Chosen by the key, as it must be: what a token says of itself chooses nothing (RFC 8725 §3.1).
    let algorithm = match published.common.key_algorithm {
        Some(KeyAlgorithm::ES256) => Algorithm::ES256,
        Some(KeyAlgorithm::EdDSA) => Algorithm::EdDSA,
        Some(KeyAlgorithm::RS256) => Algorithm::RS256,
        other => return Err(format!("the key is for {other:?}")),
    };
    let mut rules = Validation::new(algorithm);
    rules.set_audience(&[audience]);
    rules.set_issuer(&[issuer]);
    // The library reads the system's clock; ours stands still.
    rules.validate_exp = false;
    let claims = jsonwebtoken::decode::<Value>(token, &key, &rules).map_err(|error| error.to_string())?.claims;
    assert!(claims["iat"].as_i64().unwrap() >= BEGIN.seconds(), "issued before the test began");
    Ok(claims)
}
