//! Tokens that no gateway makes: any header, any payload, any signature.

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis::policy::keys::SigningKey;
use serde_json::{Value, json};

use crate::harness::{
    clock::BEGIN,
    gateway::{AUDIENCE, ISSUER},
};

/// Claims that the gateway under test would accept for a quarter of an hour from [`BEGIN`].
pub(crate) fn good_claims() -> Value {
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "0190a1b2-0000-7000-8000-000000000001",
        "iat": BEGIN.seconds(), "exp": BEGIN.seconds() + 900, "jti": "t-1",
        "sid": "0190a1b2-0000-7000-8000-00000000000a", "client_id": "portal", "roles": ["user"], "scope": "",
        "av": 0, "gen": 1, "email_verified": false, "amr": ["pwd"],
    })
}

/// A header as the gateway writes it for this key.
pub(crate) fn good_header(key: &SigningKey) -> Value {
    json!({"typ": "at+jwt", "alg": key.algorithm().name(), "kid": &**key.kid()})
}

/// A compact JWS by `key`.
pub(crate) fn signed(key: &SigningKey, header: &Value, claims: &Value) -> String {
    let input = signing_input(header, &claims.to_string());
    let signature = key.sign(input.as_bytes()).unwrap();
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The same with a payload that need not be JSON.
pub(crate) fn signed_text(key: &SigningKey, header: &Value, payload: &str) -> String {
    let input = signing_input(header, payload);
    let signature = key.sign(input.as_bytes()).unwrap();
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A compact JWS by HMAC-SHA256 under any bytes: the public key's, for one.
pub(crate) fn hmac_signed(secret: &[u8], header: &Value, claims: &Value) -> String {
    let input = signing_input(header, &claims.to_string());
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), input.as_bytes());
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(tag))
}

/// With an empty signature, or any other.
pub(crate) fn unsigned(header: &Value, claims: &Value, signature: &[u8]) -> String {
    format!("{}.{}", signing_input(header, &claims.to_string()), URL_SAFE_NO_PAD.encode(signature))
}

fn signing_input(header: &Value, payload: &str) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(payload))
}

/// A value with some members replaced; `null` takes one away.
pub(crate) fn with(mut base: Value, changes: &Value) -> Value {
    let members = base.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            members.remove(name);
        } else {
            members.insert(name.clone(), value.clone());
        }
    }
    base
}

/// The claims of a token, unverified.
pub(crate) fn claims_of(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}
