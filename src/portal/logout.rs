//! `POST /logout`: ends the caller's session, or with `all` every session of the caller's.
//!
//! A valid access token names the session; with an expired one, or none, the refresh token does. Leaving twice is no
//! fault: whoever can still prove that the session was theirs hears that it is over.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use secrecy::SecretString;

use crate::{
    gate::refusal::Refusal,
    policy::{
        ids::{SessionId, UserId},
        reason::Reason,
    },
    portal::{
        answers::Answer,
        caller::Caller,
        cookie,
        fields::{Fields, as_given},
        presented::CookieToken,
        state::{PortalState, Shared},
    },
    store::{AuditEntry, AuditEvent},
};

/// 204 and the cookie is cleared; 401 when nothing names a session, as for any bad token when one was presented; 403 for a cookie from elsewhere.
pub(crate) async fn logout(
    State(state): State<Shared>,
    caller: Caller,
    cookie: CookieToken,
    mut fields: Fields,
) -> Result<Answer, Refusal> {
    let all = fields.optional("all", as_given::<bool>);
    let in_body = fields.optional("refresh_token", as_given::<SecretString>);
    let (all, in_body) = fields.finish(Some((all.unwrap_or(false), in_body)))?;
    let named = match (caller.session(), caller.user()) {
        (Some(sid), Some(user)) => Named::ByAccess(sid, user),
        _ => Named::ByRefresh(cookie.or_body(in_body)?.ok_or(caller.unknown())?),
    };
    let audit = caller.audit(AuditEvent::LoggedOut, state.clock.now(), None, None);
    let user = PortalState::to_the_end(end(Arc::clone(&state), named, all, audit)).await??;
    caller.turned_out_to_be(user);
    Ok(Answer::empty(StatusCode::NO_CONTENT).with_cookies(cookie::clear(&state.portal)?))
}

/// What names the session to end.
enum Named {
    /// A valid access token.
    ByAccess(SessionId, UserId),
    /// A refresh token, not looked at yet.
    ByRefresh(SecretString),
}

/// Gives whose it was.
async fn end(state: Shared, named: Named, all: bool, audit: AuditEntry) -> Result<UserId, Refusal> {
    let (sid, user) = match named {
        Named::ByAccess(sid, user) => (sid, user),
        Named::ByRefresh(token) => {
            let proven = state.prove(&token).await?.ok_or(Reason::TokenMalformed)?;
            (proven.session.id, proven.session.user)
        }
    };
    let audit = audit.by_owner(user, sid);
    let ended = state.store.end_sessions(sid, all, &audit).await?;
    // The named session too when it had ended before: it may have ended at another gateway.
    std::iter::once(sid).chain(ended).for_each(|sid| state.end_here(sid));
    Ok(user)
}
