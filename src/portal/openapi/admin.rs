//! The admin API in the description.

use http::StatusCode;
use serde_json::{Value, json};

use super::Parts;
use crate::{policy::reason::Reason, portal::endpoints::Call};

/// What its calls take and give.
pub(super) const fn shape(_: Call) -> Parts {
    (
        "What was done, by whom, from where, the newest first",
        &[],
        &[],
        StatusCode::OK,
        Some("AuditPage"),
        &[Reason::RoleMissing, Reason::Validation, Reason::StoreUnavailable],
    )
}

/// What may stand in the query.
pub(super) fn parameters(call: Call) -> Option<Value> {
    let paged = [
        parameter("limit", &json!({"type": "integer", "minimum": 1, "maximum": 200, "default": 50})),
        parameter("cursor", &json!({"type": "string", "description": "`next` of the page before"})),
    ];
    let id = json!({"type": "string", "format": "uuid"});
    let own = match call {
        Call::AdminAudit => vec![parameter("user", &id), parameter("event", &json!({"type": "string"}))],
        _ => return None,
    };
    Some(own.into_iter().chain(paged).collect())
}

fn parameter(name: &str, schema: &Value) -> Value {
    json!({"name": name, "in": "query", "schema": schema})
}
