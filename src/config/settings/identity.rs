//! How a cluster is told who calls, as the checks leave it.

use std::sync::Arc;

use http::HeaderName;

use crate::policy::{keys::SigningKey, preset::Preset};

/// How a cluster is told who calls.
#[derive(Debug, Clone)]
pub struct Identity {
    /// `aud` of the identity token.
    pub audience: Arc<str>,
    /// What signs it: HS256 by a secret shared with the cluster; `None`: the published key.
    pub secret: Option<Arc<SigningKey>>,
    /// A token for each request, which says which one it is good for; otherwise one is good for half a minute's.
    pub bind_request: bool,
    /// Where the cluster reaches this gateway, to ask for claims that do not fit; `None`: at the issuer.
    pub claims_url: Option<Arc<str>>,
    /// Names of the plain headers.
    pub headers: IdentityHeaders,
    /// Whose format it is told in besides.
    pub preset: Option<Preset>,
}

/// Names of the plain headers beside the signed identity.
#[derive(Debug, Clone)]
pub struct IdentityHeaders {
    /// The subject.
    pub user: HeaderName,
    /// The e-mail address, verified ones only.
    pub email: HeaderName,
    /// The roles, comma-separated.
    pub roles: HeaderName,
    /// The organisation.
    pub org: HeaderName,
}

impl IdentityHeaders {
    /// All four.
    #[must_use]
    pub fn all(&self) -> [&HeaderName; 4] {
        [&self.user, &self.email, &self.roles, &self.org]
    }
}
