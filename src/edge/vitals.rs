//! What one connection's parts tell its watch: a handful of relaxed atomics behind one `Arc`.
//!
//! The wire sees bytes but not messages, the service sees messages but not bytes. Both write here; the connection's
//! task reads after each poll. HTTP/2 bodies live in tasks of their own; whatever they change, hyper wakes the
//! connection afterwards.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
};

use futures_util::task::AtomicWaker;

use super::frames::Tally;
use crate::{
    clock::Tick,
    gate::{body::BodyWatch, tunnel::Tunnel},
};

/// The shared state of one connection.
#[derive(Debug, Default)]
pub(super) struct Vitals {
    /// Answers and request bodies that are not over.
    open: AtomicU32,
    /// Requests handed to the gate; wraps.
    served: AtomicU32,
    /// Bytes have been read at all.
    spoke: AtomicBool,
    /// Bytes have been read between requests: a head has begun.
    typing: AtomicBool,
    /// The last write could not go on.
    blocked: AtomicBool,
    /// Writes that went on; wraps.
    progress: AtomicU32,
    /// Answers on HTTP/2 streams that wait for the client to grant them window, not for their upstream.
    held: AtomicU32,
    /// Times such a wait has ended; wraps.
    released: AtomicU32,
    /// HTTP/2: the preface, a frame or a header block has begun and is not whole.
    half: AtomicBool,
    /// Which of them it is; wraps.
    stretch: AtomicU32,
    /// HTTP/2: frames by what they are good for; each wraps. See [`Tally`].
    idle: AtomicU32,
    useful: AtomicU32,
    taken_back: AtomicU32,
    /// The client closed its side or the socket failed.
    gone: AtomicBool,
    /// Nanoseconds of the tick since which nothing is asked for, or nothing taken, and one; 0: it is not quiet.
    quiet: AtomicU64,
    /// Its place is needed.
    leave: AtomicBool,
    waker: AtomicWaker,
    /// What the connection is to become once the last answer is out.
    tunnel: Mutex<Option<Box<Tunnel>>>,
}

/// Where a connection stands between its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// In the TLS handshake.
    Handshake,
    /// Nothing read yet.
    Silent,
    /// A head has begun and is not whole.
    Head,
    /// A request is being answered or its body read.
    Busy,
    /// Between requests.
    Idle,
    /// The last answer is out and we discard what the client still sends, so that it can read that answer.
    Lingering,
}

/// A client that takes nothing, and how much it had taken before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stall {
    /// The socket takes no bytes; the writes so far.
    Socket(u32),
    /// No stream has window (RFC 9113 §5.2); the waits for it that have ended so far. Socket writes do not count:
    /// a client may send PINGs for ever.
    Streams(u32),
}

/// One request's answer, not over until dropped.
#[derive(Debug)]
pub(super) struct Pending(Arc<Vitals>);

impl Pending {
    pub(super) fn vitals(&self) -> &Vitals {
        &self.0
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.over();
    }
}

impl BodyWatch for Vitals {
    fn over(&self) {
        self.open.fetch_sub(1, Relaxed);
    }
}

impl Vitals {
    /// The wire read some bytes. The beginning of a pipelined request that comes with an earlier one's bytes is not
    /// noticed; if nothing follows it, the idle time-out ends it.
    pub(super) fn read(&self) {
        if self.open.load(Relaxed) == 0 {
            self.typing.store(true, Relaxed);
        }
        self.spoke.store(true, Relaxed);
    }

    /// The wire has seen what is on its way of HTTP/2's frames; see [`super::frames::Frames::under_way`].
    pub(super) fn under_way(&self, stretch: Option<u32>) {
        self.half.store(stretch.is_some(), Relaxed);
        self.stretch.store(stretch.unwrap_or_default(), Relaxed);
    }

    /// The wire has seen these of HTTP/2's frames.
    pub(super) fn came(&self, frames: Tally) {
        self.idle.store(frames.idle, Relaxed);
        self.useful.store(frames.useful, Relaxed);
        self.taken_back.store(frames.taken_back, Relaxed);
    }

    /// HTTP/2's frames so far. Of use are those of answers too: who takes one may say PING after each piece of it.
    pub(super) fn frames(&self) -> Tally {
        Tally {
            idle: self.idle.load(Relaxed),
            useful: self.useful.load(Relaxed).wrapping_add(self.released.load(Relaxed)),
            taken_back: self.taken_back.load(Relaxed),
        }
    }

    /// The HTTP/2 head that has begun and is not whole, whatever else goes on.
    pub(super) fn half_head(&self) -> Option<u32> {
        self.half.load(Relaxed).then(|| self.stretch.load(Relaxed))
    }

    /// The wire wrote some bytes.
    pub(super) fn wrote(&self) {
        // One writer only, so no read-modify-write is needed.
        self.progress.store(self.progress.load(Relaxed).wrapping_add(1), Relaxed);
        self.blocked.store(false, Relaxed);
    }

    /// The wire could not write.
    pub(super) fn blocked(&self) {
        self.blocked.store(true, Relaxed);
    }

    /// The wire saw the end of the client's bytes, or an error.
    pub(super) fn gone(&self) {
        self.gone.store(true, Relaxed);
    }

    /// A head is whole and goes to the gate.
    pub(super) fn called(self: &Arc<Self>) -> Pending {
        self.typing.store(false, Relaxed);
        self.served.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
        Pending(Arc::clone(self))
    }

    /// The request has a body, over when the gate has dropped it.
    pub(super) fn body(self: &Arc<Self>) -> Arc<dyn BodyWatch> {
        self.open.fetch_add(1, Relaxed);
        Arc::<Self>::clone(self)
    }

