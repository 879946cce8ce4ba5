//! The common shape of a layer that mostly decides at once, and sometimes waits first: for Redis, for the store
//! (authentication waits too, in a shape of its own). Beside [`super::stage`], whose layers never wait; a layer of this
//! kind may also hold something until the answer has a head.
//!
//! A request that is decided at once costs what a stage costs. Only for one that waits or holds is anything boxed.

use std::{
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::future::Either;
use http::{Request, Response};
use tower::{Layer, Service};

use crate::gate::{
    body::GateBody,
    refusal::Refusal,
    stage::{Decided, Outcome, refused},
};

/// A layer that may have to wait before it decides.
pub(in crate::gate) trait Decide: Clone {
    /// A request that is not decided yet, or that something is held for.
    type Pending: Pending;

    /// Decides what can be decided at once. `None`: the request goes on, and nothing is held for it.
    fn decide(&self, request: &mut Request<GateBody>) -> Result<Option<Self::Pending>, Refusal>;
}

/// What is left to do for a request.
pub(in crate::gate) trait Pending: Send + 'static {
    /// What stays with the request until its answer has a head; `()`: nothing.
    type LetIn: LetIn;

    /// Waits for what must be waited for, and decides.
    fn wait(self, request: &mut Request<GateBody>) -> impl Future<Output = Result<Self::LetIn, Refusal>> + Send;
}

/// What stays with a request until its answer has a head. Dropped before that, there is none.
pub(in crate::gate) trait LetIn: Send {
    /// The answer has a head, or the request was refused further on.
    fn answered(self, outcome: Outcome) -> Outcome;
}

impl LetIn for () {
    fn answered(self, outcome: Outcome) -> Outcome {
        outcome
    }
}

/// Puts a [`Decide`] before an inner service.
#[derive(Debug, Clone)]
pub(in crate::gate) struct WaitingLayer<D>(pub(in crate::gate) D);

impl<D: Decide, S> Layer<S> for WaitingLayer<D> {
    type Service = Waiting<D, S>;

    fn layer(&self, inner: S) -> Self::Service {
        Waiting { decide: self.0.clone(), inner }
    }
}

/// A [`Decide`] and what comes after it.
#[derive(Debug, Clone)]
pub(in crate::gate) struct Waiting<D, S> {
    decide: D,
    inner: S,
}

impl<D, S> Service<Request<GateBody>> for Waiting<D, S>
where
    D: Decide,
    S: Service<Request<GateBody>, Response = Response<GateBody>, Error = Refusal> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<GateBody>;
    type Error = Refusal;
    type Future = Either<Decided<S::Future>, Pin<Box<dyn Future<Output = Outcome> + Send>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<GateBody>) -> Self::Future {
        match self.decide.decide(&mut request) {
            Ok(None) => Either::Left(Either::Left(self.inner.call(request))),
            Ok(Some(pending)) => {
                // The service that was polled ready goes with the request.
                let clone = self.inner.clone();
                let mut inner = mem::replace(&mut self.inner, clone);
                Either::Right(Box::pin(async move {
                    let let_in = pending.wait(&mut request).await?;
                    let_in.answered(inner.call(request).await)
                }))
            }
            Err(refusal) => Either::Left(refused(refusal)),
        }
    }
}
