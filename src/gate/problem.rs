//! Problem documents (RFC 9457) and the headers that go with a refusal.

use std::time::Duration;

use http::{
    HeaderMap, HeaderValue, Response, Version,
    header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    config::settings::Compat,
    gate::{
        body::GateBody,
        refusal::{Detail, FieldFault, Refusal},
        rescue::{Challenge, Row, row_for},
    },
    policy::{limit_headers::seconds_up, reason::Reason},
    telemetry::record::Record,
};

/// The registered problem type of a used-up limit (draft-ietf-httpapi-ratelimit-headers-10 §6.1).
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

/// What a client is asked to wait when a fault of ours names no better time.
const DEFAULT_RETRY: Duration = Duration::from_secs(5);

/// A problem document as it is sent.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(crate) struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: String,
    instance: String,
    code: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldFault],
    #[serde(rename = "violated-policies", skip_serializing_if = "Vec::is_empty")]
    violated: Vec<&'a str>,
}

/// What the OAuth endpoints tell a client that is at fault (RFC 6749 §5.2).
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OAuthError")]
pub(crate) struct OAuthError<'a> {
    error: &'a str,
    error_description: &'a str,
}

/// Whether a refusal is told in OAuth's words.
pub(crate) const fn is_oauth(reason: Reason) -> bool {
    matches!(reason, Reason::ClientInvalid | Reason::RequestInvalid | Reason::TokenTypeUnsupported)
}

/// The answer to a refused request.
pub(crate) fn answer(refusal: &Refusal, compat: Compat, record: Option<&Record>) -> Response<GateBody> {
    let row = row_for(compat, refusal.reason);
    let oauth = is_oauth(refusal.reason);
    let body = if oauth { oauth_error(refusal, row) } else { document(refusal, row, record) };
    let media_type = if oauth { "application/json" } else { "application/problem+json" };
    let mut response = Response::new(GateBody::full(body));
    *response.status_mut() = row.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    challenge(headers, row.challenge);
    details(headers, refusal, row);
    if ends_connection(refusal.reason) && record.is_none_or(|record| record.version != Version::HTTP_2) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Whether an HTTP/1.1 connection can carry no further request.
const fn ends_connection(reason: Reason) -> bool {
    matches!(
        reason,
        // The rest of the body is not read.
        Reason::BodyTooLarge | Reason::BodyTimeout | Reason::BodyBroken
        // Whoever reads the head in another way sees its request end elsewhere: what follows may be part of it, and the
        // answer to it would go to somebody else's request. What follows CONNECT is no request to whom it was meant for.
        | Reason::HostInvalid
        | Reason::PathInvalid
        | Reason::HeaderInvalid
        | Reason::TransferEncodingInvalid
        | Reason::MethodRefused
    )
}

fn oauth_error(refusal: &Refusal, row: Row) -> Vec<u8> {
    let error_description = match refusal.detail.as_deref() {
        Some(Detail::Text(text)) => text,
        _ => row.detail,
    };
    serde_json::to_vec(&OAuthError { error: row.code, error_description }).unwrap_or_default()
}

/// The end of an event stream that is refused its rest, as clients of OpenAI's format understand it: `error` is what they
/// look for and raise, `[DONE]` what others end at. Its other members are a problem document's.
pub(crate) fn last_event(reason: Reason, policy: Option<&str>, record: &Record) -> String {
    #[derive(Serialize)]
    struct Event<'a> {
        error: OpenAIError<'a>,
        #[serde(flatten)]
        document: Document<'a>,
    }
    #[derive(Serialize)]
    struct OpenAIError<'a> {
        message: &'a str,
        r#type: &'a str,
        param: Option<&'a str>,
        code: &'a str,
    }
    let (row, refusal) = (row_for(Compat::None, reason), Refusal::from(reason));
    let error = OpenAIError { message: row.detail, r#type: "insufficient_quota", param: None, code: row.code };
    let mut document = filled(&refusal, row, record.request_id());
    document.violated.extend(policy);
    let event = Event { error, document };
    let data = serde_json::to_string(&event).unwrap_or_default();
    format!("event: error\ndata: {data}\n\ndata: [DONE]\n\n")
}

