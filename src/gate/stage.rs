//! The common shape of a layer that only decides: look at the request, note facts in its exchange, or refuse.
//!
//! A [`Stage`] never waits and never sees the answer, so its service adds no allocation and no box: the inner future,
//! or a refusal that is ready at once. A layer that sometimes waits, or holds something until the answer has a head, is
//! a `waiting`; others that wait or touch the answer implement [`tower::Service`] themselves.

use std::{
    future::{Ready, ready},
    task::{Context, Poll},
};

use futures_util::future::Either;
use http::{Request, Response};
use tower::{Layer, Service};

use crate::gate::{body::GateBody, refusal::Refusal};

/// What every fallible service of the pipeline answers.
pub type Outcome = Result<Response<GateBody>, Refusal>;

/// The future of a layer that decides at once.
pub type Decided<F> = Either<F, Ready<Outcome>>;

/// A refusal that is ready at once.
pub fn refused<F>(refusal: Refusal) -> Decided<F> {
    Either::Right(ready(Err(refusal)))
}

/// A layer that only decides.
pub trait Stage: Clone {
    /// Looks at the request and notes what it establishes, or refuses.
    fn apply(&self, request: &mut Request<GateBody>) -> Result<(), Refusal>;
}

/// Puts a [`Stage`] before an inner service.
#[derive(Debug, Clone)]
pub struct StageLayer<T>(pub T);

impl<T: Stage, S> Layer<S> for StageLayer<T> {
    type Service = Staged<T, S>;

    fn layer(&self, inner: S) -> Self::Service {
        Staged { stage: self.0.clone(), inner }
    }
}

/// A [`Stage`] and what comes after it.
#[derive(Debug, Clone)]
pub struct Staged<T, S> {
    stage: T,
    inner: S,
}

impl<T, S> Service<Request<GateBody>> for Staged<T, S>
where
    T: Stage,
    S: Service<Request<GateBody>, Response = Response<GateBody>, Error = Refusal>,
{
    type Response = Response<GateBody>;
    type Error = Refusal;
    type Future = Decided<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<GateBody>) -> Self::Future {
        match self.stage.apply(&mut request) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(refusal) => refused(refusal),
        }
    }
}
