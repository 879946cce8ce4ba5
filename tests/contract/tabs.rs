//! The refresh protocol against bad networks and thieves: several tabs share one cookie jar, requests are lost, come
//! twice and late, answers are lost and overtake each other. Whoever keeps to the rules of docs/sessions.md is never
//! logged out, and every replay outside the grace ends the session.
//!
//! Properties over the real store and the real rules; time is the model's own. The model is a queue of events in the
//! order of their times, nothing in it runs at once.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use portcullis::{
    clock::Timestamp,
    policy::ids::SessionId,
    store::{AuditEvent, RefreshOutcome},
};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};
use tokio::runtime::Runtime;

use crate::fixture::{Fixture, NOW, RULES};

/// How long a request may live in the network after it was sent, milliseconds; then it has arrived or never will.
const LONGEST_WAY: u64 = 5_000;
/// When a client gives up waiting for an answer. One that comes later is not looked at, nor is its cookie.
const GIVES_UP: u64 = 5_000;

/// Cases on each engine.
const ON_SQLITE: u32 = 96;
const ON_POSTGRES: u32 = 32;

/// What becomes of one try to refresh.
#[derive(Debug, Clone)]
struct Try {
    /// Copies of the request that arrive (none: it was lost; several: a proxy sent it again), each after so long, with the
    /// way back of its answer, if that is not lost.
    copies: Vec<(u64, Option<u64>)>,
    /// After its answer, until the access token in it is used; `None`: never.
    used_after: Option<u64>,
    /// After giving up, until the next try.
    again_after: u64,
}

/// A tab that wants a fresh access token, so long after the one before.
#[derive(Debug, Clone)]
struct Wish {
    tab: usize,
    gap: u64,
}

fn gap() -> impl Strategy<Value = u64> {
    // Close together, around the bounds, and a night.
    prop_oneof![4 => 0..400_u64, 3 => 400..12_000_u64, 2 => Just(LONGEST_WAY), 2 => Just(900_000), 1 => Just(30_000_000)]
}

fn a_try() -> impl Strategy<Value = Try> {
    let back = prop_oneof![3 => (0..9_000_u64).prop_map(Some), 1 => Just(None)];
    let copy = (prop_oneof![2 => 0..300_u64, 1 => 0..=LONGEST_WAY], back);
    (vec(copy, 0..4), proptest::option::weighted(0.8, 0..2_000_u64), gap())
        .prop_map(|(copies, used_after, again_after)| Try { copies, used_after, again_after })
}

fn run() -> impl Strategy<Value = (Vec<Wish>, Vec<Try>)> {
    (vec((0..4_usize, gap()).prop_map(|(tab, gap)| Wish { tab, gap }), 1..20), vec(a_try(), 1..24))
}

/// What happens, in the order of times and then of causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Wished { tab: usize },
    Arrived { tab: usize, try_number: usize, token: u64, back: Option<u64> },
    Answered { tab: usize, try_number: usize, token: u64 },
    GivenUp { tab: usize, try_number: usize },
    Used { generation: u64 },
}

/// The browser: tabs with one jar, and what they know in common.
struct Browser {
    /// The refresh token's counter in the jar.
    jar: u64,
    /// When an answer was last taken.
    answered_at: Option<u64>,
    /// The try each tab waits for, and when it was sent.
    waits: [Option<(usize, u64)>; 4],
}

struct Model<'a> {
    on: &'a Fixture,
    session: SessionId,
    tries: Vec<Try>,
    browser: Browser,
    events: BinaryHeap<Reverse<(u64, usize, Event)>>,
    happened: usize,
    sent: usize,
    /// How long tabs leave each other alone after an answer.
    apart: u64,
}

fn at(millis: u64) -> Timestamp {
    NOW.plus(Duration::from_millis(millis))
}

impl<'a> Model<'a> {
    fn new(on: &'a Fixture, session: SessionId, wishes: &[Wish], tries: Vec<Try>) -> Self {
        let browser = Browser { jar: 1, answered_at: None, waits: [None; 4] };
        let mut model =
            Self { on, session, tries, browser, events: BinaryHeap::new(), happened: 0, sent: 0, apart: LONGEST_WAY };
        let mut time = 1;
        for wish in wishes {
            time += wish.gap;
            model.put(time, Event::Wished { tab: wish.tab });
        }
        model
    }

    fn put(&mut self, time: u64, event: Event) {
        self.happened += 1;
        self.events.push(Reverse((time, self.happened, event)));
    }

