//! Who calls: *not requested*, *authenticated* or *failed*; on a route that looks at credentials a failure
//! never falls through to anonymous. The one exception is the portal's logout (`Lenient`): whoever's token has expired
//! may still leave, by the refresh token.
//!
//! The signature is checked once per token and minute, the rest on every request: expiry, issuer, audience, whether
//! the key is still published and the session still lives. One body for every bad token; the reason is in the log.

use std::sync::Arc;

use http::Request;
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
        bearer,
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
        Exchange::of_mut(request)?.set_principal(principal);
        Ok(())
    }
}

impl Parts {
    fn principal(
        &self,
        request: &Request<GateBody>,
        exchange: &Exchange,
        route: &RouteEntry,
    ) -> Result<Principal, Refusal> {
        let token = bearer::bearer(request.headers())
            .map_err(|fault| Refusal::with(fault.reason(), Detail::Log(fault.to_string())))?;
        let Some(token) = token else {
            return Ok(Principal::Anonymous);
        };
        let (now, snapshot) = (exchange.now(), exchange.snapshot());
        let caller = self.caller(token, now).map_err(|fault| Refusal::from(fault.reason()))?;
        let expect = Expectations {
            issuer: &snapshot.issuer,
            audiences: std::slice::from_ref(&route.audience),
            leeway: snapshot.leeway,
        };
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
