//! `GET /me`, `PATCH /me`, `POST /verify`: what is known of the caller, and what the caller may change of it.

use axum::extract::State;
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    gate::refusal::Refusal,
    policy::{claims::Claims, ids::UserId, reason::Reason, validate},
    portal::{
        answers::{Answer, UserAnswer},
        caller::KnownCaller,
        fields::Fields,
        register::taken,
        state::{PortalState, Shared},
    },
    store::{Account, AuditEvent, ProfilePatch},
};

/// 200 with the account as it is now, which may be newer than the token.
pub(crate) async fn me(State(state): State<Shared>, known: KnownCaller) -> Result<Answer, Refusal> {
    show(&account(&state, known.user).await?)
}

/// 200 with the account after the change; a field that is absent stays, one that is null is cleared.
pub(crate) async fn change(
    State(state): State<Shared>,
    known: KnownCaller,
    mut fields: Fields,
) -> Result<Answer, Refusal> {
    let full_name = fields.nullable("full_name", |text: String| validate::full_name(&text));
    let username = fields.nullable("username", |text: String| validate::username(&text));
    let patch = fields.finish(Some(ProfilePatch { full_name, username }))?;
    let account = account(&state, known.user).await?;
    if patch == ProfilePatch::default() {
        return show(&account);
    }
    let audit =
        known.caller.audit(AuditEvent::ProfileChanged, state.clock.now(), Some(known.user), known.claims.session);
    let changed = state.store.update_profile(known.user, &patch, &audit).await;
    show(&changed.map_err(|fault| taken(fault, state.portal.compat))?)
}

fn show(account: &Account) -> Result<Answer, Refusal> {
    Answer::json(StatusCode::OK, &UserAnswer::of(account)?)
}

/// The caller's account. One that is gone or inactive is answered as an ended session, which it soon will be.
async fn account(state: &PortalState, user: UserId) -> Result<Account, Refusal> {
    let account = state.store.account(user).await?;
    account.filter(|account| account.active).ok_or(Refusal::from(Reason::SessionEnded))
}

/// The claims of a token, in the words of RFC 7662 §2.2 where it has them.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Claims")]
pub(crate) struct VerifyAnswer<'a> {
    active: bool,
    token_type: &'static str,
    iss: &'a str,
    sub: &'a str,
    aud: &'a [Box<str>],
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
    iat: i64,
    jti: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    roles: Vec<&'a str>,
    scope: String,
    org: Option<&'a str>,
    av: u64,
    #[serde(rename = "gen")]
    generation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    email_verified: bool,
    amr: &'a [Box<str>],
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_time: Option<i64>,
}

impl<'a> VerifyAnswer<'a> {
    fn of(claims: &'a Claims) -> Self {
        Self {
            active: true,
            token_type: "Bearer",
            iss: &claims.issuer,
            sub: &claims.subject,
            aud: &claims.audience,
            exp: claims.expires,
            nbf: claims.not_before,
            iat: claims.issued,
            jti: &claims.token_id,
            sid: claims.session.map(|sid| sid.to_string()),
            client_id: claims.client_id.as_deref(),
            roles: claims.roles.iter().map(AsRef::as_ref).collect(),
            scope: claims.scopes.join(" "),
            org: claims.org.as_deref(),
            av: claims.authorization_version,
            generation: claims.generation,
            email: claims.email.as_deref(),
            email_verified: claims.email_verified,
            amr: &claims.methods,
            auth_time: claims.auth_time,
        }
    }
}

/// 200 with the claims: the pipeline has verified the token, or this would not be called.
pub(crate) async fn verify(known: KnownCaller) -> Result<Answer, Refusal> {
    Answer::json(StatusCode::OK, &VerifyAnswer::of(&known.claims))
}
