//! Where logins wait for each other: of those with one account from one address no more are under way in this gateway
//! than may fail without a wait, nor of those from one address, nor with one device cookie. Who comes later waits for a
//! place in the order of coming, instead of asking the store again and again. What is right is the store's to say, for
//! all gateways; this only keeps honest crowds from it.
//!
//! A line has an end, so that a storm from one address waits in its own lines and not in others' memory. There is a line
//! only while somebody stands in it: as many as there are requests at most.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use crate::store::lockouts::Attempted;

/// Whose logins wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Line {
    /// Those with one account from one address.
    Pair(Attempted, IpAddr),
    /// Those from one address.
    Address(IpAddr),
    /// Those with one device cookie.
    Device(Uuid),
}

/// Every line there is.
#[derive(Debug, Default)]
pub struct Lines {
    all: Mutex<HashMap<Line, Arc<Standing>>>,
}

/// Those who stand in one line.
#[derive(Debug)]
struct Standing {
    front: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// Whoever waits, as long as that lasts.
struct Waiting<'a>(&'a AtomicUsize);

/// A place at the front. Given back when dropped.
#[derive(Debug)]
pub struct Place {
    lines: Arc<Lines>,
    line: Line,
    /// `None` once it was given back.
    permit: Option<OwnedSemaphorePermit>,
}

impl Lines {
    /// Waits for one of `places` at the front of a line. How many there are is said by whoever comes first. `None`: `most`
    /// wait in it already.
    pub async fn enter(self: &Arc<Self>, line: Line, places: u32, most: usize) -> Option<Place> {
        // Made before the wait: whoever gives up leaves nothing behind.
        let mut place = Place { lines: Arc::clone(self), line, permit: None };
        let places = usize::try_from(places).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS);
        let new = || Arc::new(Standing { front: Arc::new(Semaphore::new(places)), waiting: AtomicUsize::new(0) });
        let standing = Arc::clone(self.all().entry(line).or_insert_with(new));
        if let Ok(permit) = Arc::clone(&standing.front).try_acquire_owned() {
            place.permit = Some(permit);
            return Some(place);
        }
        let _waiting = Waiting::among(&standing.waiting, most)?;
        // Never closed.
        place.permit = Arc::clone(&standing.front).acquire_owned().await.ok();
        Some(place)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Line, Arc<Standing>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Waiting<'a> {
    fn among(count: &'a AtomicUsize, most: usize) -> Option<Self> {
        // Counted first, and given back at once where there is no room: two that come together see each other.
        let waiting = Self(count);
        (count.fetch_add(1, Relaxed) < most).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.lines.all();
        drop(self.permit.take());
        // Whoever waits in a line holds it, and whoever is at the front its semaphore; nobody comes in while it is looked at.
        let is_last = |line: &Arc<Standing>| Arc::strong_count(line) == 1 && Arc::strong_count(&line.front) == 1;
        if all.get(&self.line).is_some_and(is_last) {
            all.remove(&self.line);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures_util::poll;

    use super::*;

    const LINE: Line = Line::Device(Uuid::from_u128(1));

    async fn enter(lines: &Arc<Lines>, line: Line, places: u32) -> Place {
        lines.enter(line, places, 10).await.expect("room to wait")
    }

    #[tokio::test]
    async fn a_line_that_is_full_takes_nobody_and_the_one_beside_it_does() {
        let lines = Arc::new(Lines::default());
        let _front = enter(&lines, LINE, 1).await;
        let mut waiting = Box::pin(lines.enter(LINE, 1, 1));
        assert!(poll!(waiting.as_mut()).is_pending());
        assert!(lines.enter(LINE, 1, 1).await.is_none());
        assert!(lines.enter(Line::Device(Uuid::from_u128(2)), 1, 1).await.is_some());
        drop(waiting);
        assert!(poll!(Box::pin(lines.enter(LINE, 1, 1)).as_mut()).is_pending(), "room again");
    }

    #[tokio::test]
    async fn as_many_as_there_are_places_are_at_the_front_and_the_next_in_order() {
        let lines = Arc::new(Lines::default());
        let (one, _two) = (enter(&lines, LINE, 2).await, enter(&lines, LINE, 2).await);
        let (mut third, mut fourth) = (Box::pin(enter(&lines, LINE, 2)), Box::pin(enter(&lines, LINE, 2)));
        assert!(poll!(third.as_mut()).is_pending() && poll!(fourth.as_mut()).is_pending());
        let _other = enter(&lines, Line::Device(Uuid::from_u128(2)), 1).await;
        drop(one);
        assert!(poll!(fourth.as_mut()).is_pending());
        assert!(matches!(poll!(third.as_mut()), Poll::Ready(_)));
    }

    #[tokio::test]
    async fn no_line_is_left_when_everybody_has_gone_whether_served_or_not() {
        let lines = Arc::new(Lines::default());
        let front = enter(&lines, LINE, 1).await;
        let mut waiting = Box::pin(enter(&lines, LINE, 1));
        assert!(poll!(waiting.as_mut()).is_pending());
        drop(front);
        assert_eq!(lines.all().len(), 1);
        drop(waiting);
        assert_eq!(lines.all().len(), 0);
        let front = enter(&lines, LINE, 1).await;
        let mut waiting = Box::pin(enter(&lines, LINE, 1));
        assert!(poll!(waiting.as_mut()).is_pending());
        drop(waiting);
        assert_eq!(lines.all().len(), 1);
        drop(front);
        assert_eq!(lines.all().len(), 0);
    }
}
