//! Security events: what is told of one beside its audit row. Messages for webhooks are written into an outbox in the
//! transaction of their cause; a counter hears of it once that is committed.

use std::{fmt, sync::Arc};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    clock::{Entropy, Timestamp},
    policy::{rfc3339::rfc3339, webhook::SecurityEvent},
    store::{AuditEntry, AuditEvent},
};

impl AuditEvent {
    /// Whether somebody may want to be woken for it.
    #[must_use]
    pub const fn security(self) -> Option<SecurityEvent> {
        match self {
            Self::RefreshReuseDetected => Some(SecurityEvent::RefreshReuseDetected),
            Self::RefreshAhead => Some(SecurityEvent::RefreshAhead),
            Self::NewDevice => Some(SecurityEvent::NewDevice),
            Self::PermissionDenied => Some(SecurityEvent::PermissionDenied),
            Self::CredentialStuffingDetected => Some(SecurityEvent::CredentialStuffingDetected),
            Self::AccountLocked => Some(SecurityEvent::AccountLocked),
            Self::AddressLocked => Some(SecurityEvent::AddressLocked),
            Self::DeviceVoided => Some(SecurityEvent::DeviceVoided),
            _ => None,
        }
    }
}

/// Who is told of security events.
pub struct SecurityWatch {
    /// Webhooks, whose messages are written with the cause.
    pub webhooks: Vec<Subscription>,
    /// Hears of each that was committed.
    pub told: Box<dyn Fn(SecurityEvent) + Send + Sync>,
    /// Ids of messages.
    pub entropy: Arc<dyn Entropy>,
}

impl fmt::Debug for SecurityWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecurityWatch").field("webhooks", &self.webhooks).finish_non_exhaustive()
    }
}

/// A webhook and what it is told.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// What it is told.
    pub events: Vec<SecurityEvent>,
}

/// A message on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its id: the same whenever it is tried again.
    pub id: Uuid,
    /// Since when it waits.
    pub created_at: Timestamp,
    /// How often it was tried, this time included.
    pub attempts: u64,
    /// JSON.
    pub body: String,
}

/// What is told of an event.
#[must_use]
pub fn body(id: Uuid, entry: &AuditEntry) -> String {
    let detail = entry.detail.to_json().and_then(|detail| serde_json::from_str::<Value>(&detail).ok());
    json!({
        "id": id.to_string(),
        "at": rfc3339(entry.at).unwrap_or_default(),
        "event": entry.event.as_str(),
        "user": entry.user.map(|user| user.to_string()),
        "session": entry.session.map(|session| session.to_string()),
        "address": entry.address,
        "request_id": entry.request_id,
        "detail": detail.unwrap_or_else(|| json!({})),
    })
    .to_string()
}
