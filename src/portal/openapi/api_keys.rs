//! The endpoints of API keys, as the description tells them.

use http::StatusCode;
use serde_json::{Value, json};

use super::Parts;
use crate::{policy::reason::Reason, portal::endpoints::Call};

/// What the endpoints take and give.
pub(super) const fn shape(call: Call) -> Parts {
    match call {
        Call::CreateApiKey => (
            "Make an API key; the answer shows it this once",
            &["name"],
            &["roles", "scopes", "expires_in", "expires_at"],
            StatusCode::CREATED,
            Some("NewApiKey"),
            &[Reason::ApiKeyLimit, Reason::ApiKeyNotAccepted, Reason::CallsPaced, Reason::StoreUnavailable],
        ),
        Call::ApiKeys => (
            "The caller's API keys, the newest first",
            &[],
            &[],
            StatusCode::OK,
            Some("ApiKeys"),
            &[Reason::ApiKeyNotAccepted, Reason::StoreUnavailable],
        ),
        _ => (
            "Revoke one of the caller's API keys",
            &[],
            &[],
            StatusCode::NO_CONTENT,
            None,
            &[Reason::ApiKeyUnknown, Reason::ApiKeyNotAccepted, Reason::StoreUnavailable],
        ),
    }
}

/// What kind of member this is, where it is no string.
pub(super) fn kind_of(member: &str) -> Option<&'static str> {
    match member {
        "expires_in" => Some("integer"),
        "roles" | "scopes" => Some("array"),
        _ => None,
    }
}

/// What else is said of a member.
pub(super) fn said_of(member: &str) -> Option<(&'static str, Value)> {
    match member {
        "roles" | "scopes" => Some(("items", json!({"type": "string"}))),
        "expires_in" => Some(("description", json!("Seconds, at least 1; not beside expires_at."))),
        "expires_at" => Some(("format", json!("date-time"))),
        _ => None,
    }
}
