//! What the endpoints answer: JSON shapes and the headers every answer carries.

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{clock::Timestamp, gate::refusal::Refusal, policy::access::highest_role, store::Account};

/// An answer: nothing of it may be stored by a cache, unless said otherwise.
pub(crate) struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Option<Bytes>,
}

impl Answer {
    /// JSON.
    pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Result<Self, Refusal> {
        let body = serde_json::to_vec(body).map_err(|fault| Refusal::internal(fault.to_string()))?;
        let mut answer = Self::empty(status).with(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        answer.body = Some(body.into());
        Ok(answer)
    }

    /// A body of some other type, which the caller names.
    pub(crate) fn bytes(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self { body: Some(body.into()), ..Self::empty(status) }
    }

    /// No body.
    pub(crate) fn empty(status: StatusCode) -> Self {
        let answer = Self { status, headers: HeaderMap::new(), body: None };
        answer.with(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
    }

    /// With this header, in place of one of that name.
    pub(crate) fn with(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// With these cookies.
    pub(crate) fn with_cookies(mut self, lines: Vec<HeaderValue>) -> Self {
        for line in lines {
            self.headers.append(header::SET_COOKIE, line);
        }
        self
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        match self.body {
            Some(body) => (self.status, self.headers, body).into_response(),
            None => (self.status, self.headers).into_response(),
        }
    }
}

/// A new pair of tokens (RFC 6749 §5.1).
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Tokens")]
pub(crate) struct TokenAnswer<'a> {
    pub(crate) access_token: &'a str,
    pub(crate) token_type: &'static str,
    /// Seconds.
    pub(crate) expires_in: u64,
    /// Absent when it travels as a cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) refresh_token: Option<&'a str>,
    pub(crate) user: UserAnswer<'a>,
}

/// A user as the portal shows it to itself.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "User")]
pub(crate) struct UserAnswer<'a> {
    id: String,
    email: &'a str,
    email_verified: bool,
    username: Option<&'a str>,
    full_name: Option<&'a str>,
    /// The highest, for clients that know one.
    role: &'a str,
    roles: &'a [String],
    org: Option<&'a str>,
    is_active: bool,
    created_at: String,
    last_login_at: Option<String>,
}

impl<'a> UserAnswer<'a> {
    /// The account's public face.
    ///
    /// # Errors
    /// [`Refusal::internal`] when one of its times is outside the calendar's years 0 to 9999.
    pub(crate) fn of(account: &'a Account) -> Result<Self, Refusal> {
        Ok(Self {
            id: account.id.to_string(),
            email: &account.email,
            email_verified: account.email_verified,
            username: account.username.as_deref(),
            full_name: account.full_name.as_deref(),
            role: highest_role(&account.roles),
            roles: &account.roles,
            org: account.org.as_deref(),
            is_active: account.active,
            created_at: rfc3339(account.created_at)?,
            last_login_at: account.last_login_at.map(rfc3339).transpose()?,
        })
    }
}

/// A moment as RFC 3339 writes it, in UTC.
pub(crate) fn rfc3339(at: Timestamp) -> Result<String, Refusal> {
    crate::policy::rfc3339::rfc3339(at).ok_or_else(|| Refusal::internal("a time in the store is outside the calendar"))
}
