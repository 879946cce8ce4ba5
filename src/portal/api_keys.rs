//! `POST`, `GET /api-keys`, `DELETE /api-keys/{id}`: keys that a user makes for programs, sees without their secrets,
//! and revokes.
//!
//! A session makes and revokes them: no account endpoint takes a key, so that one that leaked makes no other. The key
//! itself is in the one answer that makes it and nowhere else. Nobody sees or revokes another's, nor learns whether
//! there is one.

use std::{sync::Arc, time::Duration};

use axum::extract::{FromRequestParts, State};
use http::{StatusCode, request::Parts};
use schemars::JsonSchema;
use secrecy::{ExposeSecret, zeroize::Zeroizing};
use serde::Serialize;

use crate::{
    clock::Timestamp,
    gate::refusal::Refusal,
    policy::{
        api_key::{self, ApiKeyMint, SECRET_LEN},
        ids::ApiKeyId,
        reason::Reason,
        rfc3339,
    },
    portal::{
        answers::{Answer, rfc3339},
        caller::KnownCaller,
        fields::{Fields, one_fault},
        lockout,
        state::{PortalState, Shared},
    },
    store::{
        AuditEvent,
        api_keys::{ApiKey, ApiKeyMade, NewApiKey},
    },
    telemetry::metrics::PacedCall,
};

/// Roles or scopes of one key.
const MOST_WORDS: usize = 64;

/// The key that a path names.
pub(crate) struct Named(ApiKeyId);

impl FromRequestParts<Shared> for Named {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Refusal> {
        let last = parts.uri.path().rsplit('/').next().and_then(|text| text.parse().ok());
        last.map(Self).ok_or(Reason::ApiKeyUnknown.into())
    }
}

/// The caller's keys.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ApiKeys")]
pub(crate) struct ApiKeysAnswer<'a> {
    /// The newest first.
    api_keys: Vec<ApiKeyAnswer<'a>>,
}

/// A key without its secret.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ApiKey")]
pub(crate) struct ApiKeyAnswer<'a> {
    id: String,
    /// How the key begins, for telling which one it is.
    prefix: String,
    name: &'a str,
    /// Roles that it is limited to; null: whatever its owner has.
    roles: Option<&'a [String]>,
    scopes: &'a [String],
    created_at: String,
    /// When it ends; null: once it is revoked.
    expires_at: Option<String>,
    /// To the minute; null: it was not used yet.
    last_used_at: Option<String>,
}

/// A new key, this once with its secret.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "NewApiKey")]
pub(crate) struct NewApiKeyAnswer<'a> {
    /// The key: `Authorization: Bearer` or `X-API-Key`. Not to be had again.
    key: &'a str,
    #[serde(flatten)]
    shown: ApiKeyAnswer<'a>,
}

impl<'a> ApiKeyAnswer<'a> {
    fn of(key: &'a ApiKey) -> Result<Self, Refusal> {
        Ok(Self {
            id: key.id.to_string(),
            prefix: format!("{}{}", api_key::PREFIX, key.id.0.as_simple()),
            name: &key.name,
            roles: key.roles.as_deref(),
            scopes: &key.scopes,
            created_at: rfc3339(key.created_at)?,
            expires_at: key.expires_at.map(rfc3339).transpose()?,
            last_used_at: key.last_used_at.map(rfc3339).transpose()?,
        })
    }
}

/// 200 with the caller's keys.
pub(crate) async fn list(State(state): State<Shared>, known: KnownCaller) -> Result<Answer, Refusal> {
    // The bound may have been higher when they were made.
    let keys = state.store.api_keys_of(known.user, 1_000).await?;
    let api_keys = keys.iter().map(ApiKeyAnswer::of).collect::<Result<_, _>>()?;
    Answer::json(StatusCode::OK, &ApiKeysAnswer { api_keys })
}

/// What is asked for.
struct Wanted {
    name: String,
    roles: Option<Vec<String>>,
    scopes: Vec<String>,
    expires_at: Option<Timestamp>,
}

