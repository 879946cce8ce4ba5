//! What a client's connection becomes after an upgrade: bytes copied both ways, until either side ends it, nothing
//! moves for too long, or the caller loses the right to it.
//!
//! It has no task of its own: whoever serves the client's connection polls it. Each way holds what one read gave and
//! the other side has not taken, no more, and nothing while nothing moves; until it is taken nothing more is read.
//! WebSocket frames (RFC 6455 §5.2) are followed both ways, never changed: so it is known whether a close frame was
//! exchanged, and where a last one may be put.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use crate::{
    clock::LazyTimer,
    gate::{
        caller::Caller,
        finish::Finish,
        open_streams::{Open, OpenStreams},
    },
    policy::{
        reason::Reason,
        websocket::{CloseCode, Frames, close_frame},
    },
    telemetry::{metrics::StreamKind, record::Record},
};

/// The most that is read at once, and held.
const PIECE: usize = 16 * 1024;

/// How long the other side may take to end what the first has ended, and a client to take a goodbye.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Any byte stream.
pub trait Io: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Io for T {}

/// How a tunnel has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Everything was passed on, or a goodbye was said: the client's side may be closed in order.
    Orderly,
    /// In the middle of something.
    Cut,
}

/// A connection to a service that has switched protocols, and what is minded of it.
pub struct Tunnel {
    service: Box<dyn Io>,
    down: Way,
    up: Way,
    idle: LazyTimer,
    idle_after: Duration,
    total: Option<Pin<Box<Sleep>>>,
    open: Option<Open>,
    finish: Option<Finish>,
    record: Arc<Record>,
    stage: Stage,
    /// Its end is noted.
    over: bool,
}

/// Where a tunnel is in its life.
#[derive(Debug)]
enum Stage {
    Flows,
    /// One side has ended: the other has a moment to.
    Ending(LazyTimer),
    /// Nothing but this is still said to the client.
    Goodbye(Vec<u8>, LazyTimer),
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").field("stage", &self.stage).finish_non_exhaustive()
    }
}

/// How long a tunnel may last.
#[derive(Debug)]
pub struct Lasts {
    /// With nothing moving.
    pub idle: Duration,
    /// In all, the handshake included.
    pub total: Option<Pin<Box<Sleep>>>,
}

impl Tunnel {
    /// To `service`. `caller`: whose right it rests on.
    #[must_use]
    pub fn new(
        service: Box<dyn Io>,
        lasts: Lasts,
        caller: Option<Arc<Caller>>,
        streams: &Arc<OpenStreams>,
        record: Arc<Record>,
    ) -> Self {
        let mut idle = LazyTimer::default();
        idle.restart(lasts.idle);
        Self {
            service,
            down: Way::default(),
            up: Way::default(),
            idle,
            idle_after: lasts.idle,
            total: lasts.total,
            open: caller.map(|caller| streams.enter(caller, StreamKind::Tunnel)),
            finish: None,
            record,
            stage: Stage::Flows,
            over: false,
        }
    }

    /// Tells `finish` when it has ended.
    pub(in crate::gate) fn tell(&mut self, finish: Finish) {
        self.finish = Some(finish);
    }

