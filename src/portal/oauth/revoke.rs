//! `POST /oauth/revoke`: a token is to be good no longer (RFC 7009).
//!
//! A refresh token takes its whole session with it, an access token nothing but itself. A token that is unknown,
//! expired, another's or revoked already is 200 all the same: what was asked for holds. `token_type_hint` is not
//! needed, a token says what it is. An identity is no token of a client's and cannot be revoked but with its session:
//! that is said, so that nobody relies on it.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use secrecy::ExposeSecret;

use super::client::ClientCall;
use crate::{
    clock::Timestamp,
    gate::refusal::Refusal,
    policy::{mint, reason::Reason, token},
    portal::{
        answers::Answer,
        caller::Caller,
        state::{PortalState, Shared},
    },
    store::{AuditEntry, AuditEvent, Revocation, audit::Actor},
};

/// 200 without a body.
pub(crate) async fn revoke(State(state): State<Shared>, caller: Caller, call: ClientCall) -> Result<Answer, Refusal> {
    let audit = caller.audit(AuditEvent::TokenRevoked, state.clock.now(), None, None);
    let audit = AuditEntry { actor: Actor::Client(call.client.to_string()), ..audit };
    PortalState::to_the_end(end(Arc::clone(&state), call, audit)).await??;
    Ok(Answer::empty(StatusCode::OK))
}

async fn end(state: Shared, call: ClientCall, audit: AuditEntry) -> Result<(), Refusal> {
    if let Some(proven) = state.prove(&call.token).await? {
        let (sid, user) = (proven.session.id, proven.session.user);
        let audit = AuditEntry { user: Some(user), session: Some(sid), ..audit };
        let ended = state.store.end_sessions(sid, false, &audit).await?;
        state.end_here(sid);
        tracing::info!(client = %call.client, session = %sid, was_live = !ended.is_empty(), "a client ended a session");
        return Ok(());
    }
    let token = call.token.expose_secret();
    if token::claimed_type(token).is_some_and(|kind| kind.eq_ignore_ascii_case(mint::IDENTITY_TOKEN_TYPE)) {
        return Err(Reason::TokenTypeUnsupported.into());
    }
    let Some(claims) = state.admitted(token, audit.at) else { return Ok(()) };
    let jti = claims.token_id.to_string();
    if state.known.revoked(&jti) || claims.session.is_some_and(|session| state.known.ended(session)) {
        return Ok(());
    }
    let until = Timestamp::from_seconds(claims.expires).plus(state.tokens.leeway);
    let audit = AuditEntry { user: claims.subject.parse().ok(), session: claims.session, ..audit };
    state.store.revoke(&Revocation::Token(jti.clone()), until, &audit).await?;
    tracing::info!(client = %call.client, jti, "a client revoked an access token");
    state.revoke_here(&jti, until);
    Ok(())
}
