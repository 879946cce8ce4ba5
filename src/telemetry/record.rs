//! What is remembered of one request until its last byte: shared by the layers that learn and the observer that tells.

use std::sync::{Arc, OnceLock};

use http::HeaderValue;

use crate::{clock::Tick, policy::reason::Reason};

/// What is remembered of one request. Each fact is set at most once; later attempts are ignored.
#[derive(Debug)]
pub struct Record {
    /// The request's id, as sent in the answer, the log, the span and the identity token. Visible ASCII.
    pub request_id: HeaderValue,
    /// When its head had been read.
    pub began: Tick,
    reason: OnceLock<Reason>,
    subject: OnceLock<Arc<str>>,
}

impl Record {
    /// A fresh record.
    #[must_use]
    pub fn new(request_id: HeaderValue, began: Tick) -> Self {
        Self { request_id, began, reason: OnceLock::new(), subject: OnceLock::new() }
    }

    /// The request's id as text.
    #[must_use]
    pub fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    /// Notes why the request was answered as it was; the first reason stands.
    pub fn set_reason(&self, reason: Reason) {
        let _ = self.reason.set(reason);
    }

    /// Why; [`Reason::Ok`] until something else was noted.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.reason.get().copied().unwrap_or(Reason::Ok)
    }

    /// Notes who called (or who has just logged in).
    pub fn set_subject(&self, subject: Arc<str>) {
        let _ = self.subject.set(subject);
    }

    /// Who called.
    #[must_use]
    pub fn subject(&self) -> Option<&Arc<str>> {
        self.subject.get()
    }
}
