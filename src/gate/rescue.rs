//! The one table that turns a refusal into an answer: status, words, challenge, log level.
//!
//! The status of a reason is [`row_for`]'s: [`row`]'s, two of them moved by `portal.compat: fastapi`. Headers and
//! bodies (RFC 9457) are [`crate::gate::problem`]'s; challenges follow RFC 6750 §3. Which layer gives a reason is found
//! by its name, [`Reason`]. Statuses without a reason: the bare 4xx to what hyper cannot parse and to heads that are
//! too large (over HTTP/2 the 431 of `edge/service.rs`), the 204 of a preflight ([`crate::gate::cors`]), the 200 of a
//! decision, the 101 of a WebSocket, what the admin listener and the portal's handlers answer, and a service's own. A
//! proxy that asks for a decision may be told another status than the reason's ([`decision`]).

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response, StatusCode};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{
    config::settings::Compat,
    gate::{
        body::GateBody,
        decision,
        exchange::Exchange,
        problem,
        refusal::{Detail, Refusal},
        stage::Outcome,
    },
    policy::reason::Reason,
    telemetry::record::Record,
};

/// Which `WWW-Authenticate` an answer carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge {
    /// None.
    Silent,
    /// `Bearer` alone: no credentials came.
    Bearer,
    /// `error="invalid_token"`.
    InvalidToken,
    /// `error="insufficient_scope"`.
    InsufficientScope,
    /// `Basic`: a client is to say who it is (RFC 6749 §5.2).
    Basic,
}

/// How loudly a refusal is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loudness {
    /// The client's doing; the access line says enough.
    Quiet,
    /// Worth an operator's look.
    Warn,
    /// A fault of ours.
    Error,
}

/// How one reason is answered.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The status.
    pub status: StatusCode,
    /// `code` of the problem document: the reason's label, or one word for several that a client may not tell apart.
    pub code: &'static str,
    /// `title` of the problem document.
    pub title: &'static str,
    /// `detail` of the problem document, where the refusal itself says nothing closer.
    pub detail: &'static str,
    /// The challenge.
    pub challenge: Challenge,
    /// How loudly it is logged.
    pub loudness: Loudness,
}

