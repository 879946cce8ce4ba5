//! Who calls: *not requested*, *authenticated* or *failed*; on a route that looks at credentials a failure never falls
//! through to anonymous. The one exception is the portal's logout (`Lenient`): whoever's token has expired may still
//! leave, by the refresh token.
//!
//! The signature is checked once per token and minute, the rest on every request: expiry, issuer, audience, whether the
//! key still verifies (ours: one that may sign access tokens; another issuer's: one of its set), what was revoked, and
//! of our own tokens whether the session still lives and whether its user's rights have changed since: then the request
//! goes on with the rights of now. One body for every bad token; the reason is in the log. A bad one is charged to its
//! address here (`limits::charge_address`).
//!
//! On a route that takes tokens of other issuers the token's `iss`, unverified and compared byte for byte, says whose
//! keys verify: ours or those of an issuer that the route accepts. On any other route it is not asked and our keys
//! decide. An issuer's keys verify its own tokens only, and none that claims to be ours.
//!
//! An API key, where the route takes one, is [`crate::gate::api_keys`]'s to know.
//!
//! One of the three layers that may wait (the others are limits' charge and quotas): for the fetch of an issuer's keys,
//! when a token names one that is not known; for the store, when an API key is not. Hence no
//! [`crate::gate::stage::Stage`]; its future is boxed only then.

use std::{
    future::{Future, Ready, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::Either;
use http::{Request, Response, header::AUTHORIZATION};
use tokio::sync::mpsc;
use tower::{Layer, Service};

use crate::{
    clock::Timestamp,
    config::settings::AuthMode,
    gate::{
        api_keys::{self, ApiKeyCheck, Credential, Look, Unsettled},
        bad_tokens::{Attempt, BadTokens},
        body::GateBody,
        caller::{Caller, Signer},
        exchange::{Exchange, Principal},
        keyring::Keyring,
        limits,
        refusal::{Detail, Refusal},
        snapshot::RouteEntry,
        stage::Outcome,
        token_cache::{LONGEST, TokenCache, TokenDigest},
    },
    policy::{
        bearer,
        claims::Claims,
        cookies, cross_site, foreign,
        forwarded::is_trusted,
        ids::SessionId,
        keys::{KeySet, VerifyingKey},
        reason::Reason,
        token::{self, Expectations, TokenFault, Verified},
    },
    store::memory::revocations::Revocations,
    telemetry::metrics::{AuthDecision, CacheResult, Metrics},
    upstream::issuers::{AGAIN, Issuer, News},
};

/// When to ask again while it is not known for too long what was revoked.
const STALE_AGAIN: Duration = Duration::from_secs(5);

/// A session and the generation of an access token that was just used for the first time here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Whose.
    pub session: SessionId,
    /// Which.
    pub generation: u64,
}

/// Establishes the principal.
#[derive(Clone)]
pub struct Authenticate(Arc<Parts>);

/// What authentication stands on.
struct Parts {
    keyring: Arc<Keyring>,
    cache: TokenCache,
    bad: BadTokens,
    known: Arc<Revocations>,
    seen: mpsc::Sender<Seen>,
    metrics: Arc<Metrics>,
    /// `None`: there is no store, so there are no API keys.
    api_keys: Option<Arc<ApiKeyCheck>>,
}

impl Authenticate {
    /// `seen` takes each generation's first use, for the refresh protocol; it is bounded, and what does not fit is
    /// dropped: the loss only lets a lost refresh answer be repeated a little longer. `api_keys`: `None` without a store.
    #[must_use]
    pub fn new(
        keyring: Arc<Keyring>,
        (cache, bad): (TokenCache, BadTokens),
        known: Arc<Revocations>,
        seen: mpsc::Sender<Seen>,
        metrics: Arc<Metrics>,
        api_keys: Option<Arc<ApiKeyCheck>>,
    ) -> Self {
        Self(Arc::new(Parts { keyring, cache, bad, known, seen, metrics, api_keys }))
    }
}

impl<S> Layer<S> for Authenticate {
    type Service = Authenticated<S>;

    fn layer(&self, inner: S) -> Authenticated<S> {
        Authenticated { parts: Arc::clone(&self.0), inner }
    }
}

/// See [`Authenticate`].
#[derive(Clone)]
pub struct Authenticated<S> {
    parts: Arc<Parts>,
    inner: S,
}

/// At once, refused at once, or after a wait.
type Deciding<F> = Either<F, Either<Ready<Outcome>, Pin<Box<dyn Future<Output = Outcome> + Send>>>>;

impl<S> Service<Request<GateBody>> for Authenticated<S>
where
    S: Service<Request<GateBody>, Response = Response<GateBody>, Error = Refusal> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<GateBody>;
    type Error = Refusal;
    type Future = Deciding<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<GateBody>) -> Self::Future {
        let wait = match self.parts.decide(&mut request, true) {
            Ok(()) => return Either::Left(self.inner.call(request)),
            Err(Undecided::Refused(refusal)) => return Either::Right(Either::Left(ready(Err(refusal)))),
            Err(Undecided::Waits(wait)) => wait,
        };
        // The clone is as ready as its original: every service of the pipeline always is.
        let (parts, mut inner) = (Arc::clone(&self.parts), self.inner.clone());
        Either::Right(Either::Right(Box::pin(async move {
            wait.end().await;
            match parts.decide(&mut request, false) {
                Ok(()) => inner.call(request).await,
                Err(Undecided::Refused(refusal)) => Err(refusal),
                Err(Undecided::Waits(_)) => Err(Refusal::internal("asked to wait a second time")),
            }
        })))
    }
}

