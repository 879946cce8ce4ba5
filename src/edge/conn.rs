//! One client connection from accept to close, as a state machine polled by its own task. After an upgrade it polls the
//! tunnel (`gate/tunnel.rs`) in hyper's place.
//!
//! The rarely used or large states are boxed, so that an idle connection's task stays small; an idle HTTP/1.1
//! connection gives hyper's buffers (two of 8 KiB, and the box of the gate's future) back and waits *parked*, with
//! nothing but its socket, until the next byte comes. New plaintext connections start parked too.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
};
use tokio_rustls::Accept;

use super::{
    Connection, Gate,
    crowd::Place,
    drain::Order,
    listener::Shared,
    service::Adapter,
    vitals::{Phase, Vitals},
    watch::{Verdict, Watch},
    wire::{Transport, Wire},
};
use crate::{
    gate::tunnel::{End, Tunnel},
    telemetry::metrics::{ConnectionError, ConnectionResult},
};

type Http1<S> = http1::Connection<TokioIo<Wire>, Adapter<S>>;
type Http2<S> = http2::Connection<TokioIo<Wire>, Adapter<S>, TokioExecutor>;

/// How a connection ended.
type Outcome = Result<ConnectionResult, ConnectionError>;

enum State<S: Gate> {
    Handshake(Box<Accept<TcpStream>>),
    Parked(Transport, Bytes),
    Http1(Box<Http1<S>>),
    Http2(Pin<Box<Http2<S>>>),
    /// What an upgrade has made of it: minds its own time.
    Tunnel(Box<(Wire, Tunnel)>),
    /// The answer is out; what still comes is discarded, lest the kernel answer it with a reset that takes the
    /// answer away from the client (RFC 9112 §9.6).
    Lingering(Box<Wire>, Outcome),
    Over,
}

/// One client connection.
pub(super) struct Conn<S: Gate> {
    state: State<S>,
    watch: Watch,
    vitals: Arc<Vitals>,
    shared: Arc<Shared>,
    /// Present while hyper does not hold it.
    gate: Option<S>,
    peer: SocketAddr,
    http2: bool,
    registered: bool,
    /// Told to end after the current answers.
    retiring: bool,
    _place: Place,
    _slot: OwnedSemaphorePermit,
}

// Nothing inside is pinned in place.
impl<S: Gate> Unpin for Conn<S> {}

enum Step {
    Waiting,
    Again,
    Done(Outcome),
}

impl<S: Gate> Conn<S> {
    pub(super) fn new(
        stream: TcpStream,
        peer: SocketAddr,
        gate: S,
        shared: Arc<Shared>,
        (place, slot): (Place, OwnedSemaphorePermit),
    ) -> Self {
        let state = if let Some(certificates) = &shared.tls {
            State::Handshake(Box::new(certificates.acceptor().accept(stream)))
        } else {
            shared.metrics.connections_parked.inc();
            State::Parked(Transport::Plain(stream), Bytes::new())
        };
        let vitals = Arc::new(Vitals::default());
        shared.drain.enter(&vitals, place.held());
        shared.metrics.connections_open.inc();
        Self {
            state,
            watch: Watch::new(),
            vitals,
            http2: shared.h2c,
            shared,
            gate: Some(gate),
            peer,
            registered: false,
            retiring: false,
            _place: place,
            _slot: slot,
        }
    }

