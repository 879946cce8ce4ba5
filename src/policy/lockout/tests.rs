//! The ladders by their numbers, and what guesses side by side cannot do.

use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const HOLD: Duration = Duration::from_mins(1);

fn count(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

fn minutes(number: u64) -> Duration {
    Duration::from_mins(number)
}

fn pair() -> PairRules {
    PairRules { free: count(5), waits: [1, 2, 4, 8, 15].map(minutes).to_vec() }
}

fn account() -> AccountRules {
    AccountRules {
        slow_after: count(20),
        slow_by: Duration::from_secs(1),
        slow_most: Duration::from_secs(30),
        hard_stop: count(100),
        forget_after: minutes(90 * 24 * 60),
    }
}

fn address() -> AddressRules {
    let rung = |(accounts, wait)| Rung { accounts: count(accounts), wait: minutes(wait) };
    AddressRules {
        window: minutes(1_440),
        ladder: [(7, 1), (10, 10), (15, 15), (20, 60), (25, 1_440)].map(rung).to_vec(),
    }
}

fn failed(failures: u64) -> Tally {
    Tally { failures, last: NOW, ..Tally::NONE }
}

#[test]
fn five_failures_are_free_and_then_each_doubles_the_wait_up_to_a_quarter_of_an_hour() {
    let waits: Vec<_> = (0..12).map(|failures| pair().wait(failures).as_secs() / 60).collect();
    assert_eq!(waits, [0, 0, 0, 0, 0, 1, 2, 4, 8, 15, 15, 15]);
    assert_eq!(pair().judge(&failed(4), NOW), Verdict::Admit);
    assert_eq!(pair().judge(&failed(5), NOW), Verdict::Wait(Counter::Pair, NOW.plus(minutes(1))));
    assert_eq!(pair().judge(&failed(5), NOW.plus(minutes(1))), Verdict::Admit);
    assert_eq!(PairRules { waits: Vec::new(), ..pair() }.judge(&failed(50), NOW), Verdict::Admit);
}

#[test]
fn an_account_is_slowed_down_by_no_more_than_half_a_minute_and_stopped_at_a_hundred() {
    let waits: Vec<_> = [0, 19, 20, 21, 48, 49, 50, 99].map(|failures| account().wait(failures).as_secs()).to_vec();
    assert_eq!(waits, [0, 0, 1, 2, 29, 30, 30, 30]);
    assert_eq!(account().judge(&failed(99), NOW.plus(Duration::from_secs(30))), Verdict::Admit);
    assert_eq!(account().judge(&failed(100), NOW.plus(minutes(1_000_000))), Verdict::Stopped);
}

#[test]
fn a_hard_stop_is_not_forgotten_and_what_led_nowhere_is() {
    let later = NOW.plus(account().forget_after).plus(Duration::from_secs(1));
    assert_eq!(account().remembered(failed(99), later).failures, 0);
    assert_eq!(account().remembered(failed(100), later).failures, 100);
    assert_eq!(account().remembered(failed(99), NOW).failures, 99);
}

#[test]
fn the_ladder_of_an_address_counts_accounts() {
    let waits: Vec<_> =
        [0, 6, 7, 9, 10, 14, 15, 19, 20, 24, 25, 400].map(|n| address().wait(n).as_secs() / 60).to_vec();
    assert_eq!(waits, [0, 0, 1, 1, 10, 10, 15, 15, 60, 60, 1_440, 1_440]);
    let until = NOW.plus(minutes(1));
    assert_eq!(address().judge(&failed(7), until, true, NOW), Verdict::Wait(Counter::Address, until));
    assert_eq!(address().judge(&failed(7), until, false, until), Verdict::Admit);
    let none = AddressRules { ladder: Vec::new(), ..address() };
    let busy = Tally { pending: 1_000, ..Tally::NONE };
    assert_eq!(none.judge(&busy, NOW, false, NOW), Verdict::Admit);
}

#[test]
fn a_device_cookie_is_void_at_ten_failures_and_never_waits() {
    let rules = DeviceRules { failures: count(10) };
    assert_eq!(rules.judge(&failed(9), NOW), Some(Verdict::Admit));
    assert_eq!(rules.judge(&failed(10), NOW), None);
}

#[test]
fn what_nobody_told_the_end_of_has_failed() {
    let tally = Tally::NONE.reserved(NOW, HOLD).reserved(NOW, HOLD);
    let end = NOW.plus(HOLD);
    assert_eq!(tally.at(end.minus(Duration::from_micros(1))), tally);
    assert_eq!(tally.at(end), Tally { failures: 2, last: end, pending: 0, pending_until: end });
}

#[test]
fn a_success_forgets_the_failures_but_not_what_is_under_way() {
    let tally = failed(4).reserved(NOW, HOLD).reserved(NOW, HOLD).succeeded();
    assert_eq!((tally.failures, tally.pending), (0, 1));
    assert!(tally.succeeded().is_none());
}

#[test]
fn of_two_refusals_the_harder_one_is_told() {
    let wait = |seconds| Verdict::Wait(Counter::Pair, NOW.plus(Duration::from_secs(seconds)));
    assert_eq!(Verdict::Admit.and(Verdict::Busy(Counter::Pair)), Verdict::Busy(Counter::Pair));
    assert_eq!(wait(1).and(wait(2)), wait(2));
    assert_eq!(wait(2).and(wait(1)), wait(2));
    assert_eq!(Verdict::Stopped.and(wait(1)), Verdict::Stopped);
    assert_eq!(Verdict::Admit.and(Verdict::Admit), Verdict::Admit);
}

/// What may happen to a counter.
#[derive(Debug, Clone, Copy)]
enum Step {
    Ask,
    Fail,
    Release,
    Later(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Ask),
        3 => Just(Step::Fail),
        1 => Just(Step::Release),
        1 => (0_u64..90).prop_map(Step::Later),
    ]
}

