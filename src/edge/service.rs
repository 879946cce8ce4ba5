//! Between hyper's service and Tower's: one clone of the gate per connection, no clone and no box per request.
//!
//! One answer is made here: the bare 431 to an HTTP/2 head with too many fields, as hyper gives it on HTTP/1.1. Like
//! hyper's own it has no body, no request id and no line in the access log; it is counted as a connection error.

use std::{
    cell::RefCell,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower::{Service, ServiceExt, util::Oneshot};

use super::{
    Connection, Gate,
    listener::Shared,
    vitals::{Pending, Vitals},
};
use crate::{
    gate::body::{BodyFault, GateBody, Received},
    telemetry::metrics::ConnectionError,
};

/// The gate as hyper sees it, for one connection.
pub(super) struct Adapter<S> {
    gate: RefCell<S>,
    vitals: Arc<Vitals>,
    connection: Connection,
    /// On HTTP/2 only: HPACK knows the size of a head, not the number of its fields. HTTP/1.1's parser counts.
    max_headers: Option<usize>,
    shared: Arc<Shared>,
}

impl<S> Adapter<S> {
    pub(super) fn new(
        gate: S,
        vitals: Arc<Vitals>,
        connection: Connection,
        max_headers: Option<usize>,
        shared: Arc<Shared>,
    ) -> Self {
        Self { gate: RefCell::new(gate), vitals, connection, max_headers, shared }
    }

    pub(super) fn into_gate(self) -> S {
        self.gate.into_inner()
    }
}

impl<S: Gate> hyper::service::Service<Request<Incoming>> for Adapter<S> {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Serving<S>;

    fn call(&self, request: Request<Incoming>) -> Serving<S> {
        let pending = Some(self.vitals.called());
        let http2 = self.max_headers.is_some();
        if self.max_headers.is_some_and(|max| request.headers().len() > max) {
            self.shared.metrics.connection_errors.of(ConnectionError::TooLarge).inc();
            if let Some(floods) = &self.shared.floods {
                floods.bad_connection(self.connection.peer.ip());
            }
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            return Serving { state: State::Refused { status }, pending, http2 };
        }
        let mut request = request.map(|body| {
            if body.is_end_stream() {
                GateBody::Empty
            } else {
                GateBody::Received(Received::new(body, self.vitals.body()))
            }
        });
        request.extensions_mut().insert(self.connection);
        let mut gate = self.gate.borrow_mut();
        // A gate that is ready is called in place. One that is not (none of ours) is cloned and waited for, since
        // there is nobody here whom its readiness could wake.
        let state = match gate.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => State::Called { future: gate.call(request) },
            Poll::Ready(Err(never)) => match never {},
            Poll::Pending => State::Waiting { future: gate.clone().oneshot(request) },
        };
        Serving { state, pending, http2 }
    }
}

pin_project! {
    /// One request on its way through the gate.
    pub(super) struct Serving<S>
    where
        S: Service<Request<GateBody>>,
    {
        #[pin]
        state: State<S>,
        pending: Option<Pending>,
        http2: bool,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S>
    where
        S: Service<Request<GateBody>>,
    {
        Called { #[pin] future: S::Future },
        Waiting { #[pin] future: Oneshot<S, Request<GateBody>> },
        Refused { status: StatusCode },
    }
}

impl<S: Gate> Future for Serving<S> {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let polled = match this.state.project() {
            StateProjection::Called { future } => future.poll(cx),
            StateProjection::Waiting { future } => future.poll(cx),
            StateProjection::Refused { status } => {
                let mut refused = Response::new(GateBody::Empty);
                *refused.status_mut() = *status;
                Poll::Ready(Ok(refused))
            }
        };
        polled.map_ok(|response| {
            response.map(|body| {
                let pending = this.pending.take();
                let body = match (body, &pending) {
                    (GateBody::Tunnel(tunnel), Some(pending)) => {
                        pending.vitals().switch(tunnel);
                        GateBody::Empty
                    }
                    (body, _) => body,
                };
                Answer::new(body, pending, *this.http2)
            })
        })
    }
}

/// An answer's body; the request is over when hyper drops it.
#[derive(Debug)]
pub(super) struct Answer {
    body: GateBody,
    pending: Option<Pending>,
    http2: bool,
    /// The client's turn to grant window, not the upstream's to send.
    held: bool,
}

impl Answer {
    fn new(body: GateBody, pending: Option<Pending>, http2: bool) -> Self {
        Self { body, pending, http2, held: false }
    }

    fn hold(&mut self, held: bool) {
        // HTTP/1.1 has no window but the socket's, which the wire sees.
        if !self.http2 || self.held == held {
            return;
        }
        self.held = held;
        if let Some(pending) = &self.pending {
            if held { pending.vitals().hold() } else { pending.vitals().release() }
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.hold(false);
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if self.http2 {
            // hyper asks for a frame before there is window for it, and for the next once it has let this one go.
            self.hold(false);
            self.hold(matches!(polled, Poll::Ready(Some(Ok(_)))));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
