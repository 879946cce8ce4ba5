//! Which route: host, canonical path, method. Closed by default: what no route names is 404, and 405
//! when only the method is not named.

use std::sync::Arc;

use http::Request;

use crate::{
    gate::{
        body::GateBody,
        exchange::Exchange,
        refusal::{Detail, Refusal},
        snapshot::Unrouted,
        stage::Stage,
    },
    policy::{head, reason::Reason},
};

/// Finds the route.
#[derive(Debug, Clone, Copy)]
pub struct Routing;

impl Stage for Routing {
    fn apply(&self, request: &mut Request<GateBody>) -> Result<(), Refusal> {
        let exchange = Exchange::of(request)?;
        exchange.hygienic()?;
        let host = head::host_of(request.uri(), request.headers()).unwrap_or_default();
        let found = exchange.snapshot().routes.find(host, request.uri().path(), request.method());
        let route = Arc::clone(found.map_err(|unrouted| match unrouted {
            Unrouted::NoRoute => Refusal::from(Reason::NoRoute),
            Unrouted::Method(allow) => Refusal::with(Reason::MethodNotAllowed, Detail::Allow(allow)),
        })?);
        Exchange::of_mut(request)?.set_route(route);
        Ok(())
    }
}
