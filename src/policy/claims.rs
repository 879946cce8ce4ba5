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
