//! `POST /refresh`: a refresh token for the next pair (RFC 6749 §6).
//!
//! Only the refresh token counts; an `Authorization` header is not looked at. How the answer travels is the session
//! row's to say, fixed at login: a cookie session's refresh token is never in a body, whatever the request looks like.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use secrecy::SecretString;

use crate::{
    gate::refusal::Refusal,
    policy::reason::Reason,
    portal::{
        answers::Answer,
        caller::Caller,
        fields::{Fields, as_given},
        presented::CookieToken,
        state::{PortalState, Shared},
    },
    store::{AuditEntry, AuditEvent, RefreshOutcome, StoreFault},
    telemetry::metrics::RefreshResult,
};

/// 200 with the next pair; 400 `invalid_grant` for every token that is not good; 403 for a cookie from elsewhere.
pub(crate) async fn refresh(
    State(state): State<Shared>,
    caller: Caller,
    cookie: CookieToken,
    mut fields: Fields,
) -> Result<Answer, Refusal> {
    let in_body = fields.optional("refresh_token", as_given::<SecretString>);
    let in_body = fields.finish(Some(in_body))?;
    let token = cookie.or_body(in_body)?.ok_or(Reason::RefreshInvalid)?;
    let now = state.clock.now();
    let audit = caller.audit(AuditEvent::Refreshed, now, None, None);
    // To the end from the first look: a thief who shows an old token and hangs up is found out all the same.
    match PortalState::to_the_end(step(Arc::clone(&state), token, audit)).await?? {
        RefreshOutcome::Granted { session, account, .. } => {
            caller.turned_out_to_be(account.id);
            state.grant(StatusCode::OK, &session, &account, now)
        }
        RefreshOutcome::Reused { user } => {
            caller.turned_out_to_be(user);
            Err(Reason::RefreshReuse.into())
        }
        RefreshOutcome::Refused => Err(Reason::RefreshInvalid.into()),
    }
}

async fn step(state: Shared, token: SecretString, audit: AuditEntry) -> Result<RefreshOutcome, Refusal> {
    let proven = state.prove(&token).await?.ok_or(Reason::RefreshInvalid)?;
    let (sid, user) = (proven.session.id, proven.session.user);
    let audit = audit.by_owner(user, sid);
    let outcome = state.store.refresh(sid, proven.token.counter, &state.tokens.refresh, &audit).await;
    state.metrics.refresh.of(result(&outcome)).inc();
    if let Ok(RefreshOutcome::Reused { .. }) = outcome {
        // The store has ended the session; its access tokens die here with it.
        state.end_here(sid);
    }
    Ok(outcome?)
}

const fn result(outcome: &Result<RefreshOutcome, StoreFault>) -> RefreshResult {
    match outcome {
        Ok(RefreshOutcome::Granted { repeated: false, .. }) => RefreshResult::Rotated,
        Ok(RefreshOutcome::Granted { repeated: true, .. }) => RefreshResult::Repeated,
        Ok(RefreshOutcome::Reused { .. }) => RefreshResult::Reused,
        Ok(RefreshOutcome::Refused) => RefreshResult::Refused,
        Err(_) => RefreshResult::Unavailable,
    }
}
