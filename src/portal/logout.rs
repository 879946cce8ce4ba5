//! `POST /logout`: ends the caller's session, or with `all` every session of the caller's.
//!
//! A valid access token names the session; with an expired one, or none, the refresh token does. Leaving twice is no
//! fault: whoever can still prove that the session was theirs hears that it is over.

use std::sync::Arc;

use axum::extract::State;
use http::{StatusCode, header};
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
    store::{AuditEvent, StoreFault},
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
    let (sid, user) = match (caller.session(), caller.user()) {
        (Some(sid), Some(user)) => (sid, user),
        _ => by_refresh_token(&state, cookie, in_body, caller.unknown()).await?,
    };
    let audit = caller.audit(AuditEvent::LoggedOut, state.clock.now(), Some(user), Some(sid));
    let ending = Arc::clone(&state);
    PortalState::to_the_end(async move {
        let ended = ending.store.end_sessions(sid, all, &audit).await?;
        // The named session too when it had ended before: it may have ended at another gateway.
        std::iter::once(sid).chain(ended).for_each(|sid| ending.end_here(sid));
        Ok::<_, StoreFault>(())
    })
    .await??;
    caller.turned_out_to_be(user);
    Ok(Answer::empty(StatusCode::NO_CONTENT).with(header::SET_COOKIE, cookie::clear(&state.portal)?))
}

/// `otherwise`: why the caller is refused when there is no refresh token either.
async fn by_refresh_token(
    state: &PortalState,
    cookie: CookieToken,
    in_body: Option<SecretString>,
    otherwise: Reason,
) -> Result<(SessionId, UserId), Refusal> {
    let token = cookie.or_body(in_body)?.ok_or(otherwise)?;
    let proven = state.prove(&token).await?.ok_or(Reason::TokenMalformed)?;
    Ok((proven.session.id, proven.session.user))
}
