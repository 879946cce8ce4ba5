//! What the pipeline knows about one request, filled stage by stage.
//!
//! One [`Exchange`] sits in the request's extensions, put there by the first layer. Each fact can be set only by the
//! layer that establishes it (the setters are private to the gate) and be had by any layer after it; asking for a
//! fact that no layer has established is a wiring fault of ours: 500, never a panic and never a default.

use std::{net::IpAddr, sync::Arc};

use http::Request;

use crate::{
    gate::{body::GateBody, refusal::Refusal},
    policy::claims::Claims,
    telemetry::record::Record,
};

/// Who calls, once the credentials have been looked at.
#[derive(Debug, Clone)]
pub enum Principal {
    /// No credentials were asked for or given.
    Anonymous,
    /// A verified access token.
    Authenticated(Arc<Claims>),
}

impl Principal {
    /// The claims of an authenticated caller.
    #[must_use]
    pub fn claims(&self) -> Option<&Arc<Claims>> {
        match self {
            Self::Anonymous => None,
            Self::Authenticated(claims) => Some(claims),
        }
    }
}

/// What the pipeline knows about one request. Cloneable only because `http`'s extensions ask for it.
#[derive(Debug, Clone)]
pub struct Exchange {
    record: Arc<Record>,
    client: Option<IpAddr>,
    principal: Option<Principal>,
}

impl Exchange {
    /// A new exchange that knows only its record.
    pub(crate) fn new(record: Arc<Record>) -> Self {
        Self { record, client: None, principal: None }
    }

    /// The exchange of a request.
    ///
    /// # Errors
    /// [`Refusal::internal`] when the first layer did not run.
    pub fn of<B>(request: &Request<B>) -> Result<&Self, Refusal> {
        request.extensions().get::<Self>().ok_or_else(|| missing("exchange"))
    }

    pub(crate) fn of_mut(request: &mut Request<GateBody>) -> Result<&mut Self, Refusal> {
        request.extensions_mut().get_mut::<Self>().ok_or_else(|| missing("exchange"))
    }

    /// The record that outlives the request: its id, what is logged of it.
    #[must_use]
    pub fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// The client's address, found through trusted proxies.
    ///
    /// # Errors
    /// [`Refusal::internal`] before the client-address layer.
    pub fn client(&self) -> Result<IpAddr, Refusal> {
        self.client.ok_or_else(|| missing("client address"))
    }

    pub(crate) fn set_client(&mut self, client: IpAddr) {
        self.client = Some(client);
    }

    /// Who calls.
    ///
    /// # Errors
    /// [`Refusal::internal`] before the authentication layer.
    pub fn principal(&self) -> Result<&Principal, Refusal> {
        self.principal.as_ref().ok_or_else(|| missing("principal"))
    }

    pub(crate) fn set_principal(&mut self, principal: Principal) {
        self.principal = Some(principal);
    }
}

fn missing(stage: &str) -> Refusal {
    Refusal::internal(format!("the pipeline asked for the {stage} before it was established"))
}
