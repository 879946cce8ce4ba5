//! Whose job is next: a queue that is shared out by address. No lock and no clock here; the pool brings both.
//!
//! Each address has a line of its own, and the lines take turns, one job a turn: an address with hundreds of logins
//! waiting is one turn's wait to everybody else. It can also not fill the queue. Its line has an end, and the last
//! quarter of the places is for addresses that have nothing waiting, so that a handful of them cannot shut out the rest
//! either. What nobody waits for stands apart and comes when every line is empty. Nothing that waits is ever put out.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
};

/// Places that only an address with nothing waiting may take: one in so many.
const FOR_NEWCOMERS: usize = 4;

/// Places for jobs that nobody waits for, besides those of the queue: one for so many of them.
const FOR_LATER: usize = 8;

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    /// In all lines together.
    pub(super) all: usize,
    /// In one.
    pub(super) each: usize,
}

/// Why a job was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// There is no place for anybody, or none for somebody who has one already. Jobs before it if it were the last.
    Queue(usize),
    /// Its address has its share. Jobs that are done before the first place in that line is free again.
    Line(usize),
    /// Nobody waits for it, and there is enough to do.
    Later,
}

/// Jobs in the order in which they are to be done.
#[derive(Debug)]
pub(super) struct FairQueue<T> {
    places: Places,
    lines: HashMap<IpAddr, VecDeque<T>>,
    /// Each address with a line, once, in the order of their turns.
    turns: VecDeque<IpAddr>,
    /// In all lines.
    waiting: usize,
    later: VecDeque<T>,
}

impl<T> FairQueue<T> {
    pub(super) fn new(places: Places) -> Self {
        Self { places, lines: HashMap::new(), turns: VecDeque::new(), waiting: 0, later: VecDeque::new() }
    }

