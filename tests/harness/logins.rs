//! Logins as guessers and owners make them, and what can be told of them.

use portcullis::store::{SharedStore, audit::AuditQuery};
use serde_json::{Value, json};

use crate::harness::client::{Answer, Client, PASSWORD};

/// Nobody's password.
pub(crate) const WRONG: &str = "not the password of anybody here";

pub(crate) const DEVICE: &str = "__Secure-portcullis-device";

pub(crate) fn credentials(email: &str, password: &str) -> Value {
    json!({"email": email, "password": password})
}

pub(crate) async fn login(client: &Client, email: &str, password: &str) -> Answer {
    client.post("/auth/login").json(&credentials(email, password)).send().await
}

/// As a proxy hands it on that has it from this address.
pub(crate) async fn login_from(proxy: &Client, address: &str, email: &str, password: &str) -> Answer {
    let call = proxy.post("/auth/login").header("x-forwarded-for", address);
    call.json(&credentials(email, password)).send().await
}

/// As an owner's browser makes it, with the device cookie it has.
pub(crate) async fn with_device(client: &Client, email: &str, cookie: &str) -> Answer {
    let call = client.post("/auth/login").header("sec-fetch-site", "same-origin").header("cookie", cookie);
    call.json(&credentials(email, PASSWORD)).send().await
}

/// The device cookie that an answer sets, as it is to be sent.
pub(crate) fn device_of(answer: &Answer) -> String {
    let lines = answer.all("set-cookie");
    let line = lines.iter().find(|line| line.starts_with(DEVICE)).expect("a device cookie");
    for guard in ["HttpOnly", "Secure", "SameSite=Strict", "Path=/auth", "Max-Age=15552000"] {
        assert!(line.split("; ").any(|part| part == guard), "{guard} in {line}");
    }
    line.split(';').next().unwrap().to_owned()
}

/// What a client can tell an answer by.
pub(crate) fn told(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let own = answer.header("x-request-id").unwrap().to_owned();
    let mut headers: Vec<_> = answer
        .headers
        .iter()
        .filter(|(name, _)| !["date", "x-request-id"].contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    headers.sort();
    (answer.status, headers, answer.text().replace(&own, "ID"))
}

/// Failed logins whose password was compared; those that a counter forbade say so.
pub(crate) async fn compared(store: &SharedStore) -> usize {
    let wanted = AuditQuery { event: Some("login_failed".into()), ..AuditQuery::default() };
    let rows = store.audit_rows(&wanted, 10_000).await.unwrap();
    rows.iter().filter(|row| row.detail.is_none()).count()
}

/// How often an event was written down.
pub(crate) async fn audited(store: &SharedStore, event: &str) -> usize {
    let wanted = AuditQuery { event: Some(event.to_owned()), ..AuditQuery::default() };
    store.audit_rows(&wanted, 10_000).await.unwrap().len()
}