/// No principal, or not yet.
enum Undecided {
    Refused(Refusal),
    Waits(Wait),
}

/// What has to come first.
enum Wait {
    /// Keys of an issuer's.
    Keys(News),
    /// What the store says of an API key.
    ApiKey(Look),
}

impl Wait {
    async fn end(self) {
        match self {
            Self::Keys(news) => news.come().await,
            Self::ApiKey(look) => look.end().await,
        }
    }
}

impl From<Unsettled> for Undecided {
    fn from(unsettled: Unsettled) -> Self {
        match unsettled {
            Unsettled::Refused(refusal) => Self::Refused(refusal),
            Unsettled::Asked(look) => Self::Waits(Wait::ApiKey(look)),
        }
    }
}

impl From<Refusal> for Undecided {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Reason> for Undecided {
    fn from(reason: Reason) -> Self {
        Self::Refused(reason.into())
    }
}

impl From<TokenFault> for Undecided {
    fn from(fault: TokenFault) -> Self {
        Self::Refused(fault.into())
    }
}

impl From<TokenFault> for Refusal {
    fn from(fault: TokenFault) -> Self {
        fault.reason().into()
    }
}

impl Parts {
    fn decide(&self, request: &mut Request<GateBody>, may_wait: bool) -> Result<(), Undecided> {
        let exchange = Exchange::of(request)?;
        let route = Arc::clone(exchange.route()?);
        let decision = match route.auth {
            AuthMode::None => Ok(Principal::Anonymous),
            AuthMode::Required | AuthMode::Optional | AuthMode::Lenient => {
                self.principal(request, exchange, &route, may_wait)
            }
        };
        let principal = match decision {
            Ok(principal) => principal,
            Err(Undecided::Waits(wait)) => return Err(Undecided::Waits(wait)),
            Err(Undecided::Refused(refusal)) if is_forgiven(&route, &refusal) => Principal::Anonymous,
            Err(Undecided::Refused(refusal)) => {
                self.metrics.auth_decisions.of(AuthDecision::Failed).of(refusal.reason).inc();
                // A failed try is the address's to pay for; its peek will refuse the next one before any crypto. One
                // that was not looked at is not known to be bad.
                if refusal.reason != Reason::TokensUnchecked {
                    limits::charge_address(exchange, request.headers());
                }
                return Err(refusal.into());
            }
        };
        let decided = match &principal {
            Principal::Anonymous => AuthDecision::NotRequested,
            Principal::Authenticated(_) => AuthDecision::Authenticated,
        };
        self.metrics.auth_decisions.of(decided).of(Reason::Ok).inc();
        let by_header = || route.credentials.bearer && request.headers().contains_key(AUTHORIZATION);
        let by_token = matches!(&principal, Principal::Authenticated(caller) if caller.api_key().is_none());
        let by_cookie = route.credentials.cookie && by_token && !by_header();
        let exchange = Exchange::of_mut(request)?;
        exchange.set_by_cookie(by_cookie);
        exchange.set_principal(principal);
        Ok(())
    }