    /// After this answer the connection is a tunnel. Busy from here to its end: no time-out between requests is meant.
    pub(super) fn switch(&self, tunnel: Box<Tunnel>) {
        self.open.fetch_add(1, Relaxed);
        *self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
    }

    /// What the connection becomes, now that hyper has ended.
    pub(super) fn switched(&self) -> Option<Box<Tunnel>> {
        self.tunnel.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Since when the client neither asks for anything nor takes any of its answer; `None`: it does one or the other.
    pub(super) fn quiet(&self, since: Option<Tick>) {
        self.quiet.store(since.map_or(0, |since| since.nanos().saturating_add(1)), Relaxed);
    }

    /// See [`Self::quiet`].
    pub(super) fn quiet_since(&self) -> Option<Tick> {
        self.quiet.load(Relaxed).checked_sub(1).map(Tick::from_nanos)
    }

    /// Whether a request is being answered or its body read.
    pub(super) fn is_busy(&self) -> bool {
        self.open.load(Relaxed) > 0
    }

    /// The listener is full: it should go, unless it has become busy meanwhile.
    pub(super) fn ask_to_leave(&self) {
        self.leave.store(true, Relaxed);
        self.waker.wake();
    }

    /// Whether it was asked to.
    pub(super) fn is_to_leave(&self) -> bool {
        self.leave.load(Relaxed)
    }

    /// Answers [`Self::ask_to_leave`], once: whether it is as quiet as it was when it was asked.
    pub(super) fn leaves(&self) -> bool {
        self.leave.swap(false, Relaxed) && self.quiet_since().is_some()
    }

    /// Whether the client's end of the socket is known to be closed.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Relaxed)
    }

    /// Requests handed to the gate; wraps.
    pub(super) fn served(&self) -> u32 {
        self.served.load(Relaxed)
    }

    /// An answer on a stream waits for the client. The first one wakes the connection's task: with no window nothing
    /// else would, and nobody would watch how long it lasts.
    pub(super) fn hold(&self) {
        if self.held.fetch_add(1, Relaxed) == 0 {
            self.waker.wake();
        }
    }

    /// It waits no longer.
    pub(super) fn release(&self) {
        self.released.fetch_add(1, Relaxed);
        self.held.fetch_sub(1, Relaxed);
    }

    /// Whether the client leaves us waiting to write.
    pub(super) fn stalled(&self) -> Option<Stall> {
        if self.blocked.load(Relaxed) {
            Some(Stall::Socket(self.progress.load(Relaxed)))
        } else if self.held.load(Relaxed) > 0 {
            Some(Stall::Streams(self.released.load(Relaxed)))
        } else {
            None
        }
    }

    /// Where an HTTP/1.1 connection stands.
    pub(super) fn h1_phase(&self) -> Phase {
        if self.open.load(Relaxed) > 0 {
            Phase::Busy
        } else if self.typing.load(Relaxed) {
            Phase::Head
        } else if self.spoke.load(Relaxed) {
            Phase::Idle
        } else {
            Phase::Silent
        }
    }

    /// Where an HTTP/2 connection stands; its bytes may be frames that begin no request. Its heads are no phase of
    /// their own, since other streams go on meanwhile: see [`Self::half_head`].
    pub(super) fn h2_phase(&self) -> Phase {
        match self.h1_phase() {
            Phase::Head => Phase::Idle,
            phase => phase,
        }
    }

    /// Remembers whom to wake when the listener drains.
    pub(super) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Wakes the connection's task.
    pub(super) fn wake(&self) {
        self.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_busy_until_both_its_answer_and_its_body_are_over() {
        let vitals = Arc::new(Vitals::default());
        assert_eq!(vitals.h1_phase(), Phase::Silent);
        vitals.read();
        assert_eq!(vitals.h1_phase(), Phase::Head);
        let answer = vitals.called();
        let body = vitals.body();
        assert_eq!(vitals.h1_phase(), Phase::Busy);
        drop(answer);
        assert_eq!(vitals.h1_phase(), Phase::Busy);
        body.over();
        assert_eq!(vitals.h1_phase(), Phase::Idle);
    }

    #[test]
    fn bytes_of_a_running_request_begin_no_head() {
        let vitals = Arc::new(Vitals::default());
        vitals.read();
        let answer = vitals.called();
        vitals.read();
        drop(answer);
        assert_eq!(vitals.h1_phase(), Phase::Idle);
    }

    #[test]
    fn frames_between_http2_streams_begin_no_head() {
        let vitals = Arc::new(Vitals::default());
        vitals.read();
        assert_eq!(vitals.h2_phase(), Phase::Idle);
    }

    #[test]
    fn pings_do_not_count_as_taking_an_answer() {
        let vitals = Vitals::default();
        vitals.hold();
        vitals.wrote();
        assert_eq!(vitals.stalled(), Some(Stall::Streams(0)));
        vitals.hold();
        vitals.release();
        assert_eq!(vitals.stalled(), Some(Stall::Streams(1)));
        vitals.release();
        assert_eq!(vitals.stalled(), None);
    }

    #[test]
    fn a_write_that_goes_on_ends_the_stall() {
        let vitals = Vitals::default();
        vitals.blocked();
        assert_eq!(vitals.stalled(), Some(Stall::Socket(0)));
        vitals.wrote();
        assert_eq!(vitals.stalled(), None);
        vitals.blocked();
        assert_eq!(vitals.stalled(), Some(Stall::Socket(1)));
    }
}