    fn a_try(&self, number: usize) -> Try {
        // When the faults are used up, the network is a good one.
        let good = || Try { copies: vec![(10, Some(10))], used_after: Some(5), again_after: 0 };
        self.tries.get(number).cloned().unwrap_or_else(good)
    }

    /// Until nothing more happens.
    async fn play(mut self) -> Result<(), TestCaseError> {
        while let Some(Reverse((now, _, event))) = self.events.pop() {
            match event {
                Event::Wished { tab } => self.wish(now, tab),
                Event::Arrived { tab, try_number, token, back } => {
                    let outcome = self.on.refresh(self.session, token, at(now)).await;
                    let RefreshOutcome::Granted { session, .. } = outcome else {
                        return Err(TestCaseError::fail(format!("an honest tab showed {token} and got {outcome:?}")));
                    };
                    prop_assert!(session.counter <= token + 1);
                    if let Some(back) = back {
                        self.put(now + back, Event::Answered { tab, try_number, token: session.counter });
                    }
                }
                Event::Answered { tab, try_number, token } => self.answer(now, tab, try_number, token)?,
                Event::GivenUp { tab, try_number } => {
                    if self.browser.waits[tab].is_some_and(|(waiting, _)| waiting == try_number) {
                        self.browser.waits[tab] = None;
                        self.put(now + self.a_try(try_number).again_after, Event::Wished { tab });
                    }
                }
                Event::Used { generation } => self.on.used(self.session, generation, at(now)).await,
            }
        }
        Ok(())
    }

    /// A tab sends what is in the jar, unless it is waiting already, or another has just got what it wants.
    fn wish(&mut self, now: u64, tab: usize) {
        let fresh = self.browser.answered_at.is_some_and(|answered| now < answered + self.apart);
        if fresh || self.browser.waits[tab].is_some() {
            return;
        }
        let (try_number, token) = (self.sent, self.browser.jar);
        self.sent += 1;
        self.browser.waits[tab] = Some((try_number, now));
        for (way, back) in self.a_try(try_number).copies {
            self.put(now + way, Event::Arrived { tab, try_number, token, back });
        }
        self.put(now + GIVES_UP, Event::GivenUp { tab, try_number });
    }

    fn answer(&mut self, now: u64, tab: usize, try_number: usize, token: u64) -> Result<(), TestCaseError> {
        // A second answer, or one to a try that was given up: nobody takes it.
        if self.browser.waits[tab].is_none_or(|(waiting, _)| waiting != try_number) {
            return Ok(());
        }
        self.browser.waits[tab] = None;
        prop_assert!(token >= self.browser.jar, "an older answer put {token} over {}", self.browser.jar);
        self.browser.jar = token;
        self.browser.answered_at = Some(now);
        if let Some(after) = self.a_try(try_number).used_after {
            self.put(now + after, Event::Used { generation: token });
        }
        Ok(())
    }
}

