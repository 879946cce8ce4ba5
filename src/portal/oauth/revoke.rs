//! `POST /oauth/revoke`: a token is to be good no longer (RFC 7009).
//!
//! A refresh token takes its whole session with it. A token that is unknown, expired, another's or revoked already is
//! 200 all the same: what was asked for holds. `token_type_hint` is not needed, a token says what it is.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;

use super::client::ClientCall;
use crate::{
    gate::refusal::Refusal,
    portal::{
        answers::Answer,
        caller::Caller,
        state::{PortalState, Shared},
    },
    store::{AuditEntry, AuditEvent},
};

/// 200 without a body.
pub(crate) async fn revoke(State(state): State<Shared>, caller: Caller, call: ClientCall) -> Result<Answer, Refusal> {
    let audit = caller.audit(AuditEvent::TokenRevoked, state.clock.now(), None, None);
    PortalState::to_the_end(end(Arc::clone(&state), call, audit)).await??;
    Ok(Answer::empty(StatusCode::OK))
}

async fn end(state: Shared, call: ClientCall, audit: AuditEntry) -> Result<(), Refusal> {
    if let Some(proven) = state.prove(&call.token).await? {
        let (sid, user) = (proven.session.id, proven.session.user);
        let audit = AuditEntry { user: Some(user), session: Some(sid), ..audit };
        let ended = state.store.end_sessions(sid, false, &audit).await?;
        state.end_here(sid);
        tracing::info!(client = %call.client, session = %sid, was_live = !ended.is_empty(), "a client revoked a session");
    }
    Ok(())
}
