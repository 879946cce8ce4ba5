//! The refresh token a request presents: in its body or as a cookie, never as two different ones.
//!
//! A token in the body was put there by whoever holds it. A cookie is sent by the browser on behalf of whatever page
//! asks, so it counts only when the request comes from our own pages or listed ones. Both at once are taken
//! when they are the same token, under the cookie's rule; two different ones are refused, since acting on either would
//! touch a session the caller may not have meant.

use axum::extract::FromRequestParts;
use http::request::Parts;
use secrecy::{ExposeSecret, SecretString};

use crate::{
    gate::refusal::Refusal,
    policy::{
        cross_site::{cookie_counts, origin_of},
        ids::SessionId,
        reason::Reason,
        refresh_token::{self, Parsed},
    },
    portal::{
        cookie,
        state::{PortalState, Shared},
    },
    store::Session,
};

/// The refresh cookie of a request, and whether it may be used.
pub(crate) struct CookieToken {
    /// Judged only when it is used: a call that goes by its access token does not fail for its cookies.
    token: Result<Option<SecretString>, Refusal>,
    allowed: bool,
}

impl CookieToken {
    /// The one token of this request, given what its body held.
    ///
    /// # Errors
    /// [`Reason::CrossSite`] for a cookie from elsewhere; [`Reason::RefreshInvalid`] for two different tokens, in
    /// whatever places.
    pub(crate) fn or_body(self, body: Option<SecretString>) -> Result<Option<SecretString>, Refusal> {
        let Some(cookie) = self.token? else { return Ok(body) };
        if !self.allowed {
            return Err(Reason::CrossSite.into());
        }
        match body {
            Some(body) if body.expose_secret() != cookie.expose_secret() => Err(Reason::RefreshInvalid.into()),
            _ => Ok(Some(cookie)),
        }
    }
}

impl FromRequestParts<Shared> for CookieToken {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, Refusal> {
        let token = cookie::read(&parts.headers, &state.portal);
        let own = origin_of(&state.tokens.issuer).unwrap_or_default();
        let allowed = cookie_counts(&parts.method, &parts.headers, &own, &state.portal.allowed_origins);
        Ok(Self { token, allowed })
    }
}

/// A session whose own refresh token was presented, ended or not.
pub(crate) struct Proven {
    pub(crate) token: Parsed,
    pub(crate) session: Session,
}

impl PortalState {
    /// The session a refresh token belongs to; `None` when the token is not one we made.
    ///
    /// # Errors
    /// Only the store's: a lost store is never taken for a bad token.
    pub(crate) async fn prove(&self, token: &SecretString) -> Result<Option<Proven>, Refusal> {
        let Some(token) = refresh_token::parse(token.expose_secret()) else { return Ok(None) };
        let sid: SessionId = token.sid;
        let Some(session) = self.store.session(sid).await? else { return Ok(None) };
        let authentic = token.authentic(self.refresh_key(sid, &session.salt).expose_secret());
        Ok(authentic.then_some(Proven { token, session }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(cookie: Option<&str>, allowed: bool, body: Option<&str>) -> Result<Option<String>, Reason> {
        let cookie = CookieToken { token: Ok(cookie.map(SecretString::from)), allowed };
        match cookie.or_body(body.map(SecretString::from)) {
            Ok(token) => Ok(token.map(|token| token.expose_secret().to_owned())),
            Err(refusal) => Err(refusal.reason),
        }
    }

    #[test]
    fn either_place_will_do() {
        assert_eq!(both(Some("t"), true, None), Ok(Some("t".into())));
        assert_eq!(both(None, false, Some("t")), Ok(Some("t".into())));
        assert_eq!(both(None, true, None), Ok(None));
    }

    #[test]
    fn a_cookie_from_elsewhere_is_refused_even_beside_a_body_token() {
        assert_eq!(both(Some("t"), false, None), Err(Reason::CrossSite));
        assert_eq!(both(Some("t"), false, Some("t")), Err(Reason::CrossSite));
    }

    #[test]
    fn two_different_tokens_are_refused_and_two_equal_ones_are_one() {
        assert_eq!(both(Some("t"), true, Some("u")), Err(Reason::RefreshInvalid));
        assert_eq!(both(Some("t"), true, Some("t")), Ok(Some("t".into())));
    }
}
