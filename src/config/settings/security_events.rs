//! Settings of who is told of security events.

use std::sync::Arc;

use http::Uri;
use secrecy::SecretSlice;

use crate::policy::webhook::SecurityEvent;

/// A receiver of messages.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// Its name in the file: metric label, and in audit rows.
    pub name: Arc<str>,
    /// `https`, or `http` on a loopback address.
    pub url: Uri,
    /// What messages are signed with.
    pub secret: SecretSlice<u8>,
    /// What it is told.
    pub events: Vec<SecurityEvent>,
    /// Even in private networks.
    pub allow_private: bool,
    /// For `https`.
    pub tls: Arc<rustls::ClientConfig>,
}