    fn principal(
        &self,
        request: &Request<GateBody>,
        exchange: &Exchange,
        route: &RouteEntry,
        may_wait: bool,
    ) -> Result<Principal, Undecided> {
        let token = match presented(request, exchange, route)? {
            None => return Ok(Principal::Anonymous),
            Some(Credential::Token(token)) => token,
            Some(Credential::ApiKey(key)) => {
                let known = self.api_keys.as_ref().ok_or(Reason::ApiKeyInvalid)?;
                return Ok(Principal::Authenticated(known.caller(key, exchange, route, may_wait)?));
            }
        };
        let (now, snapshot) = (exchange.now(), exchange.snapshot());
        let mut caller = self.caller(token, exchange, route, may_wait)?;
        let leeway = snapshot.leeway;
        match caller.signer() {
            Signer::Own(session) => {
                let audiences = std::slice::from_ref(&route.audience);
                token::admit(caller.claims(), &Expectations { issuer: &snapshot.issuer, audiences, leeway }, now)?;
                token::admit_for(caller.claims(), snapshot.access_ttl, leeway, now)?;
                if !route.own_tokens {
                    return Err(Reason::TokenIssuer.into());
                }
                if !self.keyring.verifies(caller.kid()) {
                    return Err(Reason::TokenSignature.into());
                }
                if self.known.ended(*session) {
                    return Err(Reason::SessionEnded.into());
                }
                if self.known.revoked(&caller.claims().token_id) {
                    return Err(Reason::TokenRevoked.into());
                }
            }
            Signer::Foreign(issuer) => {
                // The very issuer, not one of its name: what was cached was judged by its rules.
                let accepted = route.issuers.iter().find(|accepted| Arc::ptr_eq(&accepted.issuer, issuer));
                let accepted = accepted.ok_or(Reason::TokenIssuer)?;
                let expect = Expectations { issuer: &issuer.rules().issuer, audiences: &accepted.audiences, leeway };
                token::admit(caller.claims(), &expect, now)?;
                let keys = issuer.keys(exchange.tick()).ok_or_else(|| unavailable(issuer))?;
                if !keys.holds(caller.kid()) {
                    return Err(Reason::TokenSignature.into());
                }
            }
            // Never among the verified tokens.
            Signer::ApiKey(_) => return Err(Reason::TokenKind.into()),
        }
        let claims = caller.claims();
        if self.known.void(&claims.issuer, &claims.subject, claims.issued) {
            return Err(Reason::TokenRevoked.into());
        }
        // Last: what is wrong with the token is wrong however much is known.
        if route.staleness.refuses(self.known.staleness(exchange.tick())) {
            return Err(Refusal::with(Reason::RevocationsStale, Detail::RetryAfter(STALE_AGAIN)).into());
        }
        if let Some(current) = self.with_newer_rights(&caller) {
            self.cache.put(TokenCache::digest(token), Arc::clone(&current));
            caller = current;
        }
        Ok(Principal::Authenticated(caller))
    }

