//! `POST /oauth/introspect`: what a token is worth at this moment (RFC 7662).
//!
//! Active is what this gateway itself would take now; the rest is `{"active":false}` and not another word: tokens of
//! other issuers, of other kinds, expired, revoked, of sessions that have ended. Roles and organisation are those of
//! the account now, when they have changed since the token was made.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use schemars::JsonSchema;
use secrecy::ExposeSecret;
use serde::Serialize;

use super::{Good, client::ClientCall};
use crate::{
    clock::Timestamp,
    gate::refusal::Refusal,
    policy::refresh::{RefreshVerdict, decide},
    portal::{
        answers::Answer,
        presented::Proven,
        state::{PortalState, Shared},
    },
};

/// RFC 7662 §2.2.
#[derive(Default, Serialize, JsonSchema)]
#[schemars(rename = "Introspection")]
pub(crate) struct IntrospectAnswer {
    /// Whether it is good now. When it is not, this is the only member.
    active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    /// `Bearer`; absent for a refresh token.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iat: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<Vec<Box<str>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    roles: Option<Vec<Arc<str>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    org: Option<Box<str>>,
}

impl IntrospectAnswer {
    fn of_access(Good { claims, session, account }: Good) -> Self {
        let changed = account.authorization_version > claims.authorization_version;
        let (roles, org) = if changed {
            (account.roles.into_iter().map(Into::into).collect(), account.org.map(Into::into))
        } else {
            (claims.roles.clone(), claims.org.clone())
        };
        Self {
            active: true,
            scope: Some(claims.scopes.join(" ")),
            client_id: claims.client_id.as_deref().map(ToOwned::to_owned),
            username: account.username,
            token_type: Some("Bearer"),
            exp: Some(claims.expires),
            iat: Some(claims.issued),
            nbf: claims.not_before,
            sub: Some(claims.subject.as_ref().to_owned()),
            aud: Some(claims.audience.clone()),
            iss: Some(Arc::clone(&claims.issuer)),
            jti: Some(claims.token_id.clone()),
            sid: Some(session.id.to_string()),
            roles: Some(roles),
            org,
        }
    }
}

/// 200 with what it is worth; 503 when the store cannot say.
pub(crate) async fn introspect(State(state): State<Shared>, call: ClientCall) -> Result<Answer, Refusal> {
    let now = state.clock.now();
    let answer = match state.prove(&call.token).await? {
        Some(proven) => state.of_refresh(&proven, now).await?,
        None => state.good(call.token.expose_secret(), now).await?.map(IntrospectAnswer::of_access),
    };
    Answer::json(StatusCode::OK, &answer.unwrap_or_default())
}

impl PortalState {
    /// A refresh token that a refresh would take now. Looking at an old one is not using it: nothing ends.
    async fn of_refresh(&self, proven: &Proven, now: Timestamp) -> Result<Option<IntrospectAnswer>, Refusal> {
        let session = &proven.session;
        let Some(account) = self.store.account(session.user).await? else { return Ok(None) };
        let facts = session.facts(account.active);
        let verdict = decide(&facts, proven.token.counter, &self.tokens.refresh, now);
        let good = matches!(verdict, RefreshVerdict::Rotate | RefreshVerdict::Repeat);
        Ok(good.then(|| IntrospectAnswer {
            active: true,
            username: account.username,
            exp: Some(self.tokens.refresh.ends_at(session.created_at, session.rotated_at).seconds()),
            iat: Some(session.rotated_at.seconds()),
            sub: Some(session.user.to_string()),
            iss: Some(Arc::clone(&self.tokens.issuer)),
            sid: Some(session.id.to_string()),
            ..IntrospectAnswer::default()
        }))
    }
}
