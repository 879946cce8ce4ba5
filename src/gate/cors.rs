//! Pages of other origins: a preflight is answered here (204, the one answer that a layer writes), for the portal and
//! for services alike; every other request is noted with the origin that may read its answer, and the observer writes
//! it on whatever answer comes, refusals too.
//!
//! Only on routes that list origins. On the others a preflight is a request like any other, for the service to answer.

use std::{
    future::ready,
    task::{Context, Poll},
};

use futures_util::future::Either;
use http::{Request, Response, StatusCode};
use tower::{Layer, Service};

use crate::{
    gate::{
        body::GateBody,
        exchange::Exchange,
        refusal::Refusal,
        stage::{Decided, refused},
    },
    policy::{cors, reason::Reason},
};

/// Answers preflights.
#[derive(Debug, Clone, Copy)]
pub struct CorsLayer;

impl<S> Layer<S> for CorsLayer {
    type Service = Cors<S>;

    fn layer(&self, inner: S) -> Cors<S> {
        Cors { inner }
    }
}

/// See [`CorsLayer`].
#[derive(Debug, Clone)]
pub struct Cors<S> {
    inner: S,
}

impl<S> Service<Request<GateBody>> for Cors<S>
where
    S: Service<Request<GateBody>, Response = Response<GateBody>, Error = Refusal>,
{
    type Response = Response<GateBody>;
    type Error = Refusal;
    type Future = Decided<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<GateBody>) -> Self::Future {
        match preflight(&request) {
            Ok(None) => Either::Left(self.inner.call(request)),
            Ok(Some(permission)) => Either::Right(ready(Ok(permission))),
            Err(refusal) => refused(refusal),
        }
    }
}

/// The answer to a preflight; `None` for any other request.
fn preflight(request: &Request<GateBody>) -> Result<Option<Response<GateBody>>, Refusal> {
    let exchange = Exchange::of(request)?;
    let listed = &exchange.route()?.allowed_origins;
    if listed.is_empty() {
        return Ok(None);
    }
    let origin = cors::allowed(request.headers(), listed);
    exchange.record().set_reader(origin.cloned());
    let Some(method) = exchange.preflight() else { return Ok(None) };
    if origin.is_none() {
        return Err(Reason::OriginRefused.into());
    }
    let mut response = Response::new(GateBody::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    *response.headers_mut() = cors::permission(method, request.headers());
    Ok(Some(response))
}