    /// Whoever comes by a trusted proxy, and is none, is charged; the proxy is not.
    fn attempt(&self, digest: TokenDigest, exchange: &Exchange) -> Attempt<'_> {
        let trusted = &exchange.snapshot().trusted_proxies;
        let client = exchange.client().ok().filter(|client| !is_trusted(*client, trusted));
        self.bad.attempt(digest, client, exchange.tick())
    }

    fn verify_own(&self, token: &str, attempt: &Attempt<'_>) -> Result<(Verified, Signer), Undecided> {
        let outcome = token::verify_if(token, &self.keyring.access_keys(), |key| attempt.may_verify(key));
        attempt.ended(&outcome);
        let verified = outcome.map_err(|fault| self.own(fault))?;
        let session = verified.claims.session.ok_or(TokenFault::Malformed)?;
        Ok((verified, Signer::Own(session)))
    }

    /// What is wrong with a token of ours. While the keys cannot be read, one that is not known may be the one that the
    /// other gateways sign with by now: no fault of the token's.
    fn own(&self, fault: TokenFault) -> Refusal {
        if matches!(fault, TokenFault::UnknownKey) && self.keyring.is_cut_off() {
            return Refusal::with(Reason::StoreUnavailable, Detail::RetryAfter(STALE_AGAIN));
        }
        fault.into()
    }

    /// The caller as of now, if the user's rights have changed since the token was made.
    fn with_newer_rights(&self, caller: &Caller) -> Option<Arc<Caller>> {
        if !self.known.holds_rights() || !matches!(caller.signer(), Signer::Own(_)) {
            return None;
        }
        let claims = caller.claims();
        let rights = self.known.newer_rights(claims.subject.parse().ok()?, claims.authorization_version)?;
        let claims = Claims {
            roles: rights.roles.iter().map(|role| role.as_str().into()).collect(),
            scopes: rights.scopes.iter().map(|scope| scope.as_str().into()).collect(),
            org: rights.org.as_deref().map(Into::into),
            authorization_version: rights.version,
            ..Claims::clone(claims)
        };
        let verified = Verified { claims: Arc::new(claims), kid: caller.kid().into() };
        Some(Arc::new(Caller::new(verified, caller.signer().clone(), caller.cached_until())))
    }

    fn caller(
        &self,
        token: &str,
        exchange: &Exchange,
        route: &RouteEntry,
        may_wait: bool,
    ) -> Result<Arc<Caller>, Undecided> {
        // Neither an oversized token nor what is none must buy a hash of its whole length.
        if token.len() > token::MAX_TOKEN_LEN {
            return Err(TokenFault::TooLarge.into());
        }
        if !token::has_form(token) {
            return Err(TokenFault::Malformed.into());
        }
        let now = exchange.now();
        let digest = TokenCache::digest(token);
        if let Some(caller) = self.cache.get(&digest, now) {
            self.metrics.token_cache.of(CacheResult::Hit).inc();
            return Ok(caller);
        }
        if may_wait {
            self.metrics.token_cache.of(CacheResult::Miss).inc();
        }
        let attempt = self.attempt(digest, exchange);
        let outcome = match choose(token, exchange, route)? {
            None => self.verify_own(token, &attempt),
            Some(issuer) => verify_foreign(token, issuer, exchange, &attempt, may_wait)
                .map(|verified| (verified, Signer::Foreign(Arc::clone(issuer)))),
        };
        let (verified, signer) = match attempt.refusal() {
            Some(of_the_address) => return Err(of_the_address.into()),
            None => outcome?,
        };
        let seen = match &signer {
            Signer::Own(session) => Some(Seen { session: *session, generation: verified.claims.generation }),
            Signer::Foreign(_) | Signer::ApiKey(_) => None,
        };
        let until = now.plus(LONGEST).min(Timestamp::from_seconds(verified.claims.expires).plus(LONGEST));
        let caller = Arc::new(Caller::new(verified, signer, until));
        self.cache.put(digest, Arc::clone(&caller));
        if let Some(seen) = seen {
            let _ = self.seen.try_send(seen);
        }
        Ok(caller)
    }
}