fn wanted(state: &PortalState, mut fields: Fields, now: Timestamp) -> Result<Wanted, Refusal> {
    let may = &state.portal.api_keys;
    let name = fields.required("name", |text: String| api_key::name(&text));
    let roles = fields.optional("roles", few);
    let scopes = fields.optional("scopes", |scopes: Vec<String>| {
        let scopes = few(scopes)?;
        match scopes.iter().find(|scope| !may.scopes.iter().any(|one| **one == ***scope)) {
            Some(_) => Err("holds a scope that a key cannot be given here"),
            None => Ok(scopes),
        }
    });
    let lives = fields.optional("expires_in", |seconds: u64| end_of(now, Duration::from_secs(seconds)));
    let ends = fields.optional("expires_at", |text: String| {
        rfc3339::parsed(&text).filter(|end| *end > now).ok_or("must be a moment to come, as RFC 3339 writes it")
    });
    if lives.is_some() && ends.is_some() {
        fields.fault("expires_at", "contradicts expires_in");
    }
    let latest = may.max_life.map(|life| now.plus(life));
    let asked = lives.or(ends);
    if let (Some(latest), Some(asked)) = (latest, asked)
        && asked > latest
    {
        let field = if lives.is_some() { "expires_in" } else { "expires_at" };
        fields.fault(field, "is longer than a key may live here");
    }
    let expires_at = asked.or(latest);
    fields.finish(name.map(|name| Wanted { name, roles, scopes: scopes.unwrap_or_default(), expires_at }))
}

fn end_of(now: Timestamp, life: Duration) -> Result<Timestamp, &'static str> {
    /// A hundred years: more is a mistake, or meant as never.
    const LONGEST: Duration = Duration::from_hours(100 * 365 * 24);
    if life.is_zero() || life > LONGEST {
        return Err("must be a number of seconds, at least 1; leave it out for a key that does not run out");
    }
    Ok(now.plus(life))
}

fn few(words: Vec<String>) -> Result<Vec<String>, &'static str> {
    let repeats = words.iter().enumerate().any(|(place, word)| words[..place].contains(word));
    if words.len() > MOST_WORDS || repeats { Err("holds too many, or one twice") } else { Ok(words) }
}

/// 201 with the key, once; 429 too often.
pub(crate) async fn create(State(state): State<Shared>, known: KnownCaller, fields: Fields) -> Result<Answer, Refusal> {
    let now = state.clock.now();
    let wanted = wanted(&state, fields, now)?;
    let owner = state.store.account(known.user).await?.filter(|account| account.active);
    let owner = owner.ok_or(Reason::SessionEnded)?;
    if wanted.roles.iter().flatten().any(|role| !owner.roles.contains(role)) {
        return Err(one_fault("roles", &"holds a role that you do not have"));
    }
    // Whoever makes and revokes them without end fills every gateway's memory of what was revoked.
    lockout::pace_user(&state, PacedCall::ApiKey, known.user, state.portal.api_keys.made_per_user).await?;
    let id = ApiKeyId(state.entropy.uuid_v7(now));
    let mut secret = Zeroizing::new([0; SECRET_LEN]);
    state.entropy.fill(&mut *secret);
    let made = ApiKeyMint::new(&state.master).make(id, &secret);
    let key = ApiKey {
        id,
        owner: known.user,
        name: wanted.name,
        roles: wanted.roles,
        scopes: wanted.scopes,
        created_at: now,
        expires_at: wanted.expires_at,
        last_used_at: None,
    };
    let new = NewApiKey { key, hash: made.hash };
    let audit = known.caller.audit(AuditEvent::ApiKeyCreated, now, Some(known.user), known.claims.session);
    match state.store.create_api_key(&new, state.portal.api_keys.max_per_user, &audit).await? {
        ApiKeyMade::Made => {}
        ApiKeyMade::TooMany => return Err(Reason::ApiKeyLimit.into()),
        ApiKeyMade::NoOwner => return Err(Reason::SessionEnded.into()),
    }
    let shown = ApiKeyAnswer::of(&new.key)?;
    Answer::json(StatusCode::CREATED, &NewApiKeyAnswer { key: made.key.expose_secret(), shown })
}

/// 204: it is refused from now on, here at once.
pub(crate) async fn revoke(
    State(state): State<Shared>,
    known: KnownCaller,
    Named(id): Named,
) -> Result<Answer, Refusal> {
    let now = state.clock.now();
    let audit = known.caller.audit(AuditEvent::ApiKeyRevoked, now, Some(known.user), known.claims.session);
    let work = Arc::clone(&state);
    let revoked = PortalState::to_the_end(async move {
        let revoked = work.store.revoke_api_key(known.user, id, &audit).await?;
        if revoked {
            work.revoke_key_here(id);
        }
        Ok::<_, Refusal>(revoked)
    });
    if revoked.await?? { Ok(Answer::empty(StatusCode::NO_CONTENT)) } else { Err(Reason::ApiKeyUnknown.into()) }
}
