//! May this principal use this route: authentication demanded, any one of the roles, all of the scopes.
//!
//! The only maker of [`Authorised`], without which neither portal nor upstream can be reached. Who is known and may not
//! is told to whoever audits that, without waiting.

use std::{net::IpAddr, sync::Arc};

use http::Request;
use tokio::sync::mpsc;

use crate::{
    clock::Timestamp,
    config::settings::AuthMode,
    gate::{
        body::GateBody,
        exchange::{Exchange, Principal},
        refusal::Refusal,
        stage::Stage,
    },
    policy::{access, claims::Claims, ids::ApiKeyId, reason::Reason},
    telemetry::{metrics::Metrics, record::Record},
};

/// The permit to go on: only this file can make one.
#[derive(Debug, Clone)]
pub struct Authorised(());

/// An authenticated caller who was refused.
pub struct Denied {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub claims: Arc<Claims>,
    /// With which API key, if it was one.
    pub api_key: Option<ApiKeyId>,
    /// Where: the route's name.
    pub route: Arc<str>,
    /// Why.
    pub reason: Reason,
    /// From where.
    pub address: Option<IpAddr>,
    /// In which request.
    pub record: Arc<Record>,
}

/// Grants or refuses the permit.
#[derive(Clone)]
pub struct Authorise {
    denied: mpsc::Sender<Denied>,
    metrics: Arc<Metrics>,
}

impl Authorise {
    /// `denied` takes whoever is known and refused; it is bounded, and what does not fit is counted.
    #[must_use]
    pub const fn new(denied: mpsc::Sender<Denied>, metrics: Arc<Metrics>) -> Self {
        Self { denied, metrics }
    }

    #[cold]
    fn tell(&self, exchange: &Exchange, claims: &Arc<Claims>, reason: Reason) {
        let record = Arc::clone(exchange.record());
        let Some(route) = record.route().cloned() else { return };
        let claims = Arc::clone(claims);
        let api_key = match exchange.principal() {
            Ok(Principal::Authenticated(caller)) => caller.api_key(),
            Ok(Principal::Anonymous) | Err(_) => None,
        };
        let denied =
            Denied { at: exchange.now(), claims, api_key, route, reason, address: exchange.client().ok(), record };
        if self.denied.try_send(denied).is_err() {
            self.metrics.permission_denials_dropped.inc();
        }
    }
}

impl Stage for Authorise {
    fn apply(&self, request: &mut Request<GateBody>) -> Result<(), Refusal> {
        let exchange = Exchange::of_mut(request)?;
        let route = exchange.route()?;
        let claims = exchange.principal()?.claims();
        if route.auth == AuthMode::Required && claims.is_none() {
            return Err(Reason::CredentialsMissing.into());
        }
        if let Err(reason) = access::authorise(&route.roles, &route.scopes, claims.map(AsRef::as_ref)) {
            if let Some(claims) = claims {
                self.tell(exchange, claims, reason);
            }
            return Err(reason.into());
        }
        exchange.set_authorised(Authorised(()));
        Ok(())
    }
}
