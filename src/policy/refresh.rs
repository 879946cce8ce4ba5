//! Refresh tokens: rules of rotation, grace and reuse (design §5, RFC 9700 §4.14).

use std::time::Duration;

/// Life and grace of refresh tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefreshRules {
    /// A session unused for this long ends.
    pub idle: Duration,
    /// A session ends this long after its login, used or not.
    pub absolute: Duration,
    /// How long after a rotation the token before is still answered with the same successor.
    pub grace: Duration,
}

/// How a session's refresh token reaches the client; fixed at login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// In the JSON body, for API clients.
    Body,
    /// As an `HttpOnly` cookie, for browsers; never in a body.
    Cookie,
}