    /// Copies between the service and `client`, as far as possible.
    pub fn poll(&mut self, client: &mut (impl AsyncRead + AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<End> {
        if !matches!(self.stage, Stage::Goodbye(..)) {
            if let Some(why) = self.out_of_right_or_time(cx) {
                self.say_goodbye(why);
            } else if let Poll::Ready(end) = self.copy(client, cx) {
                return Poll::Ready(end);
            } else if self.idle.poll(cx).is_ready() {
                self.say_goodbye(Reason::AnswerCut);
            }
        }
        let Stage::Goodbye(words, timer) = &mut self.stage else { return Poll::Pending };
        if words.is_empty() || timer.poll(cx).is_ready() {
            return Poll::Ready(End::Cut);
        }
        while !words.is_empty() {
            let Ok(taken) = ready!(Pin::new(&mut *client).poll_write(cx, words)) else { return Poll::Ready(End::Cut) };
            words.drain(..taken);
        }
        let flushed = ready!(Pin::new(client).poll_flush(cx));
        Poll::Ready(if flushed.is_ok() { End::Orderly } else { End::Cut })
    }

    /// The client's connection is about to be cut: tells it so, if it takes a last frame at once.
    pub fn leave(&mut self, client: &mut (impl AsyncRead + AsyncWrite + Unpin), cx: &mut Context<'_>) {
        if !matches!(self.stage, Stage::Goodbye(..)) {
            self.say_goodbye(Reason::AnswerCut);
        }
        let _ = self.poll(client, cx);
    }

    fn out_of_right_or_time(&mut self, cx: &mut Context<'_>) -> Option<Reason> {
        let lost = self.open.as_ref().and_then(|open| open.poll_cut(cx));
        lost.or_else(|| {
            let late = self.total.as_mut().is_some_and(|total| total.as_mut().poll(cx).is_ready());
            late.then_some(Reason::TotalTimeout)
        })
    }

    fn copy(&mut self, client: &mut (impl AsyncRead + AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<End> {
        let down = self.down.copy(&mut *self.service, client, cx);
        let up = self.up.copy(client, &mut *self.service, cx);
        let (sent, received) = (std::mem::take(&mut self.down.moved), std::mem::take(&mut self.up.moved));
        if sent + received > 0 {
            self.idle.restart(self.idle_after);
            self.record.add_received(received);
            if let Some(finish) = &mut self.finish {
                finish.sent(sent);
            }
        }
        // Whoever ends first without a close frame has broken off.
        let closed = self.down.frames.closed() || self.up.frames.closed();
        match (down, up) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => {
                let failed = (self.down.failed, self.up.failed);
                let client_went = self.up.ended || failed.0 == Some(Side::Writer) || failed.1 == Some(Side::Reader);
                self.note(closed, if client_went { Reason::ClientGone } else { Reason::AnswerCut });
                return Poll::Ready(End::Cut);
            }
            (Poll::Ready(Ok(())), _) => {
                // The service will say no more, and the client has all of it.
                self.note(closed, if self.up.ended { Reason::ClientGone } else { Reason::AnswerCut });
                return Poll::Ready(if self.down.frames.between() { End::Orderly } else { End::Cut });
            }
            (Poll::Pending, Poll::Ready(Ok(()))) => {
                if let Stage::Flows = self.stage {
                    self.note(closed, Reason::ClientGone);
                    let mut timer = LazyTimer::default();
                    timer.restart(LAST_WORDS);
                    self.stage = Stage::Ending(timer);
                }
            }
            (Poll::Pending, Poll::Pending) => {}
        }
        match &mut self.stage {
            Stage::Ending(timer) => timer.poll(cx).map(|()| End::Orderly),
            Stage::Flows | Stage::Goodbye(..) => Poll::Pending,
        }
    }

    /// Its end, as it will be told; the first one stands.
    fn note(&mut self, closed: bool, reason: Reason) {
        self.over = true;
        if !closed && let Some(finish) = &mut self.finish {
            finish.cut(reason);
        }
    }

    /// From now on nothing is copied. What has begun is finished, if all of it is here; then a close frame follows, if none
    /// has.
    fn say_goodbye(&mut self, why: Reason) {
        self.note(false, why);
        let held = self.down.held();
        let mut words = Vec::new();
        if let Some(rest) = self.down.frames.rest(held).filter(|_| !self.down.frames.closed()) {
            let code = match why {
                Reason::SessionEnded | Reason::StreamExpired | Reason::RoleMissing => CloseCode::PolicyViolation,
                _ => CloseCode::GoingAway,
            };
            words.extend_from_slice(&held[..rest]);
            words.extend(close_frame(code, why.as_str()));
        }
        self.open = None;
        let mut timer = LazyTimer::default();
        timer.restart(LAST_WORDS / 2);
        self.stage = Stage::Goodbye(words, timer);
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // Nobody polls it any more: the client's connection has failed.
        if !self.over {
            self.note(false, Reason::ClientGone);
        }
    }
}

/// A side of one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Reader,
    Writer,
}

/// One way through a tunnel.
#[derive(Debug, Default)]
struct Way {
    /// Read, and from `taken` on not taken by the other side.
    piece: Vec<u8>,
    taken: usize,
    /// Written to the other side, since somebody last counted.
    moved: u64,
    unflushed: bool,
    /// The reading side has ended.
    ended: bool,
    /// So the writing side has been ended.
    shut: bool,
    /// Which side of it has failed.
    failed: Option<Side>,
    /// What was written.
    frames: Frames,
}

impl Way {
    fn checked<T>(&mut self, side: Side, done: io::Result<T>) -> io::Result<T> {
        if done.is_err() {
            self.failed = Some(side);
        }
        done
    }

    fn held(&self) -> &[u8] {
        &self.piece[self.taken..]
    }

    /// Ready when the reader has ended and the writer has all of it, its own end included.
    fn copy<R, W>(&mut self, reader: &mut R, writer: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin + ?Sized,
        W: AsyncWrite + Unpin + ?Sized,
    {
        loop {
            while self.taken < self.piece.len() {
                let polled = ready!(Pin::new(&mut *writer).poll_write(cx, &self.piece[self.taken..]));
                self.wrote_held(polled)?;
            }
            // Idle tunnels hold nothing.
            (self.piece, self.taken) = (Vec::new(), 0);
            if self.ended {
                if !self.shut {
                    let shut = ready!(Pin::new(writer).poll_shutdown(cx));
                    self.checked(Side::Writer, shut)?;
                    self.shut = true;
                }
                return Poll::Ready(Ok(()));
            }
            let mut space = [MaybeUninit::uninit(); PIECE];
            let mut read = ReadBuf::uninit(&mut space);
            match Pin::new(&mut *reader).poll_read(cx, &mut read) {
                Poll::Pending => {
                    if self.unflushed {
                        let flushed = ready!(Pin::new(writer).poll_flush(cx));
                        self.checked(Side::Writer, flushed)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(self.checked(Side::Reader, Err(error))),
                Poll::Ready(Ok(())) => self.came(read.filled(), writer, cx)?,
            }
        }
    }

    fn came(
        &mut self,
        bytes: &[u8],
        writer: &mut (impl AsyncWrite + Unpin + ?Sized),
        cx: &mut Context<'_>,
    ) -> io::Result<()> {
        if bytes.is_empty() {
            self.ended = true;
            return Ok(());
        }
        let taken = match Pin::new(writer).poll_write(cx, bytes) {
            Poll::Pending => 0,
            Poll::Ready(written) => self.checked(Side::Writer, written)?,
        };
        self.passed(&bytes[..taken]);
        if taken < bytes.len() {
            bytes[taken..].clone_into(&mut self.piece);
        }
        Ok(())
    }

    fn wrote_held(&mut self, written: io::Result<usize>) -> io::Result<()> {
        let written = written.and_then(|some| if some == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(some) });
        let written = self.checked(Side::Writer, written)?;
        let piece = std::mem::take(&mut self.piece);
        self.passed(&piece[self.taken..self.taken + written]);
        (self.piece, self.taken) = (piece, self.taken + written);
        Ok(())
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.frames.came(bytes);
        self.moved += bytes.len() as u64;
        self.unflushed |= !bytes.is_empty();
    }
}
