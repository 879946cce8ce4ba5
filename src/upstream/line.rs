//! One HTTP/1.1 connection to an endpoint, and the answer's body that flows over it ([`Flowing`]).
//!
//! hyper gives a handle and a future that reads and writes. Others run that future as a task; here whoever waits for
//! the answer polls it, which spares two wake-ups and a way through channels between tasks for each request (decision
//! 0005). Dropping a line closes its connection, whatever was still flowing, uploads too; after the last byte
//! [`Flowing`] gives it back to its endpoint. So an upload goes on only while its answer is waited for or read.
//!
//! The time to the answer's first byte and the exchange's total ([`Patience`]) are kept here; connecting has its own
//! in [`super::connect`], the answer's body its own in [`crate::gate::guard`].

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::http1::{Connection, SendRequest, handshake},
};
use tokio::{task::unconstrained, time::Sleep};

use crate::{
    clock::{LazyTimer, Tick},
    gate::{body::GateBody, guard::Upload},
    policy::reason::Reason,
    telemetry::traces::ChildSpan,
    upstream::{connect::Stream, endpoint::EndpointUse, told},
};

/// Services close idle connections after a second at the soonest (uvicorn: five).
const LONG_REST: Duration = Duration::from_secs(1);

/// A connection to an endpoint.
pub struct Line {
    sender: SendRequest<GateBody>,
    /// Gone once it has ended: only then does hyper give a request back that waits in it.
    connection: Option<Connection<Stream, GateBody>>,
    /// Lasts over requests: most answers come long before it fires.
    timer: LazyTimer,
    /// When its last request was begun.
    used: Option<Tick>,
    /// What has ended because the endpoint switched protocols; boxed: hardly any line has it.
    switched: Option<Box<Connection<Stream, GateBody>>>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("ended", &self.connection.is_none())
            .field("used", &self.used.is_some())
            .finish_non_exhaustive()
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Missed {
    /// The connection had ended before a byte of the request was written: it may be sent again.
    NeverSent(Box<Request<GateBody>>),
    /// The connection failed, or a body did.
    Failed(hyper::Error),
    /// The upstream took too long to begin its answer.
    FirstByte,
    /// The exchange took too long.
    Total,
    /// Whoever uploads has lost the right to it.
    Cut(Reason),
}

/// How long an answer may take to begin.
pub struct Patience<'a> {
    /// From the end of the request's body.
    pub first_byte: Duration,
    /// The exchange's end, if it has one.
    pub total: Option<&'a mut Pin<Box<Sleep>>>,
    /// The request's body on its way, if there is one.
    pub upload: Option<&'a Arc<Upload>>,
    /// The answer may be to switch protocols: then the connection is kept for [`Line::into_switched`].
    pub may_switch: bool,
}

impl Line {
    /// HTTP/1.1 over `stream`.
    ///
    /// # Errors
    /// None that hyper knows of today.
    pub async fn over(stream: Stream) -> hyper::Result<Self> {
        let (sender, connection) = handshake(stream).await?;
        Ok(Self { sender, connection: Some(connection), timer: LazyTimer::default(), used: None, switched: None })
    }

    /// Whether another request could be sent: the last one and its answer are over, and the endpoint has not closed.
    pub fn rests(&mut self) -> bool {
        // Not for the task's budget: a line must not be lost because its task was busy.
        let mut driven = unconstrained(poll_fn(|cx| {
            drop(drive(&mut self.connection, cx));
            Poll::Ready(())
        }));
        let _ = Pin::new(&mut driven).poll(&mut Context::from_waker(Waker::noop()));
        self.connection.is_some() && self.sender.is_ready()
    }

    /// Whether it has been sent a request before: then the endpoint may just have closed it.
    #[must_use]
    pub const fn used(&self) -> bool {
        self.used.is_some()
    }

    /// What is left of a line whose last answer was to switch protocols: the stream, and what has come over it behind the
    /// head.
    #[must_use]
    pub fn into_switched(self) -> Option<(Stream, Bytes)> {
        let parts = self.switched?.into_parts();
        Some((parts.io, parts.read_buf))
    }

    /// Whether that was so long ago that the endpoint may be about to close it.
    #[must_use]
    pub fn rested_long(&self, now: Tick) -> bool {
        self.used.is_some_and(|began| now.since(began) >= LONG_REST)
    }