/// The table.
#[must_use]
pub const fn row(reason: Reason) -> Row {
    use Challenge::{Basic, Bearer, InsufficientScope, InvalidToken, Silent};
    use Loudness::{Error, Quiet, Warn};

    let (status, title, challenge, loudness) = match reason {
        Reason::HostInvalid => (StatusCode::BAD_REQUEST, "The Host header is not acceptable", Silent, Quiet),
        Reason::PathInvalid => (StatusCode::BAD_REQUEST, "The path is ambiguous or malformed", Silent, Quiet),
        Reason::HeaderInvalid => (StatusCode::BAD_REQUEST, "A header is not acceptable", Silent, Quiet),
        Reason::TransferEncodingInvalid => {
            (StatusCode::BAD_REQUEST, "The Transfer-Encoding is not acceptable", Silent, Quiet)
        }
        Reason::BodyBroken => (StatusCode::BAD_REQUEST, "The request body broke off", Silent, Quiet),
        Reason::MethodRefused => (StatusCode::METHOD_NOT_ALLOWED, "The method is not forwarded", Silent, Quiet),
        Reason::NoRoute => (StatusCode::NOT_FOUND, "Nothing is served here", Silent, Quiet),
        Reason::SessionUnknown => (StatusCode::NOT_FOUND, "There is no such session", Silent, Quiet),
        Reason::ApiKeyUnknown => (StatusCode::NOT_FOUND, "There is no such API key", Silent, Quiet),
        Reason::ApiKeyNotAccepted => (StatusCode::FORBIDDEN, "API keys are not accepted here", Silent, Quiet),
        Reason::ApiKeyLimit => (StatusCode::CONFLICT, "There are too many API keys already", Silent, Quiet),
        Reason::LockoutUnknown => (StatusCode::NOT_FOUND, "There is no such lockout", Silent, Quiet),
        Reason::QuotaUnknown => (StatusCode::NOT_FOUND, "Nothing of the quota is used", Silent, Quiet),
        Reason::LoginsRefused => {
            (StatusCode::TOO_MANY_REQUESTS, "Logins from here are refused for a while", Silent, Quiet)
        }
        Reason::ClientInvalid => (StatusCode::UNAUTHORIZED, "The client is not known", Basic, Quiet),
        Reason::RequestInvalid => (StatusCode::BAD_REQUEST, "The request is not understood", Silent, Quiet),
        Reason::TokenTypeUnsupported => {
            (StatusCode::BAD_REQUEST, "Tokens of this kind cannot be revoked", Silent, Quiet)
        }
        Reason::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "The method is not allowed here", Silent, Quiet),
        Reason::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "The request body is too large", Silent, Quiet),
        Reason::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "The request body did not arrive in time", Silent, Quiet),
        Reason::CredentialsMissing => (StatusCode::UNAUTHORIZED, "Credentials are needed", Bearer, Quiet),
        // Whatever was presented as a token and is none is one answer; only the log tells what was wrong.
        Reason::CredentialsMalformed
        | Reason::TokenMalformed
        | Reason::TokenSignature
        | Reason::TokenExpired
        | Reason::TokenNotYetValid
        | Reason::TokenIssuer
        | Reason::TokenAudience
        | Reason::TokenLifetime
        | Reason::TokenKind
        | Reason::SessionEnded
        | Reason::TokenRevoked
        | Reason::StreamExpired
        | Reason::ApiKeyMalformed
        | Reason::ApiKeyInvalid
        | Reason::ApiKeyExpired
        | Reason::ApiKeyRevoked
        | Reason::ReferenceUnknown => (StatusCode::UNAUTHORIZED, "The access token is not valid", InvalidToken, Quiet),
        Reason::LoginFailed => (StatusCode::UNAUTHORIZED, "The login or the password is wrong", Bearer, Quiet),
        Reason::RoleMissing => (StatusCode::FORBIDDEN, "A role is missing", Silent, Quiet),
        Reason::ScopeMissing => (StatusCode::FORBIDDEN, "A scope is missing", InsufficientScope, Quiet),
        Reason::RegistrationClosed => (StatusCode::FORBIDDEN, "Registration is closed", Silent, Quiet),
        Reason::CrossSite => (StatusCode::FORBIDDEN, "A cookie is not accepted from another site", Silent, Quiet),
        Reason::OriginRefused => (StatusCode::FORBIDDEN, "The origin is not listed here", Silent, Quiet),
        Reason::ForwardAuthPeer => (StatusCode::FORBIDDEN, "Decisions are not for this peer", Silent, Quiet),
        // Nothing a client did: the proxy that asks is not set up as it should be.
        Reason::ForwardAuthOriginal => (StatusCode::FORBIDDEN, "What was asked is not known", Silent, Warn),
        Reason::AddressLimited | Reason::SubjectLimited | Reason::RouteLimited => {
            (StatusCode::TOO_MANY_REQUESTS, "The limit is used up", Silent, Quiet)
        }
        Reason::ConcurrencyLimited => (StatusCode::TOO_MANY_REQUESTS, "Too many requests are under way", Silent, Quiet),
        Reason::StreamsLimited => (StatusCode::TOO_MANY_REQUESTS, "Too many streams are open", Silent, Quiet),
        Reason::QuotaUsedUp => (StatusCode::TOO_MANY_REQUESTS, "The quota is used up", Silent, Quiet),
        // Noted in records, and in the last event of a stream.
        Reason::BudgetUsedUp => (StatusCode::TOO_MANY_REQUESTS, "The budget is used up", Silent, Quiet),
        Reason::AddressLocked => {
            (StatusCode::TOO_MANY_REQUESTS, "Too many logins from this address have failed", Silent, Quiet)
        }
        Reason::CallsPaced => (StatusCode::TOO_MANY_REQUESTS, "Too many of these calls", Silent, Quiet),
        Reason::AddressFlooding => {
            (StatusCode::TOO_MANY_REQUESTS, "Too many bad requests come from there", Silent, Quiet)
        }
        Reason::TokensUnchecked => {
            (StatusCode::TOO_MANY_REQUESTS, "Too many bad tokens come from there", Silent, Quiet)
        }
        Reason::RefreshInvalid | Reason::RefreshReuse => {
            (StatusCode::BAD_REQUEST, "The refresh token is not valid", Silent, Quiet)
        }
        Reason::Validation => (StatusCode::UNPROCESSABLE_ENTITY, "A field is not acceptable", Silent, Quiet),
        Reason::AccountExists => (StatusCode::CONFLICT, "The account exists already", Silent, Quiet),
        Reason::MediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "The media type is not accepted", Silent, Quiet),
        Reason::HashQueueFull | Reason::LoginsUnderWay => {
            (StatusCode::SERVICE_UNAVAILABLE, "Too many logins at once", Silent, Warn)
        }
        // Quiet: a line for each would be work, of which there is too much. The metrics tell, and `app/pressure.rs`.
        Reason::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "There is too much to do", Silent, Quiet),
        Reason::RevocationsStale => {
            (StatusCode::SERVICE_UNAVAILABLE, "Whether the access token still holds is not known", Silent, Warn)
        }
        Reason::StoreUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "Accounts are unavailable", Silent, Error),
        Reason::IssuerUnavailable => {
            (StatusCode::SERVICE_UNAVAILABLE, "The token's issuer is unavailable", Silent, Warn)
        }
        Reason::UpstreamUnhealthy => (StatusCode::SERVICE_UNAVAILABLE, "The service is unavailable", Silent, Warn),
        Reason::UpstreamConnect | Reason::UpstreamBroken => {
            (StatusCode::BAD_GATEWAY, "The service could not be reached", Silent, Warn)
        }
        Reason::UpstreamTimeout | Reason::TotalTimeout => {
            (StatusCode::GATEWAY_TIMEOUT, "The service did not answer in time", Silent, Warn)
        }
        // Noted in records only: by then the head is sent or nobody listens.
        Reason::AnswerCut | Reason::ClientGone => (StatusCode::BAD_GATEWAY, "The answer was cut", Silent, Warn),
        Reason::Ok | Reason::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "A fault of the gateway", Silent, Error),
    };
    Row { status, code: code(reason, challenge), title, detail: title, challenge, loudness }
}