/// Whose keys are to verify a token here; `None`: ours.
fn choose<'a>(token: &str, exchange: &Exchange, route: &'a RouteEntry) -> Result<Option<&'a Arc<Issuer>>, TokenFault> {
    // Most routes take our own tokens and no other: whatever this one claims, our keys decide.
    if route.issuers.is_empty() {
        return Ok(None);
    }
    let claimed = token::claimed_issuer(token).ok_or(TokenFault::Malformed)?;
    if *claimed == *exchange.snapshot().issuer {
        return Ok(None);
    }
    route.issuer(&claimed).map(Some).ok_or(TokenFault::Issuer)
}

/// Verifies with the keys there are; if those do not do and it may, it waits for newer ones.
fn verify_foreign(
    token: &str,
    issuer: &Arc<Issuer>,
    exchange: &Exchange,
    attempt: &Attempt<'_>,
    may_wait: bool,
) -> Result<Verified, Undecided> {
    let now = exchange.tick();
    let verify = |keys: &KeySet| {
        let may = |key: &VerifyingKey| attempt.may_verify(key);
        let outcome = foreign::verify_if(token, keys, issuer.rules(), exchange.now(), may);
        attempt.ended(&outcome);
        outcome
    };
    let before = issuer.keys(now);
    let outcome = before.as_deref().map(verify);
    if !matches!(outcome, None | Some(Err(TokenFault::UnknownKey))) {
        return outcome.map_or_else(|| Err(unavailable(issuer).into()), |outcome| outcome.map_err(Undecided::from));
    }
    if may_wait && let Some(news) = issuer.ask(now) {
        return Err(Undecided::Waits(Wait::Keys(news)));
    }
    // A fetch may have ended since the keys were looked at.
    let keys = issuer.keys(now).ok_or_else(|| unavailable(issuer))?;
    Ok(verify(&keys)?)
}

fn unavailable(issuer: &Issuer) -> Refusal {
    tracing::debug!(issuer = %issuer.rules().name, "no key of the issuer's was ever fetched, or not for too long");
    Refusal::with(Reason::IssuerUnavailable, Detail::RetryAfter(AGAIN))
}

/// Whether bad credentials count as none. Not those that no account endpoint takes: whoever leaves with an API key has
/// taken it for something else.
fn is_forgiven(route: &RouteEntry, refusal: &Refusal) -> bool {
    route.auth == AuthMode::Lenient && refusal.reason != Reason::ApiKeyNotAccepted
}

/// The credentials of a request, where its route looks for them. Headers go first: a browser sends cookies for
/// whichever page asks, but those headers only for one that knows what is in them.
fn presented<'a>(
    request: &'a Request<GateBody>,
    exchange: &Exchange,
    route: &RouteEntry,
) -> Result<Option<Credential<'a>>, Refusal> {
    let malformed = |text: String| Refusal::with(Reason::CredentialsMalformed, Detail::Log(text));
    let (takes, headers) = (route.credentials, request.headers());
    let bearer = if takes.bearer || takes.api_key {
        bearer::bearer(headers).map_err(|fault| malformed(fault.to_string()))?
    } else {
        None
    };
    if let Some(shown) = api_keys::shown(bearer, headers, route)? {
        return Ok(Some(shown));
    }
    if !takes.cookie {
        return api_keys::missing(headers, route).map(|()| None);
    }
    let (method, snapshot) = (request.method(), exchange.snapshot());
    let token = cookies::only(headers, &snapshot.access_cookie).map_err(|fault| malformed(fault.to_string()))?;
    if token.is_some() && !cross_site::cookie_counts(method, headers, &snapshot.own_origin, &route.allowed_origins) {
        return Err(Reason::CrossSite.into());
    }
    if token.is_none() {
        api_keys::missing(headers, route)?;
    }
    Ok(token.map(Credential::Token))
}
