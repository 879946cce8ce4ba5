//! The border between the gate's types and axum's: the only file that names axum's body.
//!
//! Inwards, a `Request<GateBody>` becomes axum's. Outwards, an answer goes as it is, and a handler's [`Refusal`], which
//! axum can carry only as a response, travels in the response's extensions and is an `Err` again behind the border. So
//! the gate's rescue table stays the only place that makes an answer of a refusal. axum's own 404 and 405 become
//! refusals too; no rejection of axum's can happen, since the extractors here are ours.

use std::{
    error::Error,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    Router,
    body::to_bytes,
    extract::Request as AxumRequest,
    response::{IntoResponse, Response as AxumResponse},
    routing::future::RouteFuture,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError};
use pin_project_lite::pin_project;
use tower::Service;

use crate::{
    gate::{
        body::{BodyFault, GateBody},
        refusal::{Detail, Refusal},
    },
    policy::reason::Reason,
    portal::{PortalState, Published, endpoints, key_sets},
};

/// The account endpoints as the last service of the pipeline.
#[derive(Clone, Debug)]
pub struct Portal {
    router: Router,
}

impl Portal {
    /// The endpoints of [`endpoints::ENDPOINTS`] over this state.
    #[must_use]
    pub fn new(state: PortalState) -> Self {
        let published = state.published();
        Self::of(endpoints::router(&published, Some(&Arc::new(state))), &published)
    }

    /// Those of them that need no accounts.
    #[must_use]
    pub fn without_accounts(published: &Published) -> Self {
        Self::of(endpoints::router(published, None), published)
    }

    fn of(router: Router, published: &Published) -> Self {
        let router = router
            .merge(key_sets::router(published))
            .fallback(async || Refusal::from(Reason::NoRoute))
            .method_not_allowed_fallback(async || Refusal::from(Reason::MethodNotAllowed));
        Self { router }
    }
}

impl Service<Request<GateBody>> for Portal {
    type Response = Response<GateBody>;
    type Error = Refusal;
    type Future = Crossing;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<GateBody>) -> Crossing {
        Crossing { inside: self.router.call(request) }
    }
}

pin_project! {
    /// A request on its way through axum.
    pub struct Crossing {
        #[pin]
        inside: RouteFuture<std::convert::Infallible>,
    }
}

impl Future for Crossing {
    type Output = Result<Response<GateBody>, Refusal>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match ready!(self.project().inside.poll(cx)) {
            Ok(response) => Poll::Ready(outwards(response)),
            Err(never) => match never {},
        }
    }
}

/// A refusal on its way out of axum. Extensions must be cloneable; nobody clones it.
#[derive(Clone)]
struct Carried(Arc<Refusal>);

impl IntoResponse for Refusal {
    fn into_response(self) -> AxumResponse {
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        response.extensions_mut().insert(Carried(Arc::new(self)));
        response
    }
}

fn outwards(mut response: AxumResponse) -> Result<Response<GateBody>, Refusal> {
    let Some(Carried(refusal)) = response.extensions_mut().remove() else {
        // axum counts the bytes of an answer that must not say how many it has (RFC 9110 §8.6).
        if response.status() == StatusCode::NO_CONTENT {
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        return Ok(response.map(|body| GateBody::boxed(body.map_err(|_| BodyFault::Cut(Reason::Internal)))));
    };
    let refusal = Arc::into_inner(refusal).ok_or_else(|| Refusal::internal("a refusal was carried twice"))?;
    // axum has written the methods it does route into `Allow`.
    Err(match response.headers_mut().remove(header::ALLOW) {
        Some(allow) if refusal.reason == Reason::MethodNotAllowed => {
            Refusal::with(Reason::MethodNotAllowed, Detail::Allow(allow))
        }
        _ => refusal,
    })
}

/// A request body, whole. Taken by a handler's JSON extractor, which knows the limit.
pub(crate) async fn whole_body(request: AxumRequest, limit: usize) -> Result<Bytes, Refusal> {
    to_bytes(request.into_body(), limit).await.map_err(|fault| Refusal::from(why(&fault)))
}

/// Why a body could not be had: ours, found behind axum's wrapping.
fn why(fault: &(dyn Error + 'static)) -> Reason {
    let mut cause = Some(fault);
    while let Some(fault) = cause {
        if fault.is::<LengthLimitError>() {
            return Reason::BodyTooLarge;
        }
        if let Some(BodyFault::Cut(reason)) = fault.downcast_ref() {
            return *reason;
        }
        cause = fault.source();
    }
    Reason::BodyBroken
}