/// The table's row as this front end knows it: with [`Compat::FastApi`] the statuses and the words of `FastAPI` and its
/// documentation. `code` and `title` stay: who reads them was written for us.
#[must_use]
pub const fn row_for(compat: Compat, reason: Reason) -> Row {
    let row = row(reason);
    if matches!(compat, Compat::None) {
        return row;
    }
    let (status, detail) = match reason {
        Reason::CredentialsMissing => (StatusCode::FORBIDDEN, "Not authenticated"),
        Reason::AccountExists => (StatusCode::BAD_REQUEST, row.detail),
        Reason::LoginFailed => (row.status, "Incorrect username or password"),
        Reason::RoleMissing | Reason::ScopeMissing => (row.status, "Not enough permissions"),
        Reason::NoRoute => (row.status, "Not Found"),
        Reason::MethodNotAllowed | Reason::MethodRefused => (row.status, "Method Not Allowed"),
        _ if matches!(row.challenge, Challenge::InvalidToken) => (row.status, "Could not validate credentials"),
        _ => return row,
    };
    Row { status, detail, ..row }
}

/// What the client is told: one word for all bad tokens and one for all bad refresh tokens, else the label.
const fn code(reason: Reason, challenge: Challenge) -> &'static str {
    match reason {
        // The bad tokens are those the table above challenges so; they are listed once.
        _ if matches!(challenge, Challenge::InvalidToken) => "invalid_token",
        Reason::RefreshInvalid | Reason::RefreshReuse => "invalid_grant",
        Reason::AddressLimited
        | Reason::SubjectLimited
        | Reason::RouteLimited
        | Reason::ConcurrencyLimited
        | Reason::StreamsLimited
        | Reason::QuotaUsedUp
        | Reason::BudgetUsedUp => "quota_exceeded",
        other => other.as_str(),
    }
}

/// Makes the pipeline infallible.
#[derive(Debug, Clone, Copy, Default)]
pub struct RescueLayer;

impl<S> Layer<S> for RescueLayer {
    type Service = Rescue<S>;

    fn layer(&self, inner: S) -> Rescue<S> {
        Rescue { inner }
    }
}

/// See [`RescueLayer`].
#[derive(Debug, Clone)]
pub struct Rescue<S> {
    inner: S,
}

