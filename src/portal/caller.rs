//! Who calls: what the pipeline has established, as axum's extractors hand it to a handler.

use std::{net::IpAddr, sync::Arc};

use axum::extract::FromRequestParts;
use http::{header, request::Parts};
use secrecy::SecretString;

use crate::{
    clock::Timestamp,
    gate::{exchange::Exchange, refusal::Refusal},
    policy::{
        claims::Claims,
        forwarded::limit_prefix,
        ids::{SessionId, UserId},
        reason::Reason,
    },
    portal::{cookie, state::Shared},
    store::{
        AuditEntry, AuditEvent,
        audit::{Actor, Detail},
    },
    telemetry::record::Record,
};

/// Characters of a `User-Agent` a session remembers.
const USER_AGENT_CHARS: usize = 256;

/// The caller of an endpoint, known or not.
pub(crate) struct Caller {
    record: Arc<Record>,
    address: IpAddr,
    claims: Option<Arc<Claims>>,
    presented: bool,
    user_agent: Option<String>,
    device_cookie: Option<SecretString>,
    is_browser: bool,
}

/// A caller with a verified access token of ours.
pub(crate) struct KnownCaller {
    pub(crate) caller: Caller,
    pub(crate) claims: Arc<Claims>,
    pub(crate) user: UserId,
}

impl Caller {
    /// An audit row of this call.
    pub(crate) fn audit(
        &self,
        event: AuditEvent,
        at: Timestamp,
        user: Option<UserId>,
        session: Option<SessionId>,
    ) -> AuditEntry {
        AuditEntry {
            at,
            event,
            // Who fails to log in is not whom they say they are.
            actor: user.filter(|_| event != AuditEvent::LoginFailed).map_or(Actor::Anonymous, Actor::User),
            user,
            session,
            address: self.address(),
            request_id: self.record.request_id().to_owned(),
            detail: Detail::default(),
        }
    }

    /// Work that takes its time: told in the request's trace, if it is sampled.
    pub(crate) async fn working<T>(
        &self,
        what: &'static str,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let span = self.record.trace.as_ref().map(|trace| trace.work(what));
        let outcome = work.await;
        if let Some(mut span) = span {
            match &outcome {
                Ok(_) => span.well(),
                Err(refusal) => span.failed(refusal.reason.as_str()),
            }
        }
        outcome
    }

    /// Notes for the log whose call this turned out to be.
    pub(crate) fn turned_out_to_be(&self, user: UserId) {
        self.record.set_subject(user.to_string().into());
    }

    /// The client's address, as text.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// The client's address, as failures and calls are counted by it.
    pub(crate) fn prefix(&self) -> IpAddr {
        limit_prefix(self.address)
    }

    /// The device cookie that came along; whose it is nobody has looked at yet.
    pub(crate) fn device_cookie(&self) -> Option<&SecretString> {
        self.device_cookie.as_ref()
    }

    /// Whether it says itself from where it calls, as every browser does (Fetch Metadata).
    pub(crate) const fn is_browser(&self) -> bool {
        self.is_browser
    }

    /// The start of the `User-Agent`.
    pub(crate) fn user_agent(&self) -> Option<String> {
        self.user_agent.clone()
    }

    /// Why nobody is known by an access token: one was presented and is not good, or none came.
    pub(crate) fn unknown(&self) -> Reason {
        if self.presented { Reason::TokenMalformed } else { Reason::CredentialsMissing }
    }

    /// The session of a verified access token.
    pub(crate) fn session(&self) -> Option<SessionId> {
        self.claims.as_ref()?.session
    }

    /// The user of a verified access token.
    pub(crate) fn user(&self) -> Option<UserId> {
        self.claims.as_ref()?.subject.parse().ok()
    }
}

impl FromRequestParts<Shared> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, Refusal> {
        let user_agent = parts.headers.get(header::USER_AGENT).map(|value| {
            String::from_utf8_lossy(value.as_bytes())
                .chars()
                .filter(|c| !c.is_control())
                .take(USER_AGENT_CHARS)
                .collect()
        });
        let exchange = parts.extensions.get::<Exchange>();
        let exchange = exchange.ok_or_else(|| Refusal::internal("the portal was called outside the pipeline"))?;
        let claims = exchange.principal()?.claims().map(Arc::clone);
        let presented = parts.headers.contains_key(header::AUTHORIZATION);
        Ok(Self {
            record: Arc::clone(exchange.record()),
            address: exchange.client()?,
            claims,
            presented,
            user_agent,
            device_cookie: cookie::device(&parts.headers, &state.lockout),
            is_browser: parts.headers.contains_key("sec-fetch-site"),
        })
    }
}

impl FromRequestParts<Shared> for KnownCaller {
    type Rejection = Refusal;

    /// The pipeline lets nobody else through to an endpoint that requires a token; were it wired otherwise, this closes.
    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, Refusal> {
        let caller = Caller::from_request_parts(parts, state).await?;
        let claims = caller.claims.clone().ok_or(Reason::CredentialsMissing)?;
        let user = claims.subject.parse().map_err(|_| Reason::TokenMalformed)?;
        Ok(Self { caller, claims, user })
    }
}
