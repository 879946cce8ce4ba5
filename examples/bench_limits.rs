//! What limits cost in memory and time: `bench_limits [--keys N]`. Run it in release; figures go to docs/performance.md.
//!
//! Counts `N` distinct keys by one rate that may hold them all, then by one that may hold a fifth, then by a cap with a
//! request of each under way. Tells bytes of resident memory a key, and nanoseconds a charge of a known key.

#![expect(clippy::print_stdout, reason = "what it is for")]

use std::{error::Error, fs, hint::black_box, num::NonZeroU32, sync::Arc, time::Duration};

use clap::Parser;
use portcullis::{
    clock::{Clock, SystemClock, Tick},
    config::settings::{KeyPart, Limit, LimitKey, LimitScope},
    store::memory::{
        in_flight::InFlight,
        limits::{CounterKey, LimitCounter},
    },
};

type Fault = Box<dyn Error>;

/// Measures the counters of limits.
#[derive(Parser)]
struct Arguments {
    /// Distinct keys.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u32,
}

fn main() -> Result<(), Fault> {
    let keys = Arguments::parse().keys;
    let all = usize::try_from(keys)?;
    let counter = LimitCounter::new(&limit(all), all * 2);
    measure("a rate that may hold all", || {
        charge_all(&counter, keys);
        counter.len()
    })?;
    told("charge of a known key", all, || charge_all(&counter, keys));
    let pair = CounterKey::route("ask");
    told("the same with the key of a pair", all, || {
        for number in 0..keys {
            counter.charge(black_box(&CounterKey::pair(&key(number), &pair)), Tick::from_nanos(2));
        }
    });

    let fifth = LimitCounter::new(&limit(all / 5), all / 5);
    measure("a rate that may hold a fifth", || {
        charge_all(&fifth, keys);
        fifth.len()
    })?;
    let cap = Arc::new(InFlight::default());
    let mut slots = Vec::with_capacity(all);
    slots.resize_with(all, || None);
    measure("a cap with one of each under way", || {
        for (number, slot) in (0..keys).zip(&mut slots) {
            *slot = cap.enter(&key(number), 1).ok();
        }
        cap.len()
    })?;
    let held = slots.len();
    drop(slots);
    println!("the cap holds {} keys when all {held} have ended", cap.len());
    Ok(())
}

fn limit(max_keys: usize) -> Limit {
    let hundred = NonZeroU32::new(100).unwrap_or(NonZeroU32::MIN);
    Limit {
        name: "bench".into(),
        key: LimitKey::one(KeyPart::Subject),
        requests: hundred,
        period: Duration::from_mins(1),
        burst: hundred,
        scope: LimitScope::Local,
        shadow: false,
        max_keys,
    }
}

/// As far apart as hashes are.
fn key(number: u32) -> CounterKey {
    CounterKey::Subject(u128::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835))
}

fn charge_all(counter: &LimitCounter, keys: u32) {
    for number in 0..keys {
        counter.charge(black_box(&key(number)), Tick::from_nanos(1));
    }
}

/// Runs something that ends with so many keys held, and tells what each takes.
fn measure(what: &str, run: impl FnOnce() -> usize) -> Result<(), Fault> {
    let before = resident()?;
    let held = run();
    let bytes = resident()?.saturating_sub(before);
    println!("{what}: {held} keys, {} MiB, {} bytes a key", bytes >> 20, bytes / u64::try_from(held.max(1))?);
    Ok(())
}

fn told(what: &str, times: usize, run: impl FnOnce()) {
    let clock = SystemClock::new();
    let began = clock.tick();
    run();
    println!("{what}: {} ns", clock.tick().since(began).as_nanos() / u128::try_from(times.max(1)).unwrap_or(1));
}

/// Resident memory of this process, bytes.
fn resident() -> Result<u64, Fault> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}