fn runner(cases: u32) -> TestRunner {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

/// One account; a session of its own for each case.
struct Stage {
    runtime: Runtime,
    on: Fixture,
    user: portcullis::policy::ids::UserId,
}

impl Stage {
    fn new(fixture: impl Future<Output = Fixture>) -> Self {
        let runtime = Runtime::new().unwrap();
        let (on, user) = runtime.block_on(async {
            let on = fixture.await;
            let (account, _) = on.registered("ann@example.com").await;
            (on, account.id)
        });
        Self { runtime, on, user }
    }

    fn honest(&self, cases: u32) {
        let outcome = runner(cases).run(&run(), |(wishes, tries)| {
            self.runtime.block_on(async {
                let session = self.on.logged_in(self.user, NOW).await;
                Model::new(&self.on, session, &wishes, tries).play().await?;
                let session = self.on.store.session(session).await.unwrap().unwrap();
                prop_assert_eq!(session.ended_at, None);
                Ok(())
            })
        });
        outcome.unwrap();
    }

    fn thieves(&self, cases: u32) {
        let outcome = runner(cases).run(&theft(), |theft| self.runtime.block_on(self.steal(&theft)));
        outcome.unwrap();
    }

    /// The owner goes on refreshing; then somebody shows a token that is not the newest.
    async fn steal(&self, theft: &Theft) -> Result<(), TestCaseError> {
        let id = self.on.logged_in(self.user, NOW).await;
        let mut now = 0;
        for (token, (gap, lost, used)) in (1..).zip(&theft.refreshes) {
            now += gap;
            self.on.refresh(id, token, at(now)).await;
            if *lost {
                now += 20_000;
                self.on.refresh(id, token, at(now)).await;
            }
            if *used {
                self.on.used(id, token + 1, at(now)).await;
            }
        }
        let before = self.on.store.session(id).await.unwrap().unwrap();
        let shown = 1 + theft.shown.index(theft.refreshes.len()) as u64;
        let at = before.handed_out_at.plus(Duration::from_millis(theft.later));
        let outcome = self.on.refresh(id, shown, at).await;
        let unknown = before.seen_generation < before.counter || theft.later <= 10_000;
        if shown + 1 == before.counter && unknown {
            // It may be the owner who lost an answer: the same successor, and never a second one beside it.
            let RefreshOutcome::Granted { session, repeated: true, .. } = outcome else { panic!("{outcome:?}") };
            prop_assert_eq!((session.counter, session.ended_at), (before.counter, None));
            return Ok(());
        }
        prop_assert_eq!(outcome, RefreshOutcome::Reused { user: self.user });
        prop_assert_eq!(self.on.store.session(id).await.unwrap().unwrap().ended_at, Some(at));
        for token in 1..=before.counter + 1 {
            prop_assert_eq!(self.on.refresh(id, token, at).await, RefreshOutcome::Refused);
        }
        let rows = self.on.store.audit_of(self.user, 100_000).await.unwrap();
        let kills = rows.iter().filter(|row| row.session == Some(id) && row.event == AuditEvent::RefreshReuseDetected);
        prop_assert_eq!(kills.count(), 1);
        Ok(())
    }
}

#[derive(Debug, Clone)]
struct Theft {
    /// The owner's refreshes: after so long, whether the first answer was lost, whether the new token was then used.
    refreshes: Vec<(u64, bool, bool)>,
    /// Which token is shown.
    shown: prop::sample::Index,
    /// So long after the newest was handed out.
    later: u64,
}

fn theft() -> impl Strategy<Value = Theft> {
    let refreshes = vec((gap(), any::<bool>(), proptest::bool::weighted(0.8)), 1..6);
    let later = prop_oneof![0..10_000_u64, Just(10_000), Just(10_001), 10_001..600_000_u64];
    (refreshes, any::<prop::sample::Index>(), later).prop_map(|(refreshes, shown, later)| Theft {
        refreshes,
        shown,
        later,
    })
}

#[test]
fn no_honest_tab_is_ever_logged_out_on_sqlite() {
    Stage::new(Fixture::sqlite()).honest(ON_SQLITE);
}

#[test]
fn no_honest_tab_is_ever_logged_out_on_postgres() {
    Stage::new(Fixture::postgres()).honest(ON_POSTGRES);
}

#[test]
fn every_replay_outside_the_grace_ends_the_session_on_sqlite() {
    Stage::new(Fixture::sqlite()).thieves(ON_SQLITE);
}

#[test]
fn every_replay_outside_the_grace_ends_the_session_on_postgres() {
    Stage::new(Fixture::postgres()).thieves(ON_POSTGRES);
}

/// What the rules are for: tabs that do not leave each other alone lose, at the latest when an answer of one overtakes
/// another's. Were it not so, the model would be too kind to prove anything.
#[test]
fn tabs_that_keep_to_no_rule_are_sometimes_logged_out() {
    let stage = Stage::new(Fixture::sqlite());
    let outcome = runner(2_000).run(&run(), |(wishes, tries)| {
        stage.runtime.block_on(async {
            let session = stage.on.logged_in(stage.user, NOW).await;
            let mut model = Model::new(&stage.on, session, &wishes, tries);
            model.apart = 0;
            model.play().await
        })
    });
    assert!(outcome.is_err(), "nobody was");
}

/// A laptop that fell asleep on an answer: when it wakes, its tabs refresh at once. The first to be answered uses its
/// token before the request of the other arrives.
async fn tabs_that_wake_together_after_a_lost_answer_all_stay(on: Fixture) {
    let (_, id) = on.registered("ann@example.com").await;
    on.refresh(id, 1, at(0)).await;
    let woken = 3_600_000;
    on.refresh(id, 1, at(woken)).await;
    on.used(id, 2, at(woken + 100)).await;
    let second = on.refresh(id, 1, at(woken + 300)).await;
    assert!(matches!(second, RefreshOutcome::Granted { repeated: true, .. }), "{second:?}");
    assert_eq!(RULES.grace, Duration::from_secs(10));
    assert!(matches!(on.refresh(id, 1, at(woken + 10_001)).await, RefreshOutcome::Reused { .. }));
}

on_both_engines! {
    tabs_that_wake_together_after_a_lost_answer_all_stay,
}
