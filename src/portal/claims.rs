//! `GET /.well-known/portcullis/claims`: what an identity left out, for the service that holds its reference.
//!
//! OIDC Core 1.0 §5.6.2: the reference is sent as a bearer token (RFC 6750) and the answer is a JWT.

use axum::extract::State;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::{
    gate::refusal::Refusal,
    policy::{bearer::bearer, reason::Reason},
    portal::{answers::Answer, state::Published},
};

const JWT: HeaderValue = HeaderValue::from_static("application/jwt");

/// 200 with the claims, as long as the identity lives that refers to them.
pub(crate) async fn claims(State(state): State<Published>, headers: HeaderMap) -> Result<Answer, Refusal> {
    let reference = match bearer(&headers) {
        Ok(Some(reference)) => reference,
        Ok(None) => return Err(Reason::CredentialsMissing.into()),
        Err(_) => return Err(Reason::CredentialsMalformed.into()),
    };
    match state.references.read(reference, &state.keyring) {
        None => Err(Reason::ReferenceUnknown.into()),
        Some(Ok(token)) => Ok(Answer::bytes(StatusCode::OK, token).with(header::CONTENT_TYPE, JWT)),
        Some(Err(fault)) => Err(Refusal::internal(format!("referred claims cannot be signed: {fault}"))),
    }
}
