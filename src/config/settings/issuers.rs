//! `issuers:` as `config/issuers.rs` leaves it: by which rules another issuer's tokens count, and where its keys are
//! (fetched from there by `upstream/issuers.rs`).

use std::sync::Arc;

use http::Uri;

use crate::policy::{foreign::TokenRules, keys::KeySet};

/// An issuer besides ourselves.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// What its tokens must be like, and what their claims mean here. Holds its name.
    pub rules: TokenRules,
    /// `aud` values of tokens that are meant for us.
    pub audiences: Vec<Arc<str>>,
    /// What verifies its tokens.
    pub keys: IssuerKeys,
}

/// Where the keys of an issuer are.
#[derive(Debug, Clone)]
pub enum IssuerKeys {
    /// A secret it shares with us.
    Secret(Arc<KeySet>),
    /// It publishes them.
    Published(KeySource),
}

/// Where an issuer publishes its keys.
#[derive(Clone)]
pub struct KeySource {
    /// The discovery document or the key set.
    pub document: Uri,
    /// Whether that is a discovery document, which names the key set.
    pub discovery: bool,
    /// Hosts besides the document's own where the key set may lie; lower case, no port.
    pub hosts: Vec<Arc<str>>,
    /// Connect to addresses that are not on the public internet.
    pub allow_private: bool,
    /// Which certificates are trusted.
    pub tls: Arc<rustls::ClientConfig>,
}

impl std::fmt::Debug for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { document, discovery, hosts, allow_private, .. } = self;
        let mut shown = f.debug_struct("KeySource");
        shown.field("document", document).field("discovery", discovery).field("hosts", hosts);
        shown.field("allow_private", allow_private).finish_non_exhaustive()
    }
}