    /// Moves on as far as possible.
    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        match &mut self.state {
            State::Handshake(accept) => match Pin::new(accept.as_mut()).poll(cx) {
                Poll::Pending => Step::Waiting,
                Poll::Ready(Err(_)) => Step::Done(Err(ConnectionError::Tls)),
                Poll::Ready(Ok(stream)) => {
                    self.http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    // Not parked: rustls may already hold bytes that the socket will not announce.
                    self.start(Transport::Tls(Box::new(stream)), Bytes::new());
                    Step::Again
                }
            },
            State::Parked(transport, kept) => match transport.poll_readable(cx) {
                Poll::Pending => Step::Waiting,
                Poll::Ready(Err(_)) => Step::Done(Err(ConnectionError::Io)),
                Poll::Ready(Ok(false)) if kept.is_empty() => Step::Done(Ok(ConnectionResult::Closed)),
                Poll::Ready(Ok(_)) => {
                    let kept = std::mem::take(kept);
                    if let State::Parked(transport, _) = std::mem::replace(&mut self.state, State::Over) {
                        self.shared.metrics.connections_parked.dec();
                        self.start(transport, kept);
                    }
                    Step::Again
                }
            },
            State::Http1(http) => match Pin::new(http.as_mut()).poll(cx) {
                Poll::Pending => Step::Waiting,
                Poll::Ready(result) => match self.vitals.switched() {
                    Some(tunnel) if result.is_ok() => self.switch(tunnel),
                    _ => self.linger(result, cx),
                },
            },
            State::Http2(http) => match http.as_mut().poll(cx) {
                Poll::Pending => Step::Waiting,
                Poll::Ready(result) => Step::Done(self.outcome(result)),
            },
            State::Tunnel(both) => {
                let (wire, tunnel) = &mut **both;
                match tunnel.poll(wire, cx) {
                    Poll::Pending => Step::Waiting,
                    Poll::Ready(end) => self.leave_tunnel(end, cx),
                }
            }
            State::Lingering(wire, outcome) => {
                let mut discarded = [0; 4096];
                let mut buf = ReadBuf::new(&mut discarded);
                match Pin::new(wire.as_mut()).poll_read(cx, &mut buf) {
                    Poll::Pending => Step::Waiting,
                    Poll::Ready(Ok(())) if !buf.filled().is_empty() => Step::Again,
                    Poll::Ready(_) => Step::Done(*outcome),
                }
            }
            State::Over => Step::Done(Ok(ConnectionResult::Closed)),
        }
    }

    /// Hands the socket to hyper.
    fn start(&mut self, transport: Transport, kept: Bytes) {
        let tls = matches!(transport, Transport::Tls(_));
        let Some(gate) = self.gate.take() else { return };
        let connection = Connection { peer: self.peer, tls };
        let max_headers = self.http2.then_some(self.shared.max_headers);
        let shared = Arc::clone(&self.shared);
        let service = Adapter::new(gate, Arc::clone(&self.vitals), connection, max_headers, shared);
        let vitals = Arc::clone(&self.vitals);
        self.state = if self.http2 {
            let io = TokioIo::new(Wire::http2(transport, vitals));
            State::Http2(Box::pin(self.shared.http2.serve_connection(io, service)))
        } else {
            let io = TokioIo::new(Wire::new(transport, kept, vitals));
            State::Http1(Box::new(self.shared.http1.serve_connection(io, service)))
        };
    }

    /// Takes an idle socket back from hyper and lets the buffers go.
    fn park(&mut self) {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Http1(http) => {
                let parts = http.into_parts();
                let (transport, unread) = parts.io.into_inner().into_parts();
                debug_assert!(unread.is_empty() || parts.read_buf.is_empty(), "kept bytes are read before the socket");
                // A pipelined client may have sent the beginning of its next request. Copied, lest it hold the buffer.
                let kept = Bytes::copy_from_slice(if unread.is_empty() { &parts.read_buf } else { &unread });
                self.gate = Some(parts.service.into_gate());
                self.shared.metrics.connections_parked.inc();
                self.state = State::Parked(transport, kept);
            }
            other => self.state = other,
        }
    }

    /// HTTP/1.1 has ended. Our side of the socket is shut down, by hyper or, in the middle of an answer, here; the
    /// client's may not be.
    fn linger(&mut self, result: hyper::Result<()>, cx: &mut Context<'_>) -> Step {
        let outcome = self.outcome(result);
        match std::mem::replace(&mut self.state, State::Over) {
            State::Http1(http) if !self.vitals.is_gone() => {
                let mut wire = Box::new(http.into_parts().io.into_inner());
                if outcome.is_err() {
                    wire.cut(cx);
                }
                self.state = State::Lingering(wire, outcome);
                Step::Again
            }
            _ => Step::Done(outcome),
        }
    }

    /// hyper has ended with the word that another protocol follows.
    fn switch(&mut self, tunnel: Box<Tunnel>) -> Step {
        if let State::Http1(http) = std::mem::replace(&mut self.state, State::Over) {
            let parts = http.into_parts();
            let (transport, unread) = parts.io.into_inner().into_parts();
            // The client may have sent its first frames with the handshake.
            let kept = [parts.read_buf, unread].concat().into();
            let wire = Wire::new(transport, kept, Arc::clone(&self.vitals));
            // From here on nobody watches; a tunnel is busy as long as it lasts.
            self.vitals.quiet(None);
            self.state = State::Tunnel(Box::new((wire, *tunnel)));
        }
        Step::Again
    }

    /// Closed in order, the client gets to read the last frame.
    fn leave_tunnel(&mut self, end: End, cx: &mut Context<'_>) -> Step {
        let State::Tunnel(both) = std::mem::replace(&mut self.state, State::Over) else { return Step::Again };
        let (mut wire, _) = *both;
        let closed = if self.retiring { ConnectionResult::Retired } else { ConnectionResult::Closed };
        if end == End::Cut || self.vitals.is_gone() {
            wire.cut(cx);
            return Step::Done(Ok(closed));
        }
        let _ = Pin::new(&mut wire).poll_shutdown(cx);
        self.state = State::Lingering(Box::new(wire), Ok(closed));
        Step::Again
    }

    fn outcome(&self, result: hyper::Result<()>) -> Outcome {
        match result {
            Ok(()) if self.retiring => Ok(ConnectionResult::Retired),
            Ok(()) => Ok(ConnectionResult::Closed),
            Err(error) if error.is_parse_too_large() => Err(ConnectionError::TooLarge),
            Err(error) if error.is_user() => Err(ConnectionError::AnswerCut),
            Err(_) if self.vitals.is_gone() => Err(ConnectionError::Io),
            // HTTP/2 has no word of its own for a protocol error; sockets that failed were caught above.
            Err(error) if error.is_parse() || self.http2 => Err(ConnectionError::Parse),
            Err(_) => Err(ConnectionError::Io),
        }
    }

    fn phase(&self) -> Phase {
        match &self.state {
            State::Handshake(_) => Phase::Handshake,
            State::Lingering(..) => Phase::Lingering,
            State::Http2(_) => match self.vitals.h2_phase() {
                Phase::Busy => Phase::Busy,
                // GOAWAY has been sent; a client that does not close is not waited for.
                _ if self.retiring => Phase::Lingering,
                phase => phase,
            },
            State::Parked(..) | State::Http1(_) | State::Tunnel(_) | State::Over => self.vitals.h1_phase(),
        }
    }

    /// Ends after the current answers; at once when there are none.
    fn retire(&mut self) -> Option<Outcome> {
        self.retiring = true;
        let quiet = self.vitals.stalled().is_none() && matches!(self.phase(), Phase::Idle | Phase::Silent);
        match &mut self.state {
            State::Http1(http) if !quiet => Pin::new(http.as_mut()).graceful_shutdown(),
            State::Http2(http) => http.as_mut().graceful_shutdown(),
            State::Lingering(..) | State::Tunnel(_) => {}
            State::Handshake(_) | State::Parked(..) | State::Http1(_) | State::Over => {
                return Some(Ok(ConnectionResult::Retired));
            }
        }
        None
    }

    /// The phase has lasted too long.
    fn expire(&mut self, phase: Phase) -> Option<Outcome> {
        match phase {
            Phase::Handshake => Some(Err(ConnectionError::Tls)),
            Phase::Silent | Phase::Head | Phase::Busy => Some(Err(ConnectionError::Timeout)),
            Phase::Idle if self.vitals.stalled().is_some() => Some(Err(ConnectionError::Timeout)),
            Phase::Idle => self.retire(),
            Phase::Lingering => Some(match &self.state {
                State::Lingering(_, outcome) => *outcome,
                _ => Ok(ConnectionResult::Retired),
            }),
        }
    }

    /// Tells a TLS client that an idle connection ends in order (RFC 8446 §6.1). Not for others: an answer that was
    /// cut must not look whole.
    fn say_goodbye(&mut self, cx: &mut Context<'_>) {
        let mut wire = match std::mem::replace(&mut self.state, State::Over) {
            State::Parked(transport, kept) => {
                self.shared.metrics.connections_parked.dec();
                Wire::new(transport, kept, Arc::clone(&self.vitals))
            }
            State::Http1(http) => http.into_parts().io.into_inner(),
            _ => return,
        };
        // Tried once: an idle socket has room for an alert, and nobody waits for one that has not.
        let _ = Pin::new(&mut wire).poll_shutdown(cx);
    }

    fn run(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        loop {
            // Once is enough until it is used: a spawned task's waker is the same for life. Over HTTP/2 any stream may.
            if !std::mem::replace(&mut self.registered, !self.http2) {
                self.vitals.register(cx.waker());
            }
            match self.shared.drain.order() {
                Order::Serve => {}
                Order::Drain if self.retiring => {}
                Order::Drain => {
                    if let Some(outcome) = self.retire() {
                        return Poll::Ready(outcome);
                    }
                    // The drain's wake-up used the waker; the cut needs another.
                    self.registered = false;
                    continue;
                }
                Order::Cut => {
                    if let State::Tunnel(both) = &mut self.state {
                        let (wire, tunnel) = &mut **both;
                        tunnel.leave(wire, cx);
                    }
                    return Poll::Ready(Ok(ConnectionResult::Cut));
                }
            }
            // Looked at before the step, which would make a request of what has come since.
            if self.vitals.is_to_leave() {
                if self.vitals.leaves() {
                    return Poll::Ready(Ok(ConnectionResult::Evicted));
                }
                // The question used the waker up.
                self.registered = false;
                continue;
            }
            match self.step(cx) {
                Step::Again => continue,
                Step::Done(outcome) => return Poll::Ready(outcome),
                Step::Waiting => {}
            }
            if matches!(self.state, State::Tunnel(_)) {
                return Poll::Pending;
            }
            let may_park = matches!(self.state, State::Http1(_));
            match self.watch.check(self.phase(), may_park, &self.vitals, &self.shared.limits, cx) {
                Verdict::Wait => return Poll::Pending,
                Verdict::Park => self.park(),
                Verdict::Flooded => return Poll::Ready(Err(ConnectionError::Flood)),
                Verdict::Expired(phase) => {
                    if let Some(outcome) = self.expire(phase) {
                        return Poll::Ready(outcome);
                    }
                }
            }
        }
    }
}

impl<S: Gate> Future for Conn<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.run(cx).map(|outcome| {
            if outcome == Ok(ConnectionResult::Retired) {
                self.say_goodbye(cx);
            }
            let metrics = &self.shared.metrics;
            if let Err(error) = outcome {
                tracing::debug!(peer = %self.peer, kind = ?error, "a client connection failed");
                metrics.connection_errors.of(error).inc();
                if let Some(floods) = self.shared.floods.as_ref().filter(|_| is_no_request(error)) {
                    floods.bad_connection(self.peer.ip());
                }
            }
            metrics.connections.of(outcome.unwrap_or(ConnectionResult::Failed)).inc();
        })
    }
}

/// What failed is what the client sent, before it was a request.
fn is_no_request(error: ConnectionError) -> bool {
    matches!(error, ConnectionError::Parse | ConnectionError::TooLarge | ConnectionError::Tls | ConnectionError::Flood)
}

impl<S: Gate> Drop for Conn<S> {
    fn drop(&mut self) {
        self.shared.drain.leave(&self.vitals);
        self.shared.metrics.connections_open.dec();
        if matches!(self.state, State::Parked(..)) {
            self.shared.metrics.connections_parked.dec();
        }
    }
}
