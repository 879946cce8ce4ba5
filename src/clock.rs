//! Time and randomness: what reads either reads it here.
//!
//! Everything that decides takes `now` as an argument; everything that acts holds an `Arc<dyn Clock>` and an `Arc<dyn
//! Entropy>`, so that a test owns both. The edge alone makes a [`SystemClock`] of its own (`edge/watch.rs`), since its
//! time-outs go by tokio's timers. Waiting (a timer that fires) is tokio's; *reading* a time is ours. `.clippy.toml`
//! bans the direct calls everywhere else; it cannot see into libraries: aws-lc makes keys and signatures with its own
//! generator (`policy/keys.rs`), zxcvbn reads the clock (`policy/password.rs`).

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};
use uuid::Uuid;

/// A moment of civil time: microseconds since 1970-01-01T00:00:00Z, as PostgreSQL's `timestamptz` keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From microseconds since the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// The same, of what every store can keep: the years 1 to 9999.
    #[must_use]
    pub const fn kept(micros: i64) -> Option<Self> {
        if micros >= -62_135_596_800_000_000 && micros < 253_402_300_800_000_000 { Some(Self(micros)) } else { None }
    }

    /// From whole seconds since the Unix epoch (a JWT `NumericDate`).
    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down (a JWT `NumericDate`).
    #[must_use]
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This moment plus a duration; saturates.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// This moment minus a duration; saturates.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// A reading of the monotonic clock: nanoseconds since an arbitrary start in this process. Never persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(u64);

impl Tick {
    /// From nanoseconds since the process's own zero.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the process's own zero.
    #[must_use]
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// This moment plus a duration; saturates.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A duration in the grain of [`Tick`]; saturates, after 584 years.
#[must_use]
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The only reader of time.
pub trait Clock: Send + Sync + 'static {
    /// Civil time, for what is written down or compared with a token. May jump.
    fn now(&self) -> Timestamp;
    /// Monotonic time, for measuring and for limits. Never goes back.
    fn tick(&self) -> Tick;
}

/// A timer that is restarted often and seldom fires: it stays where it is, fires too early, and is then set to what is
/// left, so that a restart costs one reading of the clock and no change to the runtime's timers.
#[derive(Debug, Default)]
pub struct LazyTimer {
    sleep: Option<Pin<Box<Sleep>>>,
    due: Option<Instant>,
}

impl LazyTimer {
    /// Fires in `after` from now, not before.
    #[expect(clippy::disallowed_methods, reason = "the one reader of time")]
    pub fn restart(&mut self, after: Duration) {
        // A wait too long to be told from none: tokio's timers end there too.
        self.due = Instant::now().checked_add(after);
    }

    /// Ready once the time is over; never before the first [`Self::restart`].
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.due else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if sleep.deadline() > due {
            sleep.as_mut().reset(due);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= due {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        }
    }
}

/// Time somebody may keep us waiting: it runs only while we wait, and can be earned back up to what it was.
#[derive(Debug)]
pub struct Allowance {
    most: Duration,
    left: Duration,
    since: Option<Instant>,
    timer: LazyTimer,
}

impl Allowance {
    /// At most, and at first, this much.
    #[must_use]
    pub fn new(most: Duration) -> Self {
        Self { most, left: most, since: None, timer: LazyTimer::default() }
    }

    /// Ready once it is used up. It runs from here on, until [`Self::stop`].
    #[expect(clippy::disallowed_methods, reason = "the one reader of time")]
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.since.is_none() {
            self.since = Some(Instant::now());
            self.timer.restart(self.left);
        }
        self.timer.poll(cx)
    }

    /// The wait is over, and has earned this much back.
    pub fn stop(&mut self, earned: Duration) {
        if let Some(since) = self.since.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
        self.left = self.left.saturating_add(earned).min(self.most);
    }
}

/// The only reader of randomness.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `bytes` with cryptographically secure random bytes.
    fn fill(&self, bytes: &mut [u8]);

    /// A time-ordered unique id (RFC 9562 §5.7, UUID version 7).
    fn uuid_v7(&self, now: Timestamp) -> Uuid {
        let mut random = [0; 10];
        self.fill(&mut random);
        let millis = u64::try_from(now.micros() / 1_000).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }
}

/// The operating system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    zero: std::time::Instant,
}

