//! How long a connection may stay in each phase: one lazily re-armed timer per connection.
//!
//! hyper's `header_read_timeout` cannot be used: it is its keep-alive idle time-out too. Here the connection's task
//! looks at its vitals after each poll. A request on a busy keep-alive connection costs one reading of the clock: the
//! timer stays where it is, fires too early, and is then set to what is left.

use std::{pin::Pin, task::Context, time::Duration};

use tokio::time::Sleep;

use super::vitals::{Phase, Stall, Vitals};
use crate::{
    clock::{Clock, SystemClock, Tick},
    config::settings::ConnectionTimeouts,
};

/// How long the remains of a refused request are discarded, at most.
const LINGER: Duration = Duration::from_secs(2);

/// Frames of HTTP/2 that ask for nothing, as many as may come in [`TALLY_WINDOW`] and between two of use.
const MOST_IDLE: u32 = 1_000;

/// Requests that may be taken back in [`TALLY_WINDOW`].
const MOST_TAKEN_BACK: u32 = 500;

const TALLY_WINDOW: Duration = Duration::from_secs(10);

/// An idle connection that gives its buffers back does so after this long; sooner would cost the busy ones.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// What a connection's task should do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Wait for bytes or the timer.
    Wait,
    /// Give the buffers back.
    Park,
    /// The phase has lasted too long.
    Expired(Phase),
    /// Too many frames ask for nothing.
    Flooded,
}

/// The limits, and the clock they are measured on: the system's, since tokio's timers are.
#[derive(Debug)]
pub(super) struct Limits {
    timeouts: ConnectionTimeouts,
    clock: SystemClock,
}

impl Limits {
    pub(super) fn new(timeouts: ConnectionTimeouts) -> Self {
        Self { timeouts, clock: SystemClock::new() }
    }

    /// The time that quiet connections are measured by.
    pub(super) fn now(&self) -> Tick {
        self.clock.tick()
    }

    fn of(&self, phase: Phase) -> Option<Duration> {
        match phase {
            Phase::Handshake => Some(self.timeouts.tls_handshake),
            Phase::Silent => Some(self.timeouts.first_byte),
            Phase::Head => Some(self.timeouts.header),
            Phase::Idle => Some(self.timeouts.idle),
            Phase::Lingering => Some(LINGER.min(self.timeouts.idle)),
            Phase::Busy => None,
        }
    }

    fn park_after(&self) -> Duration {
        PARK_AFTER.min(self.timeouts.idle / 4)
    }
}

/// A phase of one stretch of a connection: two idle phases around a request are not the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    phase: Phase,
    served: u32,
    stall: Option<Stall>,
}

/// How fast something is counted that wraps.
#[derive(Debug, Default)]
struct Pace {
    counted: u32,
    /// When that was; not read off the clock before there is need.
    since: Option<Tick>,
}

impl Pace {
    /// Whether more than `most` have come within the window, twice: of the first it is not known since when.
    fn is_too_fast(&mut self, count: u32, most: u32, limits: &Limits) -> bool {
        if count.wrapping_sub(self.counted) <= most {
            return false;
        }
        let now = limits.clock.tick();
        let before = std::mem::replace(self, Self { counted: count, since: Some(now) });
        before.since.is_some_and(|since| now.since(since) < TALLY_WINDOW)
    }
}

/// The watch over one connection.
#[derive(Debug)]
pub(super) struct Watch {
    mark: Option<Mark>,
    since: Tick,
    /// The HTTP/2 head that is on its way, and since when: beside the phase, since other streams go on meanwhile.
    head: Option<(u32, Tick)>,
    idle: Pace,
    taken_back: Pace,
    /// Frames of use so far.
    useful: u32,
    timer: Option<Pin<Box<Sleep>>>,
    fires: Tick,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            mark: None,
            since: Tick::from_nanos(0),
            head: None,
            idle: Pace::default(),
            taken_back: Pace::default(),
            useful: 0,
            timer: None,
            fires: Tick::from_nanos(0),
        }
    }

    /// To be called when everything else is pending. `may_park`: there are buffers to give back.
    pub(super) fn check(
        &mut self,
        phase: Phase,
        may_park: bool,
        vitals: &Vitals,
        limits: &Limits,
        cx: &mut Context<'_>,
    ) -> Verdict {
        if self.is_flooded(vitals, limits) {
            return Verdict::Flooded;
        }
        let head_due = self.head_due(vitals, limits);
        // Reading an answer drop by drop does not prolong the next head.
        let stall = vitals.stalled().filter(|_| phase != Phase::Head);
        let mark = Mark { phase, served: vitals.served(), stall };
        if phase == Phase::Busy && stall.is_none() {
            self.mark = Some(mark);
            vitals.quiet(None);
            let over = head_due.and_then(|due| self.wait_until(due, limits, cx));
            return over.map_or(Verdict::Wait, |()| Verdict::Expired(Phase::Head));
        }
        if self.mark != Some(mark) {
            self.mark = Some(mark);
            self.since = limits.clock.tick();
            vitals.quiet(Some(self.since));
        }
        // A client that does not read is as idle as one that does not write.
        let lasts = limits.of(phase).unwrap_or(limits.timeouts.idle);
        let parks = (may_park && phase == Phase::Idle && stall.is_none()).then(|| limits.park_after());
        let due = self.since.plus(parks.unwrap_or(lasts));
        let (due, verdict) = match head_due {
            Some(head_due) if head_due < due => (head_due, Verdict::Expired(Phase::Head)),
            _ if parks.is_some() => (due, Verdict::Park),
            _ => (due, Verdict::Expired(phase)),
        };
        self.wait_until(due, limits, cx).map_or(Verdict::Wait, |()| verdict)
    }

    fn is_flooded(&mut self, vitals: &Vitals, limits: &Limits) -> bool {
        let frames = vitals.frames();
        if frames.useful != self.useful {
            self.useful = frames.useful;
            self.idle = Pace { counted: frames.idle, since: None };
        }
        self.idle.is_too_fast(frames.idle, MOST_IDLE, limits)
            || self.taken_back.is_too_fast(frames.taken_back, MOST_TAKEN_BACK, limits)
    }

    /// When the HTTP/2 head that is on its way must have come.
    fn head_due(&mut self, vitals: &Vitals, limits: &Limits) -> Option<Tick> {
        let half = vitals.half_head();
        if self.head.map(|(stretch, _)| stretch) != half {
            self.head = half.map(|stretch| (stretch, limits.clock.tick()));
        }
        self.head.map(|(_, since)| since.plus(limits.timeouts.header))
    }

    /// `Some` when `due` has come; else the timer will wake the task at `due` or before.
    fn wait_until(&mut self, due: Tick, limits: &Limits, cx: &mut Context<'_>) -> Option<()> {
        if self.fires <= due && self.timer.as_ref().is_some_and(|timer| !timer.is_elapsed()) {
            return None;
        }
        loop {
            let now = limits.clock.tick();
            if now >= due {
                return Some(());
            }
            self.fires = due;
            // A waker polled into the timer once stays: this task is its only user for life.
            let sleep = tokio::time::sleep(due.since(now));
            let timer = match &mut self.timer {
                Some(timer) => {
                    timer.as_mut().reset(sleep.deadline());
                    timer
                }
                None => self.timer.insert(Box::pin(sleep)),
            };
            if timer.as_mut().poll(cx).is_pending() {
                return None;
            }
        }
    }
}