fn document(refusal: &Refusal, row: Row, record: Option<&Record>) -> Vec<u8> {
    let request_id = record.map_or("", Record::request_id);
    serde_json::to_vec(&filled(refusal, row, request_id)).unwrap_or_default()
}

fn filled<'a>(refusal: &'a Refusal, row: Row, request_id: &'a str) -> Document<'a> {
    let limited = row.code == "quota_exceeded";
    let mut document = Document {
        r#type: if limited { QUOTA_EXCEEDED.to_owned() } else { format!("urn:portcullis:problem:{}", row.code) },
        title: row.title,
        status: row.status.as_u16(),
        detail: row.detail.to_owned(),
        instance: format!("urn:portcullis:request:{request_id}"),
        code: row.code,
        request_id,
        errors: &[],
        violated: Vec::new(),
    };
    match refusal.detail.as_deref() {
        Some(Detail::Text(text)) => document.detail.clone_from(text),
        Some(Detail::Fields(fields)) => {
            document.errors = fields;
            if let Some(first) = fields.first() {
                document.detail = format!("{}: {}", first.field, first.message);
            }
        }
        Some(Detail::Limited(limited)) => {
            document.violated.push(&limited.policy);
            document.detail = format!("try again in {} s", seconds_up(limited.retry_after));
        }
        Some(Detail::UsedUp { policy, retry_after }) => {
            document.violated.push(policy);
            document.detail = format!("try again in {} s", seconds_up(*retry_after));
        }
        Some(Detail::Full(policy)) => {
            document.violated.push(policy);
            "try again when one of them has ended".clone_into(&mut document.detail);
        }
        Some(Detail::Allow(_) | Detail::RetryAfter(_) | Detail::Log(_)) | None => {}
    }
    document
}

fn challenge(headers: &mut HeaderMap, challenge: Challenge) {
    let value = match challenge {
        Challenge::Silent => return,
        Challenge::Bearer => r#"Bearer realm="portcullis""#,
        Challenge::InvalidToken => r#"Bearer realm="portcullis", error="invalid_token""#,
        Challenge::InsufficientScope => r#"Bearer realm="portcullis", error="insufficient_scope""#,
        Challenge::Basic => r#"Basic realm="portcullis""#,
    };
    headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(value));
}

fn details(headers: &mut HeaderMap, refusal: &Refusal, row: Row) {
    match refusal.detail.as_deref() {
        Some(Detail::Allow(methods)) => {
            headers.insert(ALLOW, methods.clone());
        }
        Some(Detail::RetryAfter(wait) | Detail::UsedUp { retry_after: wait, .. }) => {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds_up(*wait)));
        }
        Some(Detail::Limited(limited)) => {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds_up(limited.retry_after)));
        }
        // No Retry-After: whatever stood there would be made up.
        Some(Detail::Full(_)) => {}
        Some(Detail::Text(_) | Detail::Fields(_) | Detail::Log(_)) | None => {
            if row.status == http::StatusCode::SERVICE_UNAVAILABLE {
                headers.insert(RETRY_AFTER, HeaderValue::from(seconds_up(DEFAULT_RETRY)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(refusal: &Refusal) -> serde_json::Value {
        serde_json::from_slice(&document(refusal, row_for(Compat::None, refusal.reason), None)).unwrap()
    }

    #[test]
    fn what_is_for_the_log_never_reaches_the_client() {
        let refusal = Refusal::internal("password=hunter2 at host db-7");
        let text = json(&refusal).to_string();
        assert!(!text.contains("hunter2") && !text.contains("db-7"), "{text}");
    }

    #[test]
    fn a_field_fault_names_its_field() {
        let fault = FieldFault { field: "email".to_owned(), message: "is not an address".to_owned() };
        let body = json(&Refusal::with(Reason::Validation, Detail::Fields(vec![fault])));
        assert_eq!(body["status"], 422);
        assert_eq!(body["errors"][0]["field"], "email");
        assert_eq!(body["detail"], "email: is not an address");
    }

    #[test]
    fn a_503_always_says_when_to_come_back() {
        let refusal = Refusal::from(Reason::StoreUnavailable);
        assert_eq!(answer(&refusal, Compat::None, None).headers()[RETRY_AFTER], "5");
    }
}
