//! `GET`, `DELETE /admin/v1/quotas`: what is used of quotas, and setting it to nothing.
//!
//! Accounts are shown by the store's key, a hash; whoever knows whose an account is may ask for it by that.

use std::net::IpAddr;

use axum::extract::State;
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::{AdminCall, page, query::Query};
use crate::{
    config::settings::{Quota, is_name},
    gate::refusal::Refusal,
    policy::{
        ids::{ApiKeyId, UserId},
        reason::Reason,
    },
    portal::{
        answers::{Answer, rfc3339},
        fields::as_given,
        state::{PortalState, Shared},
    },
    store::{
        AuditEvent,
        quota_lists::{QuotaParts, QuotaPlace, QuotaQuery, QuotaReset, key_of_text, key_text},
        quotas::QuotaUsage,
    },
};

/// A page of what is used.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "QuotaPage")]
pub(crate) struct QuotasAnswer {
    /// Accounts of periods that are not over, the most used first.
    quotas: Vec<QuotaAnswer>,
    /// `cursor` of the page after this one; null: there is none.
    next: Option<String>,
}

/// What an account has used of a quota.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "QuotaAccount")]
pub(crate) struct QuotaAnswer {
    quota: String,
    /// requests, tokens or cost (in millionths).
    counts: String,
    /// hour, day or month.
    per: String,
    /// What the quota counts by; null: it is not configured so any more.
    by: Option<String>,
    /// Whose it is: a hash.
    key: String,
    /// Used, or taken ahead by gateways.
    used: u64,
    /// All there is in a period; null as with `by`.
    limit: Option<u64>,
    /// The period's first moment.
    since: String,
    /// The next one's.
    until: String,
}

impl QuotaAnswer {
    fn of(usage: &QuotaUsage, state: &PortalState) -> Result<Self, Refusal> {
        let (counts, per) = usage.kind.split_once('/').unwrap_or((&usage.kind, ""));
        let known = named(&usage.quota, state).filter(|quota| quota.kind() == usage.kind);
        Ok(Self {
            quota: usage.quota.clone(),
            counts: counts.to_owned(),
            per: per.to_owned(),
            by: known.map(|quota| quota.key.to_string()),
            key: key_text(&usage.key),
            used: usage.used,
            limit: known.map(|quota| quota.limit),
            since: rfc3339(usage.window.start)?,
            until: rfc3339(usage.window.end)?,
        })
    }
}

fn named<'s>(name: &str, state: &'s PortalState) -> Option<&'s Quota> {
    state.quotas.iter().find(|quota| *quota.name == *name).map(AsRef::as_ref)
}

/// What a query says of whose accounts are meant.
struct Said {
    quota: Option<String>,
    key: Option<[u8; 16]>,
    parts: QuotaParts,
}

impl Said {
    fn of(query: &mut Query) -> Self {
        Self {
            quota: query
                .optional("quota", |name: String| if is_name(&name) { Ok(name) } else { Err("must be a name") }),
            key: query.optional("key", |text| key_of_text(&text).ok_or("must be the key of an account")),
            parts: QuotaParts {
                user: query.optional("user", |text| text.parse::<UserId>().map_err(|_| "must be a user's id")),
                api_key: query.optional("api_key", |text| text.parse::<ApiKeyId>().map_err(|_| "must be a key's id")),
                org: query.optional("org", as_given::<String>),
                address: query.optional("address", |text| text.parse::<IpAddr>().map_err(|_| "must be an IP address")),
                route: query.optional("route", as_given::<String>),
            },
        }
    }

    /// The key that is meant; `None`: none is named.
    fn key(&self, state: &PortalState) -> Result<Option<[u8; 16]>, (&'static str, &'static str)> {
        match (self.key, self.parts.said()) {
            (Some(_), 1..) => Err(("key", "must not come together with whose it is")),
            (key, 0) => Ok(key),
            (None, _) => {
                let quota = self.quota.as_deref().ok_or(("quota", "is required, or key"))?;
                let quota = named(quota, state).ok_or(("quota", "is not configured: name a key"))?;
                let key = self.parts.key(&quota.key, &state.tokens.issuer);
                key.map(Some).ok_or(("quota", "counts by something else"))
            }
        }
    }
}

/// 200 with a page.
pub(crate) async fn list(State(state): State<Shared>, mut call: AdminCall) -> Result<Answer, Refusal> {
    let mut query = call.query();
    let most = page::limit(&mut query);
    let said = Said::of(&mut query);
    let after = query.optional("cursor", |text| QuotaPlace::from_cursor(&text).ok_or("is no cursor of this list"));
    let key = match said.key(&state) {
        Ok(key) => Some(key),
        Err((field, message)) => query.checked(field, Err(message)),
    };
    let key = query.finish_with(key)?;
    call.reads(&state).await?;
    let wanted = QuotaQuery { quota: said.quota, key, after };
    let page = state.store.quota_page(&wanted, state.clock.now(), most).await?;
    let quotas = page.accounts.iter().map(|usage| QuotaAnswer::of(usage, &state)).collect::<Result<_, _>>()?;
    let next = page.next.map(|place| place.to_cursor());
    Answer::json(StatusCode::OK, &QuotasAnswer { quotas, next })
}

/// 204: what one account, or everybody, has used of a quota is set to nothing.
pub(crate) async fn reset(State(state): State<Shared>, mut call: AdminCall) -> Result<Answer, Refusal> {
    let mut query = call.query();
    let said = Said::of(&mut query);
    let all = query.optional("all", |text: String| if text == "true" { Ok(()) } else { Err("must be true") });
    let what = match (&said.quota, said.key(&state), all) {
        (None, ..) => query.checked("quota", Err("is required")),
        (_, Err((field, message)), _) => query.checked(field, Err(message)),
        (Some(_), Ok(None), None) => query.checked("key", Err("is required, or user, address, ... or all")),
        (Some(_), Ok(Some(_)), Some(())) => query.checked("all", Err("must not come together with whose it is")),
        (Some(quota), Ok(key), _) => Some(QuotaReset { quota: quota.clone(), key }),
    };
    let what = query.finish_with(what)?;
    let entry = call.entry(AuditEvent::QuotaReset, state.clock.now());
    let told = std::sync::Arc::clone(&state.told);
    let work = async move {
        let accounts = state.store.reset_quota(&what, &entry).await;
        (told)();
        accounts
    };
    match PortalState::to_the_end(work).await?? {
        0 => Err(Reason::QuotaUnknown.into()),
        _ => Ok(Answer::empty(StatusCode::NO_CONTENT)),
    }
}
