//! Bodies under watch: the client's by size, silence and total time; the answer's by silence, total time and what is
//! told at its end. [`Upload`] tells whoever waits for the answer how far the client's body has come.
//!
//! Nothing here buffers: a frame is passed on as it comes, and back-pressure is the reader's. Timers are made only
//! when a body first has to wait, so a small answer that is there at once costs none.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use crate::{
    clock::Allowance,
    config::settings::{RouteTimeouts, UploadRate},
    gate::{
        body::{BodyFault, GateBody},
        caller::Caller,
        finish::Finish,
        open_streams::{Entry, OpenStreams, Tether},
        snapshot::Snapshot,
    },
    policy::{headers, reason::Reason, sse::EventStream},
    telemetry::{metrics::StreamKind, record::Record},
};

/// A time-out between two frames.
#[derive(Debug)]
struct Silence {
    allowed: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl Silence {
    const fn new(allowed: Duration) -> Self {
        Self { allowed, timer: None, running: false }
    }

    fn broken(&mut self) {
        self.running = false;
    }

    /// Called when there is nothing to read: true once that has been so for too long.
    fn too_long(&mut self, cx: &mut Context<'_>) -> bool {
        let timer = match &mut self.timer {
            Some(timer) => {
                if !self.running {
                    timer.set(sleep(self.allowed));
                }
                timer
            }
            none => none.insert(Box::pin(sleep(self.allowed))),
        };
        self.running = true;
        timer.as_mut().poll(cx).is_ready()
    }
}

/// The slowest a body may come in.
#[derive(Debug)]
struct Pace {
    bytes_per_second: u64,
    patience: Allowance,
}

impl Pace {
    fn new(rate: UploadRate) -> Self {
        Self { bytes_per_second: rate.bytes_per_second.get(), patience: Allowance::new(rate.grace) }
    }

    fn came(&mut self, bytes: u64) {
        let nanos = bytes.saturating_mul(1_000_000_000) / self.bytes_per_second.max(1);
        self.patience.stop(Duration::from_nanos(nanos));
    }
}

/// How far a request body has come, for whoever waits for the answer: the upstream's time to answer starts when the
/// body has been sent, however long a large upload takes.
#[derive(Debug, Default)]
pub struct Upload {
    waits: AtomicBool,
    frames: AtomicU64,
    /// Among the open streams, if it is one.
    entry: OnceLock<Arc<Entry>>,
}

impl Upload {
    /// Whether it is the client's turn: more was asked for and has not come.
    #[must_use]
    pub fn waits_for_client(&self) -> bool {
        self.waits.load(Ordering::Acquire)
    }

    /// Frames read so far; grows while the client sends.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Acquire)
    }

    /// Why it must end: its sender has lost the right to it. Nobody may be asking for more of it.
    #[must_use]
    pub fn cut(&self) -> Option<Reason> {
        self.entry.get().and_then(|entry| entry.cut())
    }
}

/// A request body: limited in size, its sender neither silent nor slow for too long. Trailers are dropped.
#[derive(Debug)]
pub struct RequestGuard {
    inner: GateBody,
    left: Option<u64>,
    silence: Silence,
    pace: Option<Pace>,
    total: Option<Pin<Box<Sleep>>>,
    upload: Arc<Upload>,
    record: Arc<Record>,
    tether: Tether,
    streams: Option<Arc<OpenStreams>>,
}

impl RequestGuard {
    /// Watches `inner`; `limit` in bytes, `None`: none. Its sender may be silent for `timeouts.idle`, not be slower than
    /// `timeouts.upload` says, and have done within `timeouts.total`: a body that drips in is cut too.
    #[must_use]
    pub fn new(
        inner: GateBody,
        limit: Option<u64>,
        timeouts: RouteTimeouts,
        upload: Arc<Upload>,
        record: Arc<Record>,
    ) -> Self {
        let total = timeouts.total.map(|total| Box::pin(sleep(total)));
        let pace = timeouts.upload.map(Pace::new);
        let silence = Silence::new(timeouts.idle);
        let (tether, streams) = (Tether::Loose, None);
        Self { inner, left: limit, silence, pace, total, upload, record, tether, streams }
    }

    /// It ends with its caller's right to it.
    #[must_use]
    pub fn tied(self, caller: Arc<Caller>, streams: &Arc<OpenStreams>) -> Self {
        Self { tether: Tether::of(Some(caller)), streams: Some(Arc::clone(streams)), ..self }
    }

    /// Called when there is nothing to read.
    fn has_lost_its_right(&mut self, cx: &mut Context<'_>) -> Option<Reason> {
        let streams = self.streams.as_ref()?;
        let lost = self.tether.waits(StreamKind::Upload, streams, cx);
        self.publish();
        lost
    }

    fn publish(&self) {
        if let Some(entry) = self.tether.entry()
            && self.upload.entry.get().is_none()
        {
            let _ = self.upload.entry.set(Arc::clone(entry));
        }
    }

