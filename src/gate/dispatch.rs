//! The end of the pipeline: the account endpoints or an upstream, whichever the route leads to; where only a decision
//! is asked for, neither ([`decision`]).

use std::{
    future::{Future, Ready, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::Either;
use http::{Request, Response};
use tower::{Service, ServiceExt, util::Oneshot};

use crate::{
    gate::{
        body::GateBody,
        decision,
        exchange::Exchange,
        refusal::Refusal,
        snapshot::{Accounts, Target},
        stage::{Decided, Outcome, refused},
    },
    upstream::cluster::Cluster,
};

/// Whatever forwards to a cluster.
pub trait Forwarder: Clone {
    /// The answer's future.
    type Future: Future<Output = Outcome>;
    /// Forwards one authorised request.
    fn forward(&self, request: Request<GateBody>, cluster: Arc<Cluster>) -> Self::Future;
}

/// The account endpoints of the configuration that the request began with.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotPortal;

impl Service<Request<GateBody>> for SnapshotPortal {
    type Response = Response<GateBody>;
    type Error = Refusal;
    type Future = Either<Oneshot<Accounts, Request<GateBody>>, Ready<Outcome>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<GateBody>) -> Self::Future {
        let accounts = Exchange::of(&request).and_then(|exchange| {
            exchange.snapshot().accounts.clone().ok_or_else(|| Refusal::internal("no portal was wired"))
        });
        match accounts {
            Ok(accounts) => Either::Left(accounts.oneshot(request)),
            Err(refusal) => refused(refusal),
        }
    }
}

/// Sends a request where its route leads.
#[derive(Clone)]
pub struct Dispatch<P, F> {
    portal: P,
    forward: F,
}

impl<P, F> Dispatch<P, F> {
    /// To `portal` or through `forward`.
    pub fn new(portal: P, forward: F) -> Self {
        Self { portal, forward }
    }
}

impl<P, F> Service<Request<GateBody>> for Dispatch<P, F>
where
    P: Service<Request<GateBody>, Response = Response<GateBody>, Error = Refusal, Future: Send + 'static>,
    F: Forwarder,
{
    type Response = Response<GateBody>;
    type Error = Refusal;
    // Boxed: a portal answer's future is large and rare, and every layer above would carry its size.
    type Future = Decided<Either<Pin<Box<dyn Future<Output = Outcome> + Send>>, F::Future>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.portal.poll_ready(cx)
    }

    fn call(&mut self, request: Request<GateBody>) -> Self::Future {
        let target = Exchange::of(&request).and_then(|exchange| {
            exchange.authorised()?;
            Ok((exchange.route()?.target.clone(), exchange.decision()))
        });
        let target = match target {
            Ok((Target::Cluster(cluster), Some(form))) => {
                return Either::Right(ready(decision::allowed(&request, form, &cluster)));
            }
            Ok((Target::Portal, Some(_))) => Err(Refusal::internal("a decision about the portal came past routing")),
            Ok((target, None)) => Ok(target),
            Err(refusal) => Err(refusal),
        };
        match target {
            Ok(Target::Portal) => Either::Left(Either::Left(Box::pin(self.portal.call(request)))),
            Ok(Target::Cluster(cluster)) => Either::Left(Either::Right(self.forward.forward(request, cluster))),
            Err(refusal) => refused(refusal),
        }
    }
}
