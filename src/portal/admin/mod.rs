//! The admin API, `/admin/v1/…`: what administrators see and do over HTTP. docs/admin-api.md is its manual.
//!
//! The gate lets nobody through to it but bearers of an access token of ours with the role admin, at whichever
//! listener; [`AdminCall`] closes it once more. Whoever reads leaves an audit row (`admin_read`) before anything is
//! shown, whoever changes something leaves the row of that change; each names its actor. What is asked for is in the
//! path and the query ([`query`]); lists are given in pages ([`page`]).

pub(crate) mod audit;
pub(crate) mod lockouts;
pub(crate) mod page;
pub(crate) mod query;
pub(crate) mod quotas;

use axum::extract::FromRequestParts;
use http::request::Parts;

use crate::{
    clock::Timestamp,
    gate::{exchange::Exchange, refusal::Refusal},
    policy::reason::Reason,
    portal::{caller::KnownCaller, endpoints::ADMIN_ROLE, state::Shared},
    store::{
        AuditEntry, AuditEvent,
        audit::{Detail, Particular},
    },
};

/// An administrator and what they ask for.
pub(crate) struct AdminCall {
    known: KnownCaller,
    query: query::Query,
    route: String,
}

impl AdminCall {
    /// An audit row of this call, done by its administrator.
    pub(crate) fn entry(&self, event: AuditEvent, at: Timestamp) -> AuditEntry {
        let (known, session) = (&self.known, self.known.claims.session);
        AuditEntry { user: None, ..known.caller.audit(event, at, Some(known.user), session) }
    }

    /// What is asked for. Taken once: what it holds is checked there.
    pub(crate) fn query(&mut self) -> query::Query {
        std::mem::take(&mut self.query)
    }

    /// Says that somebody looks, before they do.
    pub(crate) async fn reads(&self, state: &Shared) -> Result<(), Refusal> {
        let detail = Detail::default().text(Particular::Route, Some(&self.route));
        let entry = AuditEntry { detail, ..self.entry(AuditEvent::AdminRead, state.clock.now()) };
        Ok(state.store.append_audit(&entry).await?)
    }
}

impl FromRequestParts<Shared> for AdminCall {
    type Rejection = Refusal;

    /// The route lets nobody else through; were it wired otherwise, this closes.
    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, Refusal> {
        let known = KnownCaller::from_request_parts(parts, state).await?;
        if !known.claims.roles.iter().any(|role| **role == *ADMIN_ROLE) {
            return Err(Reason::RoleMissing.into());
        }
        let exchange = parts.extensions.get::<Exchange>();
        let exchange = exchange.ok_or_else(|| Refusal::internal("the admin API was called outside the pipeline"))?;
        let route = exchange.route()?.name.to_string();
        Ok(Self { known, query: query::Query::of(parts.uri.query())?, route })
    }
}
