//! Upstream connections that the task of the exchange drives itself: no task and no channel of their own.
//!
//! The gateway's `upstream::line` does the same, with time-outs, retries by rule and broken bodies told apart.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1::{Connection, SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::unconstrained};

use crate::{Failure, connect};

/// Idle connections to one upstream.
#[derive(Debug, Clone)]
pub struct Pool {
    port: u16,
    #[expect(clippy::vec_box, reason = "a line moves for each request, and it is large")]
    idle: Arc<Mutex<Vec<Box<Line>>>>,
}

impl Pool {
    /// For the upstream on this port of 127.0.0.1.
    pub fn new(port: u16) -> Self {
        Self { port, idle: Arc::default() }
    }

    /// Sends a request over an idle connection or, if there is none, a new one.
    pub async fn send(&self, mut request: Request<Incoming>) -> Result<Response<Answer>, Failure> {
        loop {
            let (mut line, fresh) = match self.take() {
                Some(line) => (line, false),
                None => (Box::new(Line::open(self.port).await?), true),
            };
            match line.send(request).await {
                Ok(response) => return Ok(response.map(|body| Answer::new(body, line, self.clone()))),
                // The upstream had closed it before a byte was written.
                Err(Missed::NeverSent(back)) if !fresh => request = *back,
                Err(Missed::NeverSent(_)) => return Err("the upstream closed a new connection".into()),
                Err(Missed::Failed(error)) => return Err(error.into()),
            }
        }
    }

    fn take(&self) -> Option<Box<Line>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn give_back(&self, mut line: Box<Line>) {
        if line.rests() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    }
}

/// One connection: hyper's handle, and its future that reads and writes.
#[derive(Debug)]
struct Line {
    sender: SendRequest<Incoming>,
    /// Dropped as soon as it has ended: hyper hands back a request that still waits in it only then.
    connection: Option<Connection<TokioIo<TcpStream>, Incoming>>,
}

/// Why there is no answer.
enum Missed {
    NeverSent(Box<Request<Incoming>>),
    Failed(hyper::Error),
}

impl Line {
    async fn open(port: u16) -> Result<Self, Failure> {
        let (sender, connection) = handshake(connect(port).await?).await?;
        Ok(Self { sender, connection: Some(connection) })
    }

    /// Whether another request could be sent.
    fn rests(&mut self) -> bool {
        // Outside the task's budget: a busy task must not cost its connection.
        let driven = pin!(unconstrained(poll_fn(|cx| {
            drive(&mut self.connection, cx);
            Poll::Ready(())
        })));
        let _ = driven.poll(&mut Context::from_waker(Waker::noop()));
        self.connection.is_some() && self.sender.is_ready()
    }

    async fn send(&mut self, request: Request<Incoming>) -> Result<Response<Incoming>, Missed> {
        // Only the connection can make it ready, and that is polled just before: it needs no waker and no budget.
        let mut answer = pin!(unconstrained(self.sender.try_send_request(request)));
        poll_fn(|cx| {
            drive(&mut self.connection, cx);
            answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        })
        .await
        .map_err(|mut failed| match failed.take_message() {
            Some(request) => Missed::NeverSent(Box::new(request)),
            None => Missed::Failed(failed.into_error()),
        })
    }
}

/// Reads and writes as far as possible. What fails is told to whoever waits for the answer or its body.
fn drive(connection: &mut Option<Connection<TokioIo<TcpStream>, Incoming>>, cx: &mut Context<'_>) {
    if connection.as_mut().is_some_and(|open| Pin::new(open).poll(cx).is_ready()) {
        *connection = None;
    }
}

/// An answer's body with the connection it comes over: back to the pool after the last byte, closed if dropped before.
#[derive(Debug)]
pub struct Answer {
    body: Incoming,
    line: Option<(Box<Line>, Pool)>,
}

impl Answer {
    fn new(body: Incoming, line: Box<Line>, pool: Pool) -> Self {
        Self { body, line: Some((line, pool)) }
    }

    fn give_back(&mut self) {
        if let Some((line, pool)) = self.line.take() {
            pool.give_back(line);
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        // First asked for, then read: hyper reads no body that nobody waits for.
        let mut polled = Pin::new(&mut this.body).poll_frame(cx);
        if polled.is_pending()
            && let Some((line, _)) = &mut this.line
        {
            drive(&mut line.connection, cx);
            polled = Pin::new(&mut this.body).poll_frame(cx);
        }
        if matches!(polled, Poll::Ready(None)) {
            this.give_back();
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

impl Drop for Answer {
    fn drop(&mut self) {
        // hyper drops a body of known length after its last byte without asking for the end.
        if self.body.is_end_stream() {
            self.give_back();
        }
    }
}
