//! The admin listener: what is below `/admin/v1` goes through the pipeline, as at the public one, to the admin API; all
//! else is the gateway's own health.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::Either;
use http::{Request, Response};
use tower::Service;

use crate::{
    gate::{body::GateBody, exchange::Door, observe::Observer, stack::Layers},
    portal::endpoints::ADMIN_BASE,
};

/// The layers of the public listener, knowing that they stand at the admin one.
pub(super) fn layers(public: &Layers) -> Layers {
    let observer = Arc::new(Observer { door: Door::Admin, ..(*public.observer).clone() });
    Layers { observer, ..public.clone() }
}

/// Who answers at the admin listener.
#[derive(Clone)]
pub(super) struct AdminDoor<A, H> {
    api: A,
    health: H,
}

impl<A, H> AdminDoor<A, H> {
    pub(super) const fn new(api: A, health: H) -> Self {
        Self { api, health }
    }
}

/// By the path as it is written: the pipeline refuses one that could be read in two ways, and its table holds nothing but
/// the admin API.
fn is_of_api(path: &str) -> bool {
    path.strip_prefix(ADMIN_BASE).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl<A, H> Service<Request<GateBody>> for AdminDoor<A, H>
where
    A: Service<Request<GateBody>, Response = Response<GateBody>, Error = Infallible>,
    H: Service<Request<GateBody>, Response = Response<GateBody>, Error = Infallible>,
{
    type Response = Response<GateBody>;
    type Error = Infallible;
    type Future = Either<A::Future, H::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        match self.api.poll_ready(cx) {
            Poll::Ready(Ok(())) => self.health.poll_ready(cx),
            waiting => waiting,
        }
    }

    fn call(&mut self, request: Request<GateBody>) -> Self::Future {
        if is_of_api(request.uri().path()) {
            Either::Left(self.api.call(request))
        } else {
            Either::Right(self.health.call(request))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_below_its_base_is_the_api_s() {
        for path in ["/admin/v1", "/admin/v1/", "/admin/v1/lockouts", "/admin/v1/../metrics"] {
            assert!(is_of_api(path), "{path}");
        }
        for path in ["/", "/metrics", "/readyz", "/admin", "/admin/v10/lockouts", "/ADMIN/v1/lockouts"] {
            assert!(!is_of_api(path), "{path}");
        }
    }
}