impl<S> Service<Request<GateBody>> for Rescue<S>
where
    S: Service<Request<GateBody>, Response = Response<GateBody>, Error = Refusal>,
{
    type Response = Response<GateBody>;
    type Error = Infallible;
    type Future = RescueFuture<S::Future>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Every service of the pipeline is always ready; back-pressure is the edge's connection cap.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<GateBody>) -> Self::Future {
        let exchange = Exchange::of(&request).ok();
        let record = exchange.map(|exchange| Arc::clone(exchange.record()));
        let compat = exchange.map_or(Compat::None, |exchange| exchange.snapshot().compat);
        RescueFuture { inner: self.inner.call(request), record, compat }
    }
}

pin_project! {
    /// The future of [`Rescue`].
    pub struct RescueFuture<F> {
        #[pin]
        inner: F,
        record: Option<Arc<Record>>,
        compat: Compat,
    }
}

impl<F: Future<Output = Outcome>> Future for RescueFuture<F> {
    type Output = Result<Response<GateBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = match ready!(this.inner.poll(cx)) {
            Ok(response) => response,
            Err(refusal) => {
                if let Some(record) = this.record {
                    record.set_reason(refusal.reason);
                }
                log(&refusal, this.record.as_deref());
                let record = this.record.as_deref();
                let answer = problem::answer(&refusal, *this.compat, record);
                match record.and_then(Record::decision) {
                    Some(form) => decision::refused(answer, form),
                    None => answer,
                }
            }
        };
        Poll::Ready(Ok(response))
    }
}

fn log(refusal: &Refusal, record: Option<&Record>) {
    let request_id = record.map_or("", Record::request_id);
    let reason = refusal.reason.as_str();
    let cause = match refusal.detail.as_deref() {
        Some(Detail::Log(text)) => text.as_str(),
        _ => "",
    };
    match row(refusal.reason).loudness {
        Loudness::Quiet => tracing::debug!(request_id, reason, cause, "refused"),
        Loudness::Warn => tracing::warn!(request_id, reason, cause, "refused"),
        Loudness::Error => tracing::error!(request_id, reason, cause, "failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_token_gets_the_same_answer() {
        let rows: Vec<Row> = [
            Reason::CredentialsMalformed,
            Reason::TokenMalformed,
            Reason::TokenSignature,
            Reason::TokenExpired,
            Reason::TokenNotYetValid,
            Reason::TokenIssuer,
            Reason::TokenAudience,
            Reason::TokenLifetime,
            Reason::TokenKind,
            Reason::SessionEnded,
            Reason::StreamExpired,
            Reason::ApiKeyMalformed,
            Reason::ApiKeyInvalid,
            Reason::ApiKeyExpired,
            Reason::ApiKeyRevoked,
            Reason::ReferenceUnknown,
        ]
        .into_iter()
        .map(row)
        .collect();
        for one in &rows {
            assert_eq!((one.status, one.code, one.title), (rows[0].status, rows[0].code, rows[0].title));
            assert_eq!(one.challenge, Challenge::InvalidToken);
        }
    }

    #[test]
    fn reuse_and_an_unknown_refresh_token_look_alike() {
        let (reuse, unknown) = (row(Reason::RefreshReuse), row(Reason::RefreshInvalid));
        assert_eq!((reuse.status, reuse.code, reuse.title), (unknown.status, unknown.code, unknown.title));
        assert_eq!(reuse.code, "invalid_grant");
    }

    #[test]
    fn a_profile_changes_few_statuses_and_no_code() {
        for reason in Reason::ALL {
            let (ours, theirs) = (row(*reason), row_for(Compat::FastApi, *reason));
            assert_eq!((ours.code, ours.title, ours.challenge), (theirs.code, theirs.title, theirs.challenge));
            assert_eq!(row_for(Compat::None, *reason).detail, ours.title);
            let moved = matches!(reason, Reason::CredentialsMissing | Reason::AccountExists);
            assert_eq!(ours.status != theirs.status, moved, "{reason:?}");
        }
    }

    #[test]
    fn a_lost_store_is_503_and_never_401() {
        for reason in [Reason::StoreUnavailable, Reason::IssuerUnavailable] {
            assert_eq!(row(reason).status, StatusCode::SERVICE_UNAVAILABLE);
        }
    }

    #[test]
    fn every_401_carries_a_challenge_and_no_refusal_is_a_success() {
        for reason in Reason::ALL {
            let row = row(*reason);
            assert!(row.status.is_client_error() || row.status.is_server_error(), "{reason:?}");
            if row.status == StatusCode::UNAUTHORIZED {
                assert_ne!(row.challenge, Challenge::Silent, "{reason:?}");
            }
        }
    }
}
