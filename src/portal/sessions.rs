//! `GET`, `DELETE /sessions` and `/sessions/{id}`: where the caller is logged in, and ending that elsewhere.
//!
//! Nobody sees or ends another's session, nor learns whether there is one: it is 404 as one that never was.

use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use http::{StatusCode, request::Parts};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    clock::Timestamp,
    gate::refusal::Refusal,
    policy::{
        ids::{SessionId, UserId},
        reason::Reason,
        refresh::{Delivery, RefreshRules},
    },
    portal::{
        answers::{Answer, rfc3339},
        caller::KnownCaller,
        cookie,
        state::{PortalState, Shared},
    },
    store::{AuditEntry, AuditEvent, Session},
};

/// Sessions in one list. `tokens.max_sessions` bounds it sooner, unless it is none.
const MOST_LISTED: u32 = 200;

/// The session that a path names.
pub(crate) struct Named(SessionId);

impl FromRequestParts<Shared> for Named {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Refusal> {
        let last = parts.uri.path().rsplit('/').next().and_then(|text| text.parse().ok());
        last.map(Self).ok_or(Reason::SessionUnknown.into())
    }
}

/// The caller's live sessions.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Sessions")]
pub(crate) struct SessionsAnswer<'a> {
    /// The newest login first; at most 200.
    sessions: Vec<SessionAnswer<'a>>,
}

/// A session: one login on one device.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Session")]
pub(crate) struct SessionAnswer<'a> {
    id: String,
    /// Whether the access token of this very call is of it.
    current: bool,
    /// As the login sent it, cut.
    user_agent: Option<&'a str>,
    /// Where the login came from.
    address: &'a str,
    created_at: String,
    /// Login, last refresh, or last use of an access token, to the minute.
    last_seen_at: String,
    /// Counts the refreshes, from 1.
    generation: u64,
    /// How its refresh token travels: body or cookie.
    delivery: &'static str,
    /// When it ends unless it is refreshed before.
    expires_at: String,
}

impl<'a> SessionAnswer<'a> {
    fn of(session: &'a Session, current: Option<SessionId>, rules: &RefreshRules) -> Result<Self, Refusal> {
        Ok(Self {
            id: session.id.to_string(),
            current: current == Some(session.id),
            user_agent: session.user_agent.as_deref(),
            address: &session.address,
            created_at: rfc3339(session.created_at)?,
            last_seen_at: rfc3339(session.last_seen_at)?,
            generation: session.counter,
            delivery: match session.delivery {
                Delivery::Body => "body",
                Delivery::Cookie => "cookie",
            },
            expires_at: rfc3339(rules.ends_at(session.created_at, session.rotated_at))?,
        })
    }
}

/// 200 with the caller's live sessions.
pub(crate) async fn list(State(state): State<Shared>, known: KnownCaller) -> Result<Answer, Refusal> {
    let rules = &state.tokens.refresh;
    let live = state.store.live_sessions(known.user, rules, state.clock.now(), MOST_LISTED).await?;
    let sessions = live.iter().map(|session| SessionAnswer::of(session, known.claims.session, rules));
    Answer::json(StatusCode::OK, &SessionsAnswer { sessions: sessions.collect::<Result<_, _>>()? })
}

/// 200 with one of them.
pub(crate) async fn one(State(state): State<Shared>, known: KnownCaller, Named(id): Named) -> Result<Answer, Refusal> {
    let session = state.live_session_of(known.user, id, state.clock.now()).await?;
    let shown = SessionAnswer::of(&session, known.claims.session, &state.tokens.refresh)?;
    Answer::json(StatusCode::OK, &shown)
}

/// 204: it has ended. The cookie is cleared when it is the caller's own of this moment.
pub(crate) async fn end_one(
    State(state): State<Shared>,
    known: KnownCaller,
    Named(id): Named,
) -> Result<Answer, Refusal> {
    let now = state.clock.now();
    let audit = known.caller.audit(AuditEvent::SessionRevoked, now, Some(known.user), Some(id));
    PortalState::to_the_end(end(Arc::clone(&state), known.user, id, audit)).await??;
    let done = Answer::empty(StatusCode::NO_CONTENT);
    if known.claims.session == Some(id) {
        return Ok(done.with_cookies(cookie::clear(&state.portal)?));
    }
    Ok(done)
}

async fn end(state: Shared, user: UserId, id: SessionId, audit: AuditEntry) -> Result<(), Refusal> {
    state.live_session_of(user, id, audit.at).await?;
    let ended = state.store.end_sessions(id, false, &audit).await?;
    state.end_here(id);
    // Somebody else was faster.
    if ended.is_empty() { Err(Reason::SessionUnknown.into()) } else { Ok(()) }
}

/// 204: all but the one that asks have ended. (`POST /logout` with `all` ends that one too.)
pub(crate) async fn end_others(State(state): State<Shared>, known: KnownCaller) -> Result<Answer, Refusal> {
    let keep = known.claims.session.ok_or(Reason::TokenMalformed)?;
    let audit = known.caller.audit(AuditEvent::SessionRevoked, state.clock.now(), Some(known.user), None);
    PortalState::to_the_end(async move {
        let ended = state.store.end_other_sessions(keep, &audit).await?;
        for id in ended {
            state.end_here(id);
        }
        Ok::<_, Refusal>(())
    })
    .await??;
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}

impl PortalState {
    /// A live session, if it is this user's.
    async fn live_session_of(&self, user: UserId, id: SessionId, now: Timestamp) -> Result<Session, Refusal> {
        let rules = &self.tokens.refresh;
        let lives = |session: &Session| {
            let end = rules.ends_at(session.created_at, session.rotated_at);
            session.user == user && session.ended_at.is_none() && now < end
        };
        let session = self.store.session(id).await?.filter(lives);
        session.ok_or(Reason::SessionUnknown.into())
    }
}