    /// Called when there is nothing to read.
    fn too_slow(&mut self, cx: &mut Context<'_>) -> bool {
        self.silence.too_long(cx) || self.pace.as_mut().is_some_and(|pace| pace.patience.poll(cx).is_ready())
    }

    fn cut(&mut self, reason: Reason) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        // What is left is not read; the connection is closed after the answer.
        self.inner = GateBody::Empty;
        self.tether = Tether::Loose;
        self.upload.waits.store(false, Ordering::Release);
        Poll::Ready(Some(Err(BodyFault::Cut(reason))))
    }
}

impl Body for RequestGuard {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = self.get_mut();
        if this.total.as_mut().is_some_and(|total| total.as_mut().poll(cx).is_ready()) {
            return this.cut(Reason::BodyTimeout);
        }
        if let Some(lost) = this.tether.cut() {
            return this.cut(lost);
        }
        loop {
            let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(Some(Err(_))) => return this.cut(Reason::BodyBroken),
                Poll::Ready(None) => {
                    this.tether = Tether::Loose;
                    this.upload.waits.store(false, Ordering::Release);
                    return Poll::Ready(None);
                }
                Poll::Pending if this.too_slow(cx) => return this.cut(Reason::BodyTimeout),
                Poll::Pending => {
                    if let Some(lost) = this.has_lost_its_right(cx) {
                        return this.cut(lost);
                    }
                    this.upload.waits.store(true, Ordering::Release);
                    return Poll::Pending;
                }
            };
            this.upload.waits.store(false, Ordering::Release);
            this.silence.broken();
            let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
            if let Some(pace) = &mut this.pace {
                pace.came(bytes);
            }
            if !frame.is_data() {
                continue;
            }
            this.record.add_received(bytes);
            this.upload.frames.fetch_add(1, Ordering::Release);
            if let Some(streams) = &this.streams {
                this.tether.flows(StreamKind::Upload, streams);
                this.publish();
            }
            if let Some(left) = &mut this.left {
                match left.checked_sub(bytes) {
                    Some(rest) => *left = rest,
                    None => return this.cut(Reason::BodyTooLarge),
                }
            }
            return Poll::Ready(Some(Ok(frame)));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// An answer's body: the upstream not silent for too long, the exchange within its total time, and its end told.
#[derive(Debug)]
pub struct ResponseGuard {
    inner: GateBody,
    silence: Option<Silence>,
    total: Option<Pin<Box<Sleep>>>,
    finish: Option<Finish>,
    ended: bool,
    /// Says what no trailer may say; `None`: the body is ours and has none.
    snapshot: Option<Arc<Snapshot>>,
    tether: Tether,
    /// Of an event stream that can be given a last event.
    events: Option<EventStream>,
}

impl ResponseGuard {
    /// Watches an upstream's body; its trailers may not say what is ours to say by `snapshot`.
    #[must_use]
    pub fn of_upstream(
        inner: GateBody,
        idle: Duration,
        total: Option<Pin<Box<Sleep>>>,
        snapshot: Arc<Snapshot>,
    ) -> Self {
        let silence = Some(Silence::new(idle));
        let (tether, events) = (Tether::Loose, None);
        Self { inner, silence, total, finish: None, ended: false, snapshot: Some(snapshot), tether, events }
    }

    /// It ends with its caller's right to it: an event stream with a last event, any other cut off.
    #[must_use]
    pub fn tied(mut self, caller: Option<Arc<Caller>>, is_events: bool) -> Self {
        self.tether = Tether::of(caller);
        self.events = is_events.then(EventStream::default);
        self
    }

    /// Watches a body made here: it cannot fall silent.
    #[must_use]
    pub fn of_ours(inner: GateBody) -> Self {
        let (tether, events) = (Tether::Loose, None);
        Self { inner, silence: None, total: None, finish: None, ended: false, snapshot: None, tether, events }
    }

    /// Tells `finish` when the body has been sent or dropped. An answer to `HEAD` is whole with its head.
    pub fn tell(&mut self, finish: Finish, head_only: bool) {
        self.finish = Some(finish);
        self.ended |= head_only;
    }

    /// A piece is passed on. With the last one an answer is over, and is not entered.
    fn passes(&mut self, data: &Bytes) {
        if let Some(finish) = &mut self.finish {
            finish.sent(data.len() as u64);
        }
        if let Some(events) = &mut self.events {
            events.came(data);
        }
        if let Some(snapshot) = &self.snapshot
            && !self.inner.is_end_stream()
        {
            self.tether.flows(StreamKind::Stream, &snapshot.open_streams);
        }
    }

    fn cut(&mut self, reason: Reason) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        if let Some(finish) = &mut self.finish {
            finish.cut(reason);
        }
        self.ended = true;
        self.tether = Tether::Loose;
        // Dropping the upstream's body closes its connection: nobody will read the rest.
        self.inner = GateBody::Empty;
        Poll::Ready(Some(Err(BodyFault::Cut(reason))))
    }

