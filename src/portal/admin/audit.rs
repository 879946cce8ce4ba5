//! `GET /admin/v1/audit`: what was done, by whom, from where, the newest first.

use axum::extract::State;
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{AdminCall, page};
use crate::{
    gate::refusal::Refusal,
    policy::ids::UserId,
    portal::{
        answers::{Answer, rfc3339},
        state::Shared,
    },
    store::{
        AuditEvent,
        audit::{AuditQuery, AuditRow},
    },
};

/// A page of the audit.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AuditPage")]
pub(crate) struct AuditPage {
    rows: Vec<AuditRowAnswer>,
    /// `cursor` of the page after this one; null: there is none.
    next: Option<String>,
}

/// Something that was done.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AuditRow")]
pub(crate) struct AuditRowAnswer {
    seq: u64,
    at: String,
    event: String,
    /// How it ended: succeeded, refused or failed.
    outcome: Option<String>,
    /// Who: `user:ID`, `subject:NAME:SUB`, `client:ID`, `system` or `cli`.
    actor: Option<String>,
    /// Whom it concerns.
    user: Option<String>,
    session: Option<String>,
    address: Option<String>,
    request_id: Option<String>,
    /// Particulars of the event.
    detail: Option<Map<String, Value>>,
    /// Who, whom, from where and the particulars were erased.
    erased: bool,
}

impl AuditRowAnswer {
    fn of(row: AuditRow) -> Result<Self, Refusal> {
        Ok(Self {
            seq: row.seq,
            at: rfc3339(row.at)?,
            event: row.event,
            outcome: row.outcome,
            actor: row.actor,
            user: row.user.map(|user| user.to_string()),
            session: row.session.map(|session| session.to_string()),
            address: row.address.filter(|address| !address.is_empty()),
            request_id: row.request_id.filter(|id| !id.is_empty()),
            detail: row.detail.and_then(|detail| serde_json::from_str(&detail).ok()),
            erased: row.erased,
        })
    }
}

/// 200 with a page.
pub(crate) async fn list(State(state): State<Shared>, mut call: AdminCall) -> Result<Answer, Refusal> {
    let mut query = call.query();
    let most = page::limit(&mut query);
    let user = query.optional("user", |text| text.parse::<UserId>().map_err(|_| "must be a user's id"));
    let event = query.optional("event", |text| match AuditEvent::named(&text) {
        Some(_) => Ok(text),
        None => Err("is no event"),
    });
    let before = query.optional("cursor", |text| text.parse::<u64>().map_err(|_| "is no cursor of this list"));
    let wanted = query.finish(AuditQuery { user, event, before, ..AuditQuery::default() })?;
    call.reads(&state).await?;
    let rows = state.store.audit_rows(&wanted, most).await?;
    let next = rows.last().filter(|_| rows.len() == most as usize).map(|row| row.seq.to_string());
    let rows = rows.into_iter().map(AuditRowAnswer::of).collect::<Result<_, _>>()?;
    Answer::json(StatusCode::OK, &AuditPage { rows, next })
}