proptest! {
    /// However attempts interleave, between two waits no more fail than could one after the other.
    #[test]
    fn attempts_side_by_side_never_outrun_the_count(steps in proptest::collection::vec(step(), 0..200)) {
        let rules = pair();
        let (mut tally, mut now) = (Tally::NONE, NOW);
        let mut admitted_in_wait = 0;
        for step in steps {
            tally = tally.at(now);
            match step {
                Step::Ask => {
                    let waits = now < tally.last.plus(rules.wait(tally.failures));
                    if rules.judge(&tally, now) == Verdict::Admit {
                        admitted_in_wait += u32::from(waits && tally.failures >= 5);
                        tally = tally.reserved(now, HOLD);
                    }
                }
                Step::Fail if tally.pending > 0 => tally = tally.failed(now),
                Step::Release if tally.pending > 0 => tally = tally.released(),
                Step::Later(seconds) => now = now.plus(Duration::from_secs(seconds)),
                Step::Fail | Step::Release => {}
            }
            prop_assert!(tally.failures + tally.pending <= 5 || tally.pending <= 1, "{tally:?}");
        }
        prop_assert_eq!(admitted_in_wait, 0);
    }

    /// All at once, from any standing: what is admitted can fail without a wait, or is the one attempt after it.
    #[test]
    fn of_any_number_at_once_only_the_free_ones_are_admitted(failures in 0_u64..40, asked in 0_u64..300) {
        let rules = pair();
        let now = NOW.plus(minutes(15));
        let mut tally = failed(failures);
        let mut admitted = 0;
        for _ in 0..asked {
            if rules.judge(&tally, now) == Verdict::Admit {
                tally = tally.reserved(now, HOLD);
                admitted += 1;
            }
        }
        prop_assert_eq!(admitted, asked.min(5_u64.saturating_sub(failures).max(1)));
    }

    /// Waits never shrink as failures grow.
    #[test]
    fn more_failures_never_wait_less(failures in 0_u64..2_000) {
        prop_assert!(pair().wait(failures) <= pair().wait(failures + 1));
        prop_assert!(account().wait(failures) <= account().wait(failures + 1));
        prop_assert!(address().wait(failures) <= address().wait(failures + 1));
    }
}