    /// Jobs that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting + self.later.len()
    }

    /// Takes a job of an address (already cut to its prefix) at the end of its line, or gives it back.
    pub(super) fn push(&mut self, from: IpAddr, job: T) -> Result<(), (Full, T)> {
        let own = self.lines.get(&from).map_or(0, VecDeque::len);
        if own >= self.places.each {
            // In each round one of its own is done, and one of each other line.
            return Err((Full::Line(self.turns.len()), job));
        }
        let reserved = if own == 0 { 0 } else { self.places.all / FOR_NEWCOMERS };
        if self.waiting + reserved >= self.places.all {
            return Err((Full::Queue(self.waiting), job));
        }
        if own == 0 {
            self.turns.push_back(from);
        }
        self.lines.entry(from).or_default().push_back(job);
        self.waiting += 1;
        Ok(())
    }

    /// Takes a job that nobody waits for, unless half the queue is taken by those who do.
    pub(super) fn push_later(&mut self, job: T) -> Result<(), (Full, T)> {
        let places = (self.places.all / FOR_LATER).max(1);
        if self.waiting > self.places.all / 2 || self.later.len() >= places {
            return Err((Full::Later, job));
        }
        self.later.push_back(job);
        Ok(())
    }

    /// The next job: the first of the line whose turn it is, which then waits for the others.
    pub(super) fn pop(&mut self) -> Option<T> {
        let Some(from) = self.turns.pop_front() else { return self.later.pop_front() };
        let line = self.lines.get_mut(&from)?;
        let job = line.pop_front()?;
        self.waiting -= 1;
        if line.is_empty() {
            // A line is kept for as long as it holds anything: there are never more of them than jobs.
            self.lines.remove(&from);
        } else {
            self.turns.push_back(from);
        }
        Some(job)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn queue(all: usize, each: usize) -> FairQueue<(u8, usize)> {
        FairQueue::new(Places { all, each })
    }

    fn push(queue: &mut FairQueue<(u8, usize)>, from: u8, number: usize) -> Result<(), Full> {
        queue.push(address(from), (from, number)).map_err(|(full, _)| full)
    }

    fn drain(mut queue: FairQueue<(u8, usize)>) -> Vec<(u8, usize)> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn addresses_take_turns_and_each_is_served_in_order() {
        let mut queue = queue(100, 100);
        for number in 0..4 {
            push(&mut queue, 1, number).unwrap();
        }
        push(&mut queue, 2, 0).unwrap();
        push(&mut queue, 3, 0).unwrap();
        push(&mut queue, 3, 1).unwrap();
        assert_eq!(drain(queue), [(1, 0), (2, 0), (3, 0), (1, 1), (3, 1), (1, 2), (1, 3)]);
    }

    #[test]
    fn hundreds_of_one_address_are_one_turn_to_another() {
        let mut queue = queue(1_000, 700);
        for number in 0..700 {
            push(&mut queue, 1, number).unwrap();
        }
        push(&mut queue, 2, 0).unwrap();
        let place = drain(queue).iter().position(|job| *job == (2, 0));
        assert_eq!(place, Some(1));
    }

    #[test]
    fn a_line_has_an_end_and_others_have_theirs() {
        let mut queue = queue(100, 3);
        for number in 0..3 {
            push(&mut queue, 1, number).unwrap();
        }
        assert_eq!(push(&mut queue, 1, 3), Err(Full::Line(1)));
        push(&mut queue, 2, 0).unwrap();
        assert_eq!(push(&mut queue, 1, 3), Err(Full::Line(2)));
        assert_eq!(queue.pop(), Some((1, 0)));
        push(&mut queue, 1, 3).unwrap();
    }

    #[test]
    fn the_last_quarter_is_for_those_who_have_nothing_waiting() {
        let mut queue = queue(8, 8);
        for number in 0..6 {
            push(&mut queue, 1, number).unwrap();
        }
        assert_eq!(push(&mut queue, 1, 6), Err(Full::Queue(6)));
        push(&mut queue, 2, 0).unwrap();
        assert_eq!(push(&mut queue, 2, 1), Err(Full::Queue(7)));
        push(&mut queue, 3, 0).unwrap();
        assert_eq!(push(&mut queue, 4, 0), Err(Full::Queue(8)));
    }

    #[test]
    fn what_nobody_waits_for_comes_last_and_takes_nobodys_place() {
        let mut queue = queue(8, 8);
        queue.push_later((9, 0)).unwrap();
        assert!(matches!(queue.push_later((9, 1)), Err((Full::Later, _))), "one for eight places");
        for from in 0..8 {
            push(&mut queue, from, 0).unwrap();
        }
        assert_eq!(queue.len(), 9);
        let order = drain(queue);
        assert_eq!(order.last(), Some(&(9, 0)));
        let mut busy = self::queue(8, 8);
        for from in 0..5 {
            push(&mut busy, from, 0).unwrap();
        }
        assert!(matches!(busy.push_later((9, 0)), Err((Full::Later, _))), "more than half is taken");
    }

    proptest! {
        /// Whatever comes and goes: nothing is lost or done twice, bounds hold, and nobody waits for more than one job
        /// of each other address before their next.
        #[test]
        fn nothing_is_lost_and_nobody_is_passed_over(
            steps in prop::collection::vec(prop::option::of(0_u8..6), 1..400),
            all in 1_usize..40,
            each in 1_usize..20,
        ) {
            let mut queue = queue(all, each);
            let (mut taken, mut done) = (Vec::new(), Vec::new());
            let mut since: HashMap<u8, Vec<u8>> = HashMap::new();
            for (number, step) in steps.into_iter().enumerate() {
                if let Some(from) = step {
                    if push(&mut queue, from, number).is_ok() {
                        taken.push((from, number));
                        since.entry(from).or_default();
                    }
                } else if let Some((from, number)) = queue.pop() {
                    done.push((from, number));
                    let waits = |of: u8| taken.iter().any(|job| job.0 == of && !done.contains(job));
                    since.remove(&from);
                    if waits(from) {
                        since.insert(from, Vec::new());
                    }
                    for passed in since.values_mut() {
                        prop_assert!(!passed.contains(&from), "somebody had two turns in a round");
                        passed.push(from);
                    }
                    if let Some(own) = since.get_mut(&from) {
                        own.clear();
                    }
                }
                prop_assert!(queue.len() <= all);
                prop_assert!(queue.lines.values().all(|line| !line.is_empty() && line.len() <= each));
                prop_assert_eq!(queue.lines.len(), queue.turns.len());
            }
            done.extend(drain(queue));
            let mut sorted = done;
            sorted.sort_unstable_by_key(|(_, number)| *number);
            prop_assert_eq!(sorted, taken);
        }
    }
}
