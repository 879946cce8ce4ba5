//! Which route: host, canonical path, method. Closed by default: what no route names is 404, and 405
//! when only the method is not named. A preflight goes to the route of the request it asks for.

use std::sync::Arc;

use http::Request;

use crate::{
    gate::{
        body::GateBody,
        exchange::Exchange,
        refusal::{Detail, Refusal},
        route_table::Unrouted,
        snapshot::Target,
        stage::Stage,
    },
    policy::{cors, head, reason::Reason},
};

/// Finds the route.
#[derive(Debug, Clone, Copy)]
pub struct Routing;

impl Stage for Routing {
    fn apply(&self, request: &mut Request<GateBody>) -> Result<(), Refusal> {
        let exchange = Exchange::of(request)?;
        exchange.hygienic()?;
        let routes = exchange.snapshot().routes_at(exchange.arrival().door);
        let host = head::host_of(request.uri(), request.headers()).unwrap_or_default();
        let path = request.uri().path();
        // A preflight is its request's, where origins are listed: no route has to name OPTIONS for it. Not where only a
        // decision is asked for: "yes" would let the preflight itself, which shows no credentials, into the service.
        let decision = exchange.decision().is_some();
        if !decision
            && let Some(method) = cors::preflight(request.method(), request.headers())
            && let Ok(route) = routes.find(host, path, &method)
            && !route.allowed_origins.is_empty()
        {
            let route = Arc::clone(route);
            let exchange = Exchange::of_mut(request)?;
            exchange.set_route(route);
            exchange.set_preflight(method);
            return Ok(());
        }
        let found = routes.find(host, path, request.method());
        let route = Arc::clone(found.map_err(|unrouted| match unrouted {
            Unrouted::NoRoute => Refusal::from(Reason::NoRoute),
            Unrouted::Method(allow) => Refusal::with(Reason::MethodNotAllowed, Detail::Allow(allow)),
        })?);
        if decision && matches!(route.target, Target::Portal) {
            let text = "the gateway answers this itself: it is for the proxy to send it there, and to no service";
            return Err(Refusal::because(Reason::NoRoute, text));
        }
        Exchange::of_mut(request)?.set_route(route);
        Ok(())
    }
}