    /// The right to it is gone.
    fn take_away(&mut self, reason: Reason) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let Some(events) = self.events.take() else { return self.cut(reason) };
        let last = Bytes::from(events.ending(reason.as_str()));
        if let Some(finish) = &mut self.finish {
            finish.cut(reason);
            finish.sent(last.len() as u64);
        }
        self.tether = Tether::Loose;
        self.ended = true;
        self.inner = GateBody::Empty;
        Poll::Ready(Some(Ok(Frame::data(last))))
    }

    /// Called when there is nothing to read.
    fn has_lost_its_right(&mut self, cx: &mut Context<'_>) -> Option<Reason> {
        self.tether.waits(StreamKind::Stream, &self.snapshot.as_ref()?.open_streams, cx)
    }

    fn out_of_time(&mut self, cx: &mut Context<'_>) -> bool {
        let silent = self.silence.as_mut().is_some_and(|silence| silence.too_long(cx));
        silent || self.total.as_mut().is_some_and(|total| total.as_mut().poll(cx).is_ready())
    }
}

impl Body for ResponseGuard {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = self.get_mut();
        // A busy stream is held to its total time too, not only a silent one.
        if this.total.as_mut().is_some_and(|total| total.as_mut().poll(cx).is_ready()) {
            return this.cut(Reason::TotalTimeout);
        }
        if let Some(lost) = this.tether.cut() {
            return this.take_away(lost);
        }
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        if polled.is_pending() && this.out_of_time(cx) {
            return this.cut(Reason::AnswerCut);
        }
        if polled.is_pending()
            && let Some(lost) = this.has_lost_its_right(cx)
        {
            return this.take_away(lost);
        }
        match ready!(polled) {
            Some(Ok(mut frame)) => {
                if let Some(silence) = &mut this.silence {
                    silence.broken();
                }
                if let Some(data) = frame.data_ref() {
                    this.passes(data);
                }
                if let Some(trailers) = frame.trailers_mut() {
                    this.ended = true;
                    match &this.snapshot {
                        Some(snapshot) => headers::strip_trailers(trailers, &snapshot.ours()),
                        None => trailers.clear(),
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(BodyFault::Cut(reason))) => this.cut(reason),
            Some(Err(BodyFault::Connection(_))) => this.cut(Reason::AnswerCut),
            None => {
                this.ended = true;
                this.tether = Tether::Loose;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for ResponseGuard {
    fn drop(&mut self) {
        let whole = self.ended || self.inner.is_end_stream();
        if let Some(finish) = &mut self.finish
            && !whole
        {
            finish.cut(Reason::ClientGone);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use futures_util::{StreamExt, stream};
    use http_body_util::{BodyExt, StreamBody};

    use super::*;
    use crate::clock::Tick;

    const SECOND: Duration = Duration::from_secs(1);

    /// A body of which `bytes` come after each `pause`, at most ten bytes a second too slow for five seconds.
    fn body(bytes: usize, pause: Duration, pieces: usize) -> RequestGuard {
        let piece = move |_| async move {
            sleep(pause).await;
            Ok(Frame::data(Bytes::from(vec![b'x'; bytes])))
        };
        let inner = GateBody::boxed(StreamBody::new(stream::iter(0..pieces).then(piece)));
        let rate = NonZeroU64::new(10).map(|bytes_per_second| UploadRate { bytes_per_second, grace: SECOND * 5 });
        let timeouts =
            RouteTimeouts { first_byte: SECOND, idle: SECOND * 60, tunnel_idle: SECOND, total: None, upload: rate };
        let id = http::HeaderValue::from_static("test");
        let record = Record::new(id, [1; 16], Tick::from_nanos(0), (http::Method::POST, http::Version::HTTP_11), None);
        RequestGuard::new(inner, None, timeouts, Arc::default(), Arc::new(record))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_in_is_cut_however_seldom_it_is_silent() {
        let mut guard = body(1, SECOND, 1_000);
        let mut pieces = 0;
        let cut = loop {
            match guard.frame().await.expect("it does not end") {
                Ok(_) => pieces += 1,
                Err(cut) => break cut,
            }
        };
        // Nine tenths of each second are lost.
        assert_eq!(pieces, 5);
        assert!(matches!(cut, BodyFault::Cut(Reason::BodyTimeout)), "{cut}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_at_its_pace_comes_through_and_so_does_a_short_pause() {
        assert!(body(11, SECOND, 100).collect().await.is_ok());
        assert!(body(100, SECOND * 4, 100).collect().await.is_ok());
        assert!(body(1_000_000, SECOND * 6, 100).collect().await.is_err(), "a head start buys no long pause");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_reader_takes_its_time_for_is_not_the_senders_fault() {
        let mut guard = body(1, Duration::ZERO, 20);
        while let Some(frame) = guard.frame().await {
            frame.expect("it is not cut");
            sleep(SECOND * 30).await;
        }
    }
}
