//! `POST /oauth/revoke` (RFC 7009) and `POST /oauth/introspect` (RFC 7662), for the clients of `oauth.clients` alone.
//!
//! They ask with a form and prove who they are on every call ([`client`]). What they are told goes by RFC 6749 §5.2 and
//! not by RFC 9457: `error` and `error_description`; only what stops a call before it is understood (limits, a lost
//! store) is a problem document. A store that does not answer is 503: a token is never called inactive for our fault.

mod client;
pub(crate) mod introspect;
pub(crate) mod revoke;

use std::sync::Arc;

use crate::{
    clock::Timestamp,
    gate::refusal::Refusal,
    policy::{
        claims::Claims,
        token::{self, Expectations},
    },
    portal::state::PortalState,
    store::{Account, Session},
};

/// Largest body of a call, bytes: the longest token there is, some of it escaped, and the client's secret.
pub(crate) const BODY_LIMIT: usize = 16 * 1024;

/// An access token of ours that the gateway would take now, and what the store knows of it.
struct Good {
    claims: Arc<Claims>,
    session: Session,
    account: Account,
}

impl PortalState {
    /// What an access token is worth now: judged as at the gate, but by what the store says at this moment, not by what
    /// this gateway has heard of it. `None`: nothing, for whatever cause.
    async fn good(&self, token: &str, now: Timestamp) -> Result<Option<Good>, Refusal> {
        let Some(claims) = self.admitted(token, now) else { return Ok(None) };
        let (Some(sid), Ok(user)) = (claims.session, claims.subject.parse()) else { return Ok(None) };
        let known = &self.known;
        let revoked = known.revoked(&claims.token_id) || known.void(&claims.issuer, &claims.subject, claims.issued);
        if revoked || known.ended(sid) {
            return Ok(None);
        }
        let live = |session: &Session| session.ended_at.is_none() && session.user == user;
        let Some(session) = self.store.session(sid).await?.filter(live) else { return Ok(None) };
        let account = self.store.account(user).await?.filter(|account| account.active);
        Ok(account.map(|account| Good { claims, session, account }))
    }

    /// The claims of an access token that is ours and has not run out, whatever became of its session.
    fn admitted(&self, token: &str, now: Timestamp) -> Option<Arc<Claims>> {
        let claims = token::verify(token, &self.keyring.access_keys()).ok()?.claims;
        let (leeway, audiences) = (self.tokens.leeway, std::slice::from_ref(&self.tokens.audience));
        token::admit(&claims, &Expectations { issuer: &self.tokens.issuer, audiences, leeway }, now).ok()?;
        token::admit_for(&claims, self.tokens.access_ttl, leeway, now).ok()?;
        Some(claims)
    }
}