    /// Sends a request, begun `now`, and waits for the answer's head. The upstream's time starts when the request's body has been
    /// sent: while an upload still flows, its own idle time-out watches the client, but a service that takes none of
    /// what the client has sent is out of time as well.
    ///
    /// # Errors
    /// See [`Missed`]; the line is of no use any more then.
    pub async fn send(
        &mut self,
        request: Request<GateBody>,
        now: Tick,
        mut patience: Patience<'_>,
    ) -> Result<Response<Incoming>, Missed> {
        self.used = Some(now);
        self.timer.restart(patience.first_byte);
        let mut seen = 0;
        // Nothing but the connection, polled just before by the same task, can make it ready: it needs no waker.
        let mut answer = pin!(unconstrained(self.sender.try_send_request(request)));
        poll_fn(|cx| {
            let ended = drive(&mut self.connection, cx);
            if patience.may_switch {
                self.switched = ended.map(Box::new);
            } else {
                drop(ended);
            }
            if let Poll::Ready(answer) = answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return Poll::Ready(answer.map_err(|mut failed| match failed.take_message() {
                    Some(request) => Missed::NeverSent(Box::new(request)),
                    None => Missed::Failed(failed.into_error()),
                }));
            }
            // It has ended without an answer: once it is dropped, hyper says why.
            if self.switched.take().is_some() {
                cx.waker().wake_by_ref();
            }
            if let Some(reason) = patience.upload.and_then(|upload| upload.cut()) {
                return Poll::Ready(Err(Missed::Cut(reason)));
            }
            while self.timer.poll(cx).is_ready() {
                match patience.upload {
                    Some(upload) if upload.waits_for_client() || upload.frames() != seen => seen = upload.frames(),
                    _ => return Poll::Ready(Err(Missed::FirstByte)),
                }
                self.timer.restart(patience.first_byte);
            }
            match &mut patience.total {
                Some(total) => total.as_mut().poll(cx).map(|()| Err(Missed::Total)),
                None => Poll::Pending,
            }
        })
        .await
    }
}

/// Reads and writes as far as possible. What fails is told to whoever waits for the answer or its body. Gives the
/// connection once it has ended.
fn drive(
    connection: &mut Option<Connection<Stream, GateBody>>,
    cx: &mut Context<'_>,
) -> Option<Connection<Stream, GateBody>> {
    let ended = connection.as_mut().is_some_and(|running| Pin::new(running).poll(cx).is_ready());
    if ended { connection.take() } else { None }
}

/// An answer's body, with the line it comes over: given back to its endpoint after the last byte, closed when dropped
/// before.
#[derive(Debug)]
pub struct Flowing {
    body: Incoming,
    line: Option<(Box<Line>, EndpointUse)>,
    /// Tells the call in the request's trace, if it is sampled; ends with the line.
    span: Option<Box<ChildSpan>>,
    broken: Option<hyper::Error>,
}

impl Flowing {
    /// The rest of an answer whose head came over `line`.
    #[must_use]
    pub fn new(body: Incoming, line: Box<Line>, endpoint: EndpointUse, span: Option<Box<ChildSpan>>) -> Self {
        let mut flowing = Self { body, line: Some((line, endpoint)), span, broken: None };
        if flowing.body.is_end_stream() {
            flowing.give_back();
        }
        flowing
    }

    fn give_back(&mut self) {
        self.span = None;
        if let Some((line, endpoint)) = self.line.take() {
            endpoint.give_back(line);
        }
    }
}

impl Body for Flowing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        // First asked for, then read: hyper reads no body that nobody waits for.
        let mut polled = Pin::new(&mut this.body).poll_frame(cx);
        if polled.is_pending()
            && let Some((line, _)) = &mut this.line
        {
            drop(drive(&mut line.connection, cx));
            polled = Pin::new(&mut this.body).poll_frame(cx);
        }
        match polled {
            Poll::Ready(None) => this.give_back(),
            // Nothing follows them, and nobody asks again.
            Poll::Ready(Some(Ok(ref frame))) if frame.is_trailers() => this.give_back(),
            // Told with the next poll, so that what came before it is on its way to the client first.
            Poll::Ready(Some(Err(error))) => {
                told::failed(&mut this.span, Reason::AnswerCut);
                this.span = None;
                this.broken = Some(error);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            _ => {}
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

impl Drop for Flowing {
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            self.give_back();
        } else if let Some(span) = &mut self.span {
            span.cancelled();
        }
    }
}
