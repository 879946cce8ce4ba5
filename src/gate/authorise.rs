//! May this principal use this route: authentication demanded, any one of the roles, all of the scopes.
//!
//! The only maker of [`Authorised`], without which neither portal nor upstream can be reached.

use http::Request;

use crate::{
    config::settings::AuthMode,
    gate::{body::GateBody, exchange::Exchange, refusal::Refusal, stage::Stage},
    policy::{access, reason::Reason},
};

/// The permit to go on: only this file can make one.
#[derive(Debug, Clone)]
pub struct Authorised(());

/// Grants or refuses the permit.
#[derive(Debug, Clone, Copy)]
pub struct Authorise;

impl Stage for Authorise {
    fn apply(&self, request: &mut Request<GateBody>) -> Result<(), Refusal> {
        let exchange = Exchange::of_mut(request)?;
        let route = exchange.route()?;
        let claims = exchange.principal()?.claims();
        if route.auth == AuthMode::Required && claims.is_none() {
            return Err(Reason::CredentialsMissing.into());
        }
        access::authorise(&route.roles, &route.scopes, claims.map(AsRef::as_ref))?;
        exchange.set_authorised(Authorised(()));
        Ok(())
    }
}
