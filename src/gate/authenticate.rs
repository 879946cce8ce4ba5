//! Who calls: *not requested*, *authenticated* or *failed*; a failure never falls through to anonymous. The one
//! exception is the portal's logout (`Lenient`): whoever's token has expired may still leave, by the refresh token.
//!
//! The signature is checked once per token and minute, the rest on every request: expiry, issuer, audience, whether
//! the key is still published and the session still lives. One body for every bad token; the reason is in the log.

use std::sync::Arc;

use http::{Request, header::AUTHORIZATION};
use tokio::sync::mpsc;

use crate::{
    clock::Timestamp,
    config::settings::AuthMode,
    gate::{
        body::GateBody,
        caller::Caller,
        exchange::{Exchange, Principal},
        keyring::Keyring,
        limits,
        refusal::{Detail, Refusal},
        snapshot::RouteEntry,
        stage::Stage,
        token_cache::{LONGEST, TokenCache},
    },
    policy::{
        bearer, cookies, cross_site,
        ids::SessionId,
        reason::Reason,
        token::{self, Expectations, TokenFault},
    },
    store::memory::ended_sessions::EndedSessions,
    telemetry::metrics::{AuthDecision, CacheResult, Metrics},
};

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
    ended: Arc<EndedSessions>,
    seen: mpsc::Sender<Seen>,
    metrics: Arc<Metrics>,
}

impl Authenticate {
    /// `seen` takes each generation's first use, for the refresh protocol; it is bounded, and what does not fit is
    /// dropped: the loss only lets a lost refresh answer be repeated a little longer.
    #[must_use]
    pub fn new(
        keyring: Arc<Keyring>,
        cache: TokenCache,
        ended: Arc<EndedSessions>,
        seen: mpsc::Sender<Seen>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self(Arc::new(Parts { keyring, cache, ended, seen, metrics }))
    }
}

impl Stage for Authenticate {
    fn apply(&self, request: &mut Request<GateBody>) -> Result<(), Refusal> {
        let exchange = Exchange::of(request)?;
        let route = Arc::clone(exchange.route()?);
        let decision = match route.auth {
            AuthMode::None => Ok(Principal::Anonymous),
            AuthMode::Required | AuthMode::Optional | AuthMode::Lenient => self.0.principal(request, exchange, &route),
        };
        let principal = match decision {
            Ok(principal) => principal,
            Err(_) if route.auth == AuthMode::Lenient => Principal::Anonymous,
            Err(refusal) => {
                self.0.metrics.auth_decisions.of(AuthDecision::Failed).of(refusal.reason).inc();
                // A failed try is the address's to pay for; its peek will refuse the next one before any crypto.
                limits::charge_address(exchange);
                return Err(refusal);
            }
        };
        let decided = match &principal {
            Principal::Anonymous => AuthDecision::NotRequested,
            Principal::Authenticated(_) => AuthDecision::Authenticated,
        };
        self.0.metrics.auth_decisions.of(decided).of(Reason::Ok).inc();
        let by_header = route.credentials.bearer && request.headers().contains_key(AUTHORIZATION);
        let by_cookie = route.credentials.cookie && !by_header && principal.claims().is_some();
        let exchange = Exchange::of_mut(request)?;
        exchange.set_by_cookie(by_cookie);
        exchange.set_principal(principal);
        Ok(())
    }
}

/// The access token of a request, where its route looks for one. The header goes first: a browser sends cookies for
/// whichever page asks, but that header only for one that knows the token.
fn presented<'a>(
    request: &'a Request<GateBody>,
    exchange: &Exchange,
    route: &RouteEntry,
) -> Result<Option<&'a str>, Refusal> {
    let malformed = |text: String| Refusal::with(Reason::CredentialsMalformed, Detail::Log(text));
    if route.credentials.bearer
        && let Some(token) = bearer::bearer(request.headers()).map_err(|fault| malformed(fault.to_string()))?
    {
        return Ok(Some(token));
    }
    if !route.credentials.cookie {
        return Ok(None);
    }
    let (method, headers, snapshot) = (request.method(), request.headers(), exchange.snapshot());
    let token = cookies::only(headers, &snapshot.access_cookie).map_err(|fault| malformed(fault.to_string()))?;
    if token.is_some() && !cross_site::cookie_counts(method, headers, &snapshot.own_origin, &route.allowed_origins) {
        return Err(Reason::CrossSite.into());
    }
    Ok(token)
}

impl Parts {
    fn principal(
        &self,
        request: &Request<GateBody>,
        exchange: &Exchange,
        route: &RouteEntry,
    ) -> Result<Principal, Refusal> {
        let Some(token) = presented(request, exchange, route)? else {
            return Ok(Principal::Anonymous);
        };
        let (now, snapshot) = (exchange.now(), exchange.snapshot());
        let caller = self.caller(token, now).map_err(|fault| Refusal::from(fault.reason()))?;
        let expect = Expectations { issuer: &snapshot.issuer, audience: &route.audience, leeway: snapshot.leeway };
        token::admit(caller.claims(), &expect, now).map_err(|fault| Refusal::from(fault.reason()))?;
        if !self.keyring.verifies(caller.kid()) {
            return Err(Reason::TokenSignature.into());
        }
        if self.ended.contains(caller.session(), now) {
            return Err(Reason::SessionEnded.into());
        }
        Ok(Principal::Authenticated(caller))
    }

    fn caller(&self, token: &str, now: Timestamp) -> Result<Arc<Caller>, TokenFault> {
        // An oversized token must not buy a hash of its whole length.
        if token.len() > token::MAX_TOKEN_LEN {
            return Err(TokenFault::TooLarge);
        }
        let digest = TokenCache::digest(token);
        if let Some(caller) = self.cache.get(&digest, now) {
            self.metrics.token_cache.of(CacheResult::Hit).inc();
            return Ok(caller);
        }
        self.metrics.token_cache.of(CacheResult::Miss).inc();
        let verified = token::verify(token, &self.keyring.key_set())?;
        let session = verified.claims.session.ok_or(TokenFault::Malformed)?;
        let generation = verified.claims.generation;
        let until = now.plus(LONGEST).min(Timestamp::from_seconds(verified.claims.expires).plus(LONGEST));
        let caller = Arc::new(Caller::new(verified, session, until));
        self.cache.put(digest, Arc::clone(&caller));
        let _ = self.seen.try_send(Seen { session, generation });
        Ok(caller)
    }
}
