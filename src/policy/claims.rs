//! What an access token says (RFC 9068), parsed and typed.

use std::sync::Arc;

use crate::policy::ids::SessionId;

/// The claims of a verified access token. Signature checked, shape checked; nothing route-dependent decided yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// `iss`.
    pub issuer: Arc<str>,
    /// `sub`; the user id for own tokens.
    pub subject: Arc<str>,
    /// `aud`, always as a list.
    pub audience: Vec<Box<str>>,
    /// `exp`, seconds since the epoch.
    pub expires: i64,
    /// `nbf`, seconds since the epoch.
    pub not_before: Option<i64>,
    /// `iat`, seconds since the epoch.
    pub issued: i64,
    /// `jti`.
    pub token_id: Box<str>,
    /// `sid`.
    pub session: Option<SessionId>,
    /// `client_id`.
    pub client_id: Option<Box<str>>,
    /// `roles`.
    pub roles: Vec<Arc<str>>,
    /// `scope`, split.
    pub scopes: Vec<Box<str>>,
    /// `org`.
    pub org: Option<Box<str>>,
    /// `av`: authorization version.
    pub authorization_version: u64,
    /// `gen`: the refresh counter this token was minted under.
    pub generation: u64,
    /// `email`.
    pub email: Option<Box<str>>,
    /// `email_verified`.
    pub email_verified: bool,
    /// `amr` (RFC 8176): how the session logged in.
    pub methods: Vec<Box<str>>,
    /// `auth_time`, seconds since the epoch.
    pub auth_time: Option<i64>,
}

impl Claims {
    /// About how many bytes of memory its lists take: a token says a short role in four bytes, but it takes ten times that.
    #[must_use]
    pub fn size_of_lists(&self) -> usize {
        /// Of a short text by itself: where it is, how long, how often it is held, the allocator's own.
        const EACH: usize = 48;
        let lists = [&self.scopes, &self.audience, &self.methods];
        let texts = lists.into_iter().flatten().map(|text| text.len()).chain(self.roles.iter().map(|role| role.len()));
        texts.map(|len| EACH + len).sum()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The fewest claims an access token of ours has; expires at 1 900, issued at 1 000.
    pub(crate) fn claims() -> Claims {
        Claims {
            issuer: "https://gw.test".into(),
            subject: "0190a1b2-0000-7000-8000-000000000001".into(),
            audience: vec!["api".into()],
            expires: 1_900,
            not_before: None,
            issued: 1_000,
            token_id: "t-1".into(),
            session: None,
            client_id: None,
            roles: vec!["user".into()],
            scopes: vec![],
            org: None,
            authorization_version: 0,
            generation: 0,
            email: None,
            email_verified: false,
            methods: vec![],
            auth_time: None,
        }
    }

    /// Every claim set.
    pub(crate) fn full_claims() -> Claims {
        Claims {
            audience: vec!["api".into(), "other".into()],
            not_before: Some(1_000),
            session: Some("0190a1b2-0000-7000-8000-00000000000a".parse().unwrap()),
            client_id: Some("portal".into()),
            roles: vec!["analyst".into(), "user".into()],
            scopes: vec!["docs:read".into(), "docs:write".into()],
            org: Some("acme".into()),
            authorization_version: 3,
            generation: 7,
            email: Some("ann@example.org".into()),
            email_verified: true,
            methods: vec!["pwd".into()],
            auth_time: Some(990),
            ..claims()
        }
    }
}
