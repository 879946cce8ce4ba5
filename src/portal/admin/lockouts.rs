//! `GET`, `DELETE /admin/v1/lockouts` and `DELETE /admin/v1/lockouts/{id}`: what is locked, and lifting it.
//!
//! Nobody learns here what was tried as a name: one that no account has is shown by its digest.

use std::net::IpAddr;

use axum::extract::{FromRequestParts, State};
use http::{StatusCode, request::Parts};
use schemars::JsonSchema;
use serde::Serialize;

use super::{AdminCall, page};
use crate::{
    gate::refusal::Refusal,
    policy::{forwarded::limit_prefix, ids::UserId, lockout::Counter, reason::Reason},
    portal::{
        answers::{Answer, rfc3339},
        fields::as_given,
        state::{PortalState, Shared},
    },
    store::{
        AuditEntry, AuditEvent,
        lockout_lists::{LockoutQuery, Place},
        lockouts::{Attempted, Lift, Locked, Lockout},
    },
};

/// A page of what is locked.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "LockoutPage")]
pub(crate) struct LockoutsAnswer {
    /// By kind: account, address, device, pair; of each the latest failure first. A page may hold fewer than were asked
    /// for and not be the last.
    lockouts: Vec<LockoutAnswer>,
    /// `cursor` of the page after this one; null: there is none.
    next: Option<String>,
}

/// Something that is locked.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Lockout")]
pub(crate) struct LockoutAnswer {
    /// Names it in `DELETE`.
    id: String,
    /// account, address, device (one device cookie of an account) or pair (an account from one address).
    kind: &'static str,
    /// The user.
    account: Option<String>,
    /// Of a name that no account has: its digest under a key of the gateways'.
    name: Option<String>,
    /// The address, of IPv6 its /64.
    address: Option<String>,
    /// What the number is of: failures, or accounts (of an address).
    counted: &'static str,
    failures: u64,
    /// The last failure.
    since: String,
    /// Null: until it is lifted.
    until: Option<String>,
}

impl LockoutAnswer {
    fn of(lockout: &Lockout) -> Result<Self, Refusal> {
        let account = lockout.what.account();
        Ok(Self {
            id: lockout.what.to_id(),
            kind: lockout.what.counter().as_str(),
            account: account.and_then(|account| account.user()).map(|user| user.to_string()),
            name: account.and_then(|account| account.digest()),
            address: lockout.what.shown_address(),
            counted: lockout.what.counted(),
            failures: lockout.failures,
            since: rfc3339(lockout.last)?,
            until: lockout.until.map(rfc3339).transpose()?,
        })
    }
}

fn user(text: &str) -> Result<Attempted, &'static str> {
    text.parse::<UserId>().map(Attempted::User).map_err(|_| "must be a user's id")
}

fn address(text: &str) -> Result<IpAddr, &'static str> {
    text.parse().map(limit_prefix).map_err(|_| "must be an IP address")
}

/// 200 with a page.
pub(crate) async fn list(State(state): State<Shared>, mut call: AdminCall) -> Result<Answer, Refusal> {
    let mut query = call.query();
    let most = page::limit(&mut query);
    let counter = query.optional("kind", |text| {
        let named = Counter::ALL.into_iter().find(|counter| counter.as_str() == text);
        named.ok_or("must be account, address, device or pair")
    });
    let account = query.optional("account", |text| user(&text));
    let address = query.optional("address", |text| address(&text));
    let after = query.optional("cursor", |text| Place::from_cursor(&text).ok_or("is no cursor of this list"));
    let wanted = query.finish(LockoutQuery { counter, account, address, after })?;
    call.reads(&state).await?;
    let page = state.store.lockout_page(&wanted, &state.lockout.rules, state.clock.now(), most).await?;
    let lockouts = page.lockouts.iter().map(LockoutAnswer::of).collect::<Result<_, _>>()?;
    let next = page.next.map(|place| place.to_cursor());
    Answer::json(StatusCode::OK, &LockoutsAnswer { lockouts, next })
}

/// The lockout that a path names.
pub(crate) struct Named(Locked);

impl FromRequestParts<Shared> for Named {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Refusal> {
        let last = parts.uri.path().rsplit('/').next().and_then(Locked::from_id);
        last.map(Self).ok_or(Reason::LockoutUnknown.into())
    }
}

/// 204: what the lockout rests on is forgotten.
pub(crate) async fn lift_one(
    State(state): State<Shared>,
    mut call: AdminCall,
    Named(what): Named,
) -> Result<Answer, Refusal> {
    call.query().finish(())?;
    let entry = call.entry(AuditEvent::LockoutLifted, state.clock.now());
    lifted(async move { state.store.lift_locked(&what, &entry).await }).await
}

/// 204: every failure with an account, or what counts against an address, is forgotten.
pub(crate) async fn lift(State(state): State<Shared>, mut call: AdminCall) -> Result<Answer, Refusal> {
    let mut query = call.query();
    let account = query.optional("account", as_given::<String>);
    let address_given = query.optional("address", as_given::<String>);
    let what = match (account, address_given) {
        (Some(account), None) => query.checked("account", user(&account).map(Lift::Account)),
        (None, Some(prefix)) => query.checked("address", address(&prefix).map(Lift::Address)),
        (None, None) => query.checked("account", Err("is required, or address")),
        (Some(_), Some(_)) => query.checked("address", Err("must not come together with account")),
    };
    let what = query.finish_with(what)?;
    let entry: AuditEntry = call.entry(AuditEvent::LockoutLifted, state.clock.now());
    lifted(async move { state.store.lift_lockout(&what, &entry).await }).await
}

async fn lifted(
    work: impl Future<Output = Result<bool, crate::store::StoreFault>> + Send + 'static,
) -> Result<Answer, Refusal> {
    let any = PortalState::to_the_end(work).await??;
    if any { Ok(Answer::empty(StatusCode::NO_CONTENT)) } else { Err(Reason::LockoutUnknown.into()) }
}
