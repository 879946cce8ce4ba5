//! A verified access token and what was made of it, as the verified-token cache keeps it.
//!
//! It holds *signature checked and claims parsed*, nothing route-dependent: issuer, audience, expiry, key and session
//! are looked at on every use ([`crate::gate::authenticate`]). Header values that depend only on the claims are made
//! once here, and the identity tokens minted from them rest here too, so that a hit costs one look-up.

use std::{fmt::Write, sync::Arc};

use http::HeaderValue;

use crate::{
    clock::Timestamp,
    gate::{kept::Kept, preset::Presets},
    policy::{
        by_reference::{ByReference, ClaimName},
        claims::Claims,
        ids::{ApiKeyId, SessionId},
        token::Verified,
    },
    store::memory::limits::CounterKey,
    upstream::issuers::Issuer,
};

/// The plain identity headers beside the signed one.
#[derive(Debug, Clone, Default)]
pub struct PlainHeaders {
    /// `X-User-Id`.
    pub user: Option<HeaderValue>,
    /// `X-User-Email`: verified addresses only.
    pub email: Option<HeaderValue>,
    /// `X-User-Roles`, comma-separated.
    pub roles: Option<HeaderValue>,
    /// `X-Org-Id`.
    pub org: Option<HeaderValue>,
}

/// For whom an identity is signed, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readers {
    /// Its `aud`.
    pub audience: Arc<str>,
    /// The key.
    pub kid: Arc<str>,
    /// Where they reach the claims that it refers to, if not at the issuer: two services of one audience may differ.
    pub claims_url: Option<Arc<str>>,
}

/// Signed identities; as many as there are clusters the caller reaches, within what is kept of a kind.
pub type Identities = Kept<Readers, HeaderValue>;

/// The tokens that read a caller's large claims, by audience and key.
pub type ClaimsTokens = Kept<(Arc<str>, Arc<str>), Arc<str>>;

/// Who vouches for a caller: whose keys verified a token, and with that what else has to be looked at on each use.
#[derive(Debug, Clone)]
pub enum Signer {
    /// Ours: every token of ours has a session.
    Own(SessionId),
    /// Another issuer's.
    Foreign(Arc<Issuer>),
    /// Nobody's: it was no token but this API key.
    ApiKey(ApiKeyId),
}

/// What limits count a caller's requests under; hashed once for all requests with a token.
#[derive(Debug, Clone, Copy)]
pub struct CallerKeys {
    /// The subject.
    pub subject: CounterKey,
    /// The session of a token of ours.
    pub session: Option<CounterKey>,
    /// The API key.
    pub api_key: Option<CounterKey>,
    /// The client that the token was issued to.
    pub client: Option<CounterKey>,
    /// The organisation.
    pub org: Option<CounterKey>,
}

impl CallerKeys {
    fn of(claims: &Claims, signer: &Signer) -> Self {
        let issuer = &*claims.issuer;
        let (session, api_key) = match signer {
            Signer::Own(session) => (Some(CounterKey::session(*session)), None),
            Signer::ApiKey(id) => (None, Some(CounterKey::api_key(*id))),
            Signer::Foreign(_) => (None, None),
        };
        Self {
            subject: CounterKey::subject(issuer, &claims.subject),
            session,
            api_key,
            client: claims.client_id.as_deref().map(|client| CounterKey::client(issuer, client)),
            org: claims.org.as_deref().map(|org| CounterKey::org(issuer, org)),
        }
    }
}

/// The bearer of a verified access token.
#[derive(Debug)]
pub struct Caller {
    claims: Arc<Claims>,
    by_reference: ByReference,
    kid: Arc<str>,
    signer: Signer,
    plain: PlainHeaders,
    identities: Identities,
    references: ClaimsTokens,
    presets: Presets,
    limit_keys: CallerKeys,
    cached_until: Timestamp,
}

impl Caller {
    /// From a freshly verified token; `cached_until` bounds how long the signature is trusted unseen.
    #[must_use]
    pub fn new(verified: Verified, signer: Signer, cached_until: Timestamp) -> Self {
        let by_reference = ByReference::of(&verified.claims);
        let plain = plain(&verified.claims, by_reference);
        let limit_keys = CallerKeys::of(&verified.claims, &signer);
        Self {
            plain,
            signer,
            by_reference,
            claims: verified.claims,
            kid: verified.kid,
            identities: Identities::default(),
            references: ClaimsTokens::default(),
            presets: Presets::default(),
            limit_keys,
            cached_until,
        }
    }

    /// What the token says.
    #[must_use]
    pub fn claims(&self) -> &Arc<Claims> {
        &self.claims
    }

    /// Which of the claims are too large for a header.
    #[must_use]
    pub fn by_reference(&self) -> ByReference {
        self.by_reference
    }

    /// The key it was signed under.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Whose key that is.
    #[must_use]
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// The API key that was shown, if it was one.
    #[must_use]
    pub fn api_key(&self) -> Option<ApiKeyId> {
        match self.signer {
            Signer::ApiKey(key) => Some(key),
            Signer::Own(_) | Signer::Foreign(_) => None,
        }
    }

    /// The plain identity headers.
    #[must_use]
    pub fn plain(&self) -> &PlainHeaders {
        &self.plain
    }

    /// What identities bound to their requests refer to the large claims by, one for each audience.
    #[must_use]
    pub fn references(&self) -> &ClaimsTokens {
        &self.references
    }

    /// The signed identities made from it.
    #[must_use]
    pub fn identities(&self) -> &Identities {
        &self.identities
    }

    /// The headers of other gateways' formats made from it.
    #[must_use]
    pub fn presets(&self) -> &Presets {
        &self.presets
    }

    /// What limits by who calls count under.
    #[must_use]
    pub fn limit_keys(&self) -> &CallerKeys {
        &self.limit_keys
    }

    /// About how much memory it takes, in whole KiB: one, unless its token says a lot. The identities made from it say it
    /// again.
    #[must_use]
    pub fn size_kib(&self) -> u64 {
        1 + u64::try_from(2 * self.claims.size_of_lists() / 1_024).unwrap_or(u64::MAX - 1)
    }

    /// Until when the cache may answer with this.
    #[must_use]
    pub fn cached_until(&self) -> Timestamp {
        self.cached_until
    }
}

/// What goes by reference in the identity is not in a plain header either.
fn plain(claims: &Claims, by_reference: ByReference) -> PlainHeaders {
    let here = |name| !by_reference.contains(name);
    let mut roles = String::new();
    for role in &claims.roles {
        let separator = if roles.is_empty() { "" } else { "," };
        let _ = write!(roles, "{separator}{role}");
    }
    PlainHeaders {
        user: HeaderValue::from_str(&claims.subject).ok(),
        // Bytes, since an internationalised address (RFC 6531) is not ASCII; a header may carry UTF-8 (obs-text).
        email: claims.email.as_deref().filter(|_| claims.email_verified && here(ClaimName::Email)).and_then(utf8),
        roles: Some(roles).filter(|_| here(ClaimName::Roles)).as_deref().and_then(utf8),
        org: claims.org.as_deref().filter(|_| here(ClaimName::Org)).and_then(utf8),
    }
}

fn utf8(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_bytes(text.as_bytes()).ok()
}
