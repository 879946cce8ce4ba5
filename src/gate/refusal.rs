//! How a layer says no: facts, never bytes. [`crate::gate::rescue`] is the only place that turns one into an answer.

use std::{sync::Arc, time::Duration};

use http::HeaderValue;

use crate::policy::reason::Reason;

/// A request that will not be answered as asked.
#[derive(Debug)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// What only some reasons need; boxed, since most refusals need none.
    pub detail: Option<Box<Detail>>,
}

/// Facts that some reasons carry into the answer.
#[derive(Debug)]
pub enum Detail {
    /// For the client: a sentence that names the field or header at fault. Never a secret, never unverified claims.
    Text(String),
    /// The methods that would have matched (`Allow`).
    Allow(HeaderValue),
    /// When to try again.
    RetryAfter(Duration),
    /// A used-up limit.
    Limited(Limited),
    /// As many requests at once as this policy allows: nobody knows when one of them ends.
    Full(Arc<str>),
    /// A used-up quota.
    UsedUp {
        /// Its name.
        policy: Arc<str>,
        /// When it renews.
        retry_after: Duration,
    },
    /// Fields of a portal request that do not fit.
    Fields(Vec<FieldFault>),
    /// For the log only: what went wrong inside. Never sent to the client.
    Log(String),
}

/// A used-up limit.
#[derive(Debug, Clone)]
pub struct Limited {
    /// The policy's name.
    pub policy: Arc<str>,
    /// When the next request would be admitted.
    pub retry_after: Duration,
    /// Requests in the policy's window.
    pub quota: u32,
    /// The window.
    pub window: Duration,
}

/// One field of a request body that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct FieldFault {
    /// Which, e.g. `email`.
    pub field: String,
    /// What is wrong, in a sentence.
    pub message: String,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self { reason, detail: None }
    }
}

impl Refusal {
    /// With facts.
    #[must_use]
    pub fn with(reason: Reason, detail: Detail) -> Self {
        Self { reason, detail: Some(Box::new(detail)) }
    }

    /// With a sentence for the client.
    #[must_use]
    pub fn because(reason: Reason, text: impl Into<String>) -> Self {
        Self::with(reason, Detail::Text(text.into()))
    }

    /// A fault of ours: the client learns nothing but that; the log learns `text`.
    #[must_use]
    pub fn internal(text: impl Into<String>) -> Self {
        Self::with(Reason::Internal, Detail::Log(text.into()))
    }
}

impl From<crate::store::StoreFault> for Refusal {
    fn from(fault: crate::store::StoreFault) -> Self {
        match fault {
            crate::store::StoreFault::Unavailable(why) => Self::with(Reason::StoreUnavailable, Detail::Log(why)),
            crate::store::StoreFault::Inconsistent(why) => Self::internal(why),
        }
    }
}