impl SystemClock {
    /// A clock whose monotonic zero is this call.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one reader of time")]
    pub fn new() -> Self {
        Self { zero: std::time::Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one reader of time")]
    fn now(&self) -> Timestamp {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    }

    #[expect(clippy::disallowed_methods, reason = "the one reader of time")]
    fn tick(&self) -> Tick {
        Tick(nanos(self.zero.elapsed()))
    }
}

/// The operating system's generator, through aws-lc.
///
/// A call of aws-lc's costs over a microsecond however few bytes it is for (it reseeds from the processor each time),
/// and every request asks for two ids: so each thread draws ahead and hands out small pieces, wiping what it gave.
#[derive(Debug, Default)]
pub struct SystemEntropy;

/// Bytes drawn ahead by each thread.
const AHEAD: usize = 1_024;

/// The largest piece handed out of what was drawn ahead.
const SMALL: usize = 64;

/// Bytes drawn ahead; those from `used` on are fresh.
struct Drawn {
    bytes: [u8; AHEAD],
    used: usize,
}

thread_local! {
    static DRAWN: RefCell<Drawn> = const { RefCell::new(Drawn { bytes: [0; AHEAD], used: AHEAD }) };
}

impl Drawn {
    fn give(&mut self, bytes: &mut [u8]) {
        if AHEAD - self.used < bytes.len() {
            draw(&mut self.bytes);
            self.used = 0;
        }
        let piece = &mut self.bytes[self.used..self.used + bytes.len()];
        bytes.copy_from_slice(piece);
        piece.fill(0);
        self.used += bytes.len();
    }
}

fn draw(bytes: &mut [u8]) {
    // aws-lc aborts rather than fails when the kernel has no entropy to give, so there is no error to pass on; were
    // there one, going on with predictable bytes would be worse than stopping.
    #[expect(clippy::expect_used, clippy::disallowed_methods, reason = "the one reader; never go on predictably")]
    aws_lc_rs::rand::fill(bytes).expect("the operating system gives random bytes");
}

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        if bytes.len() > SMALL {
            draw(bytes);
        } else {
            DRAWN.with_borrow_mut(|drawn| drawn.give(bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[tokio::test(start_paused = true)]
    #[expect(clippy::disallowed_methods, reason = "the time that is paused, not the clock")]
    async fn a_restarted_timer_fires_when_it_was_last_told_to() {
        let begun = Instant::now();
        let mut timer = LazyTimer::default();
        timer.restart(Duration::from_secs(3));
        assert!(std::future::poll_fn(|cx| Poll::Ready(timer.poll(cx))).await.is_pending());
        tokio::time::advance(Duration::from_secs(2)).await;
        timer.restart(Duration::from_secs(3));
        std::future::poll_fn(|cx| timer.poll(cx)).await;
        assert_eq!(begun.elapsed().as_secs(), 5);
        timer.restart(Duration::from_secs(1));
        std::future::poll_fn(|cx| timer.poll(cx)).await;
        assert_eq!(begun.elapsed().as_secs(), 6, "an earlier time than the last one counts too");
    }

    #[tokio::test(start_paused = true)]
    async fn an_allowance_runs_while_somebody_waits_and_is_earned_back_up_to_what_it_was() {
        const SECOND: Duration = Duration::from_secs(1);
        let mut allowance = Allowance::new(SECOND * 5);
        let mut waits = async |seconds: u32| {
            let waited = tokio::time::timeout(SECOND * seconds, std::future::poll_fn(|cx| allowance.poll(cx))).await;
            let used_up = waited.is_ok();
            // Time in which nobody waits costs nothing.
            allowance.stop(if seconds == 1 { SECOND * 100 } else { Duration::ZERO });
            tokio::time::advance(SECOND * 60).await;
            used_up
        };
        assert!(!waits(2).await);
        assert!(!waits(2).await);
        assert!(waits(2).await, "five seconds in three waits");
        assert!(waits(2).await, "and nothing is left");
        let mut allowance = Allowance::new(SECOND * 5);
        allowance.stop(SECOND * 100);
        assert!(tokio::time::timeout(SECOND * 6, std::future::poll_fn(|cx| allowance.poll(cx))).await.is_ok());
    }

    #[test]
    fn no_piece_is_given_twice_across_refills() {
        let mut seen = HashSet::new();
        for _ in 0..1_000 {
            let mut piece = [0; 16];
            SystemEntropy.fill(&mut piece);
            assert!(seen.insert(piece));
        }
    }

    #[test]
    fn what_was_given_is_wiped() {
        let mut drawn = Drawn { bytes: [7; AHEAD], used: 0 };
        let mut piece = [0; 32];
        drawn.give(&mut piece);
        assert_eq!((piece, &drawn.bytes[..32], drawn.bytes[32]), ([7; 32], &[0; 32][..], 7));
    }

    #[test]
    fn uuids_made_in_one_millisecond_differ_and_say_their_time() {
        let now = Timestamp::from_seconds(1_800_000_000);
        let (a, b) = (SystemEntropy.uuid_v7(now), SystemEntropy.uuid_v7(now));
        assert_ne!(a, b);
        assert_eq!((a.get_version_num(), a.as_u64_pair().0 >> 16), (7, 1_800_000_000_000));
    }

    #[test]
    fn timestamps_round_down_and_saturate() {
        assert_eq!(Timestamp::from_micros(-1).seconds(), -1);
        assert_eq!(Timestamp::from_micros(i64::MAX).plus(Duration::MAX).micros(), i64::MAX);
        assert_eq!(Timestamp::from_seconds(1).since(Timestamp::from_seconds(2)), Duration::ZERO);
    }
}
