//! The admin API in the description.

use http::StatusCode;
use serde_json::{Value, json};

use super::Parts;
use crate::{policy::reason::Reason, portal::endpoints::Call};

/// What its calls take and give.
pub(super) const fn shape(call: Call) -> Parts {
    const LOOKS: &[Reason] = &[Reason::RoleMissing, Reason::Validation, Reason::StoreUnavailable];
    const LIFTS: &[Reason] =
        &[Reason::RoleMissing, Reason::CrossSite, Reason::Validation, Reason::LockoutUnknown, Reason::StoreUnavailable];
    const RESETS: &[Reason] =
        &[Reason::RoleMissing, Reason::CrossSite, Reason::Validation, Reason::QuotaUnknown, Reason::StoreUnavailable];
    let (summary, status, answer, refusals) = match call {
        Call::AdminLockouts => (
            "What failed logins have locked, by kind, the latest failure first",
            StatusCode::OK,
            Some("LockoutPage"),
            LOOKS,
        ),
        Call::AdminLift => (
            "Forget every failure with an account, or what counts against an address",
            StatusCode::NO_CONTENT,
            None,
            LIFTS,
        ),
        Call::AdminLiftOne => ("Forget what one lockout rests on", StatusCode::NO_CONTENT, None, LIFTS),
        Call::AdminQuotas => ("What is used of quotas, the most used first", StatusCode::OK, Some("QuotaPage"), LOOKS),
        Call::AdminQuotaReset => {
            ("Set what somebody, or everybody, has used of a quota to nothing", StatusCode::NO_CONTENT, None, RESETS)
        }
        _ => ("What was done, by whom, from where, the newest first", StatusCode::OK, Some("AuditPage"), LOOKS),
    };
    (summary, &[], &[], status, answer, refusals)
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
        Call::AdminLockouts => vec![
            parameter("kind", &json!({"type": "string", "enum": ["account", "address", "device", "pair"]})),
            parameter("account", &id),
            parameter("address", &json!({"type": "string"})),
        ],
        Call::AdminQuotas => of_quota(&id).collect(),
        Call::AdminQuotaReset => {
            let all = json!({"type": "boolean", "enum": [true], "description": "Everybody's; or name whose."});
            return Some(of_quota(&id).chain([parameter("all", &all)]).collect());
        }
        Call::AdminLift => {
            let address = parameter("address", &json!({"type": "string", "description": "This or account."}));
            return Some(json!([parameter("account", &id), address]));
        }
        _ => return None,
    };
    Some(own.into_iter().chain(paged).collect())
}

/// Of which quota, and whose: by what it counts by, or by key.
fn of_quota(id: &Value) -> impl Iterator<Item = Value> {
    let text = json!({"type": "string"});
    let parts = ["quota", "key", "org", "address", "route"].map(|name| parameter(name, &text));
    [parameter("user", id), parameter("api_key", id)].into_iter().chain(parts)
}

fn parameter(name: &str, schema: &Value) -> Value {
    json!({"name": name, "in": "query", "schema": schema})
}
