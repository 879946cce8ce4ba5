//! Who holds how many connections, and which of them go when a new one finds no place.
//!
//! An address has its share and no more. When the listener is full all the same, those leave that have begun no request
//! or await none, or take nothing of their answers: first of the address that holds most, then those that have been
//! quiet longest. So a client that opens many, or opens them and says nothing, makes room for those who ask for
//! something. Memory is a number for each address that is connected.

use std::{
    cmp::Reverse,
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use super::vitals::Vitals;
use crate::clock::Tick;

/// A connection that has been quiet for less is between two requests, or has just come.
const QUIET: Duration = Duration::from_secs(1);

/// Whoever leaves an answer lying for less may be on a bad line.
const STALLED: Duration = Duration::from_secs(5);

/// At most so many leave at once: finding them is a look at every connection.
const AT_ONCE: usize = 32;

/// The addresses that are connected.
#[derive(Debug)]
pub(super) struct Crowd {
    most: Option<NonZeroU32>,
    held: Mutex<HashMap<IpAddr, Arc<AtomicU32>>>,
    /// For those who are not counted.
    nobody: Arc<AtomicU32>,
}

/// The place of one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Arc<Crowd>,
    /// `None`: not counted.
    address: Option<IpAddr>,
    /// Connections of its address.
    held: Arc<AtomicU32>,
}

impl Crowd {
    /// An address may hold `most`.
    pub(super) fn new(most: Option<NonZeroU32>) -> Self {
        Self { most, held: Mutex::default(), nobody: Arc::default() }
    }

    /// A place for a connection of this address, unless it holds as many as it may. `None`: of an address that may hold
    /// all.
    pub(super) fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Option<Place> {
        let Some(key) = address else {
            return Some(Place { crowd: Arc::clone(self), address, held: Arc::clone(&self.nobody) });
        };
        let mut all = self.lock();
        let held = all.entry(key).or_default();
        // Read and written under the lock; an atomic only for those who look at it from outside.
        let before = held.load(Relaxed);
        if self.most.is_some_and(|most| before >= most.get()) {
            return None;
        }
        held.store(before + 1, Relaxed);
        Some(Place { crowd: Arc::clone(self), address, held: Arc::clone(held) })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<AtomicU32>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Connections of its address; none when they are not counted.
    pub(super) fn held(&self) -> &Arc<AtomicU32> {
        &self.held
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(address) = self.address else { return };
        let mut all = self.crowd.lock();
        let left = self.held.load(Relaxed).saturating_sub(1);
        self.held.store(left, Relaxed);
        if left == 0 {
            all.remove(&address);
        }
    }
}

/// A live connection as it is looked at from outside.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) vitals: Arc<Vitals>,
    pub(super) held: Arc<AtomicU32>,
}

impl Live {
    /// What goes first is the greatest; `None`: it stays.
    fn rank(&self, now: Tick) -> Option<(bool, u32, Reverse<Tick>)> {
        let since = self.vitals.quiet_since()?;
        let busy = self.vitals.is_busy();
        let quiet = if busy { STALLED } else { QUIET };
        (since.plus(quiet) <= now).then(|| (!busy, self.held.load(Relaxed), Reverse(since)))
    }
}

/// Asks some of these to leave: few, so that a flood costs honest idle clients little, and not one at a time.
pub(super) fn thin_out<'a>(live: impl Iterator<Item = &'a Live>, now: Tick) {
    let mut seen = 0_usize;
    let quiet = live.inspect(|_| seen += 1).filter_map(|one| Some((one.rank(now)?, &one.vitals)));
    let mut quiet: Vec<_> = quiet.collect();
    let leaving = (seen / 8).clamp(1, AT_ONCE).min(quiet.len());
    if leaving == 0 {
        return;
    }
    quiet.select_nth_unstable_by_key(leaving - 1, |(rank, _)| Reverse(*rank));
    quiet[..leaving].iter().for_each(|(_, vitals)| vitals.ask_to_leave());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn at(seconds: u64) -> Tick {
        Tick::from_nanos(seconds * 1_000_000_000)
    }

    fn crowd(most: u32) -> Arc<Crowd> {
        Arc::new(Crowd::new(NonZeroU32::new(most)))
    }

    #[test]
    fn an_address_has_its_share_and_gets_it_back() {
        let crowd = crowd(2);
        let first = crowd.enter(Some(ip(1))).unwrap();
        let _second = crowd.enter(Some(ip(1))).unwrap();
        assert!(crowd.enter(Some(ip(1))).is_none());
        assert!(crowd.enter(Some(ip(2))).is_some(), "another's is another's");
        drop(first);
        assert!(crowd.enter(Some(ip(1))).is_some());
    }

    #[test]
    fn nothing_is_kept_of_an_address_that_has_gone() {
        let crowd = crowd(2);
        let places: Vec<_> = (0..200).map(|last| crowd.enter(Some(ip(last))).unwrap()).collect();
        assert_eq!(crowd.lock().len(), 200);
        drop(places);
        assert!(crowd.lock().is_empty());
    }

    #[test]
    fn who_is_not_counted_has_no_limit() {
        let crowd = crowd(1);
        let places: Vec<_> = (0..9).map(|_| crowd.enter(None).unwrap()).collect();
        assert_eq!(places[0].held().load(Relaxed), 0);
    }

    fn live(quiet_since: Option<u64>, held: u32) -> Live {
        let vitals = Arc::new(Vitals::default());
        vitals.quiet(quiet_since.map(at));
        Live { vitals, held: Arc::new(AtomicU32::new(held)) }
    }

    /// Who is asked to leave at second 100, by number.
    fn leaving(all: &[Live]) -> Vec<usize> {
        thin_out(all.iter(), at(100));
        (0..all.len()).filter(|nth| all[*nth].vitals.is_to_leave()).collect()
    }

    #[test]
    fn the_quietest_of_the_address_that_holds_most_leaves() {
        assert_eq!(leaving(&[live(Some(1), 2), live(Some(90), 9), live(Some(80), 9), live(None, 9)]), [2]);
        assert_eq!(leaving(&[live(Some(50), 1), live(Some(40), 1), live(Some(60), 1)]), [1]);
    }

    #[test]
    fn who_is_busy_or_has_just_fallen_quiet_stays() {
        let answered = live(Some(10), 5);
        let _pending = answered.vitals.called();
        answered.vitals.quiet(None);
        assert_eq!(leaving(&[live(Some(100), 5), live(None, 5), answered]), [0_usize; 0]);
    }

    #[test]
    fn who_takes_nothing_of_an_answer_leaves_when_nobody_else_can() {
        let stalled = || {
            let live = live(Some(50), 9);
            let pending = live.vitals.called();
            (live, pending)
        };
        let ((alone, _one), (last, _other)) = (stalled(), stalled());
        assert_eq!(leaving(&[alone, live(None, 1)]), [0]);
        assert_eq!(leaving(&[last, live(Some(90), 1)]), [1]);
    }

    #[test]
    fn of_many_an_eighth_leaves_and_never_more_than_a_few() {
        let all: Vec<_> = (0..80).map(|nth| live(Some(nth), 1)).collect();
        assert_eq!(leaving(&all), (0..10).collect::<Vec<_>>());
        let all: Vec<_> = (0..10_000).map(|nth| live(Some(nth % 90), 1)).collect();
        assert_eq!(leaving(&all).len(), AT_ONCE);
    }
}
