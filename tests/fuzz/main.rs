//! What the fuzz targets look for, on stable Rust and with every `make test`: each parser's promises
//! (`fuzz/src`, the very functions that libFuzzer calls) over every seed, and over a bounded number of changes to
//! them, the same ones each time.
//!
//! `make fuzz` searches for as long as one likes; what it finds becomes a seed and is tried here ever after.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a promise that does not hold fails the test; clippy sees tests only in functions marked as such"
)]

#[expect(unreachable_pub, reason = "written for the fuzz package, where the targets call it")]
#[path = "../../fuzz/src/lib.rs"]
mod promises;

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use promises::{Check, TARGETS};
use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

/// Changes that are tried on each target's seeds.
const CHANGES: u32 = 2_048;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn check_of(target: &str) -> Check {
    TARGETS.iter().find(|(name, _)| *name == target).expect("a target").1
}

/// Name and bytes of every seed, by name.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(fuzz().join("seeds").join(target)).unwrap_or_else(|_| panic!("no seeds for {target}"));
    let paths = files.map(|file| file.expect("an entry").path());
    let named =
        |path: PathBuf| (path.file_name().expect("a name").display().to_string(), fs::read(path).expect("a seed"));
    let mut seeds: Vec<_> = paths.map(named).collect();
    seeds.sort();
    seeds
}

/// Every seed keeps the promises; some are accepted and some refused, or it would be the wrong ones that are kept.
fn seeds_hold(target: &str) {
    let (mut accepted, mut broken) = (0, Vec::new());
    let seeds = seeds(target);
    for (name, bytes) in &seeds {
        match catch_unwind(|| check_of(target)(bytes)) {
            Ok(yes) => accepted += usize::from(yes),
            Err(_) => broken.push(name),
        }
    }
    assert!(broken.is_empty(), "{target}: {broken:?}");
    assert!(accepted > 0 && accepted < seeds.len(), "{target}: {accepted} of {} seeds accepted", seeds.len());
}

/// What has meaning to one parser or another.
const WORDS: &[&[u8]] = &[
    b"",
    b"\0",
    b" ",
    b"\t",
    b"\r\n",
    b"\n",
    b"%",
    b"%2f",
    b"%2e",
    b"%5c",
    b"%25",
    b"%00",
    b"/",
    b"//",
    b"..",
    b";",
    b"\\",
    b":",
    b",",
    b"=",
    b"_",
    b"-",
    b"\"",
    b"[",
    b"]",
    b"{",
    b"}",
    b"&a ",
    b"*a",
    b"- ",
    b"null",
    b"${SECRET}",
    b"admin",
    b"\\u0000",
    b"1e99",
    b"-1",
    b"18446744073709551616",
    b"\xff",
    b"\xc3\xa9",
    b"\xe2\x80\xa8",
    b"A",
    b"0",
];

#[derive(Debug, Clone)]
enum Edit {
    /// A word over what stands there, or between it.
    Word {
        at: Index,
        word: usize,
        over: bool,
    },
    Flip {
        at: Index,
        bit: u8,
    },
    Cut {
        at: Index,
        length: usize,
    },
    /// A piece of another seed.
    Splice {
        at: Index,
        other: Index,
        from: Index,
        length: usize,
    },
    Repeat {
        at: Index,
        length: usize,
        times: usize,
    },
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    prop_oneof![
        (at(), 0..WORDS.len(), any::<bool>()).prop_map(|(at, word, over)| Edit::Word { at, word, over }),
        (at(), 0..8_u8).prop_map(|(at, bit)| Edit::Flip { at, bit }),
        (at(), 1..32_usize).prop_map(|(at, length)| Edit::Cut { at, length }),
        (at(), at(), at(), 1..64_usize).prop_map(|(at, other, from, length)| Edit::Splice { at, other, from, length }),
        (at(), 1..16_usize, 1..40_usize).prop_map(|(at, length, times)| Edit::Repeat { at, length, times }),
    ]
}

fn apply(bytes: &mut Vec<u8>, edit: &Edit, seeds: &[(String, Vec<u8>)]) {
    let end = bytes.len();
    let place = |at: &Index| at.index(end + 1);
    let reach = |start: usize, length: usize| start..(start + length).min(end);
    match edit {
        Edit::Word { at, word, over } => {
            let (start, word) = (place(at), WORDS[*word]);
            let length = if *over { word.len() } else { 0 };
            bytes.splice(reach(start, length), word.iter().copied());
        }
        Edit::Flip { at, bit } => {
            if let Some(byte) = bytes.get_mut(place(at)) {
                *byte ^= 1 << bit;
            }
        }
        Edit::Cut { at, length } => {
            bytes.drain(reach(place(at), *length));
        }
        Edit::Splice { at, other, from, length } => {
            let other = &seeds[other.index(seeds.len())].1;
            let from = from.index(other.len() + 1);
            let piece = other[from..(from + length).min(other.len())].to_vec();
            let start = place(at);
            bytes.splice(start..start, piece);
        }
        Edit::Repeat { at, length, times } => {
            let range = reach(place(at), *length);
            let piece = bytes[range.clone()].repeat(*times);
            bytes.splice(range.end..range.end, piece);
        }
    }
}

fn changed_seeds_hold(target: &str) {
    let seeds = seeds(target);
    let check = check_of(target);
    let config = Config { cases: CHANGES, failure_persistence: None, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let case = (any::<Index>(), prop::collection::vec(edit(), 1..6));
    let outcome = runner.run(&case, |(seed, edits)| {
        let mut bytes = seeds[seed.index(seeds.len())].1.clone();
        for edit in &edits {
            apply(&mut bytes, edit, &seeds);
        }
        let kept = catch_unwind(AssertUnwindSafe(|| check(&bytes)));
        prop_assert!(kept.is_ok(), "{}", bytes.escape_ascii());
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{target}: {failure}");
    }
}

macro_rules! each_target {
    ($($target:ident),* $(,)?) => {
        const TRIED: &[&str] = &[$(stringify!($target)),*];
        $(
            mod $target {
                #[test]
                fn every_seed_keeps_the_promises() {
                    super::seeds_hold(stringify!($target));
                }

                #[test]
                fn no_small_change_to_a_seed_breaks_a_promise() {
                    super::changed_seeds_hold(stringify!($target));
                }
            }
        )*
    };
}

each_target!(
    bearer,
    config,
    cookies,
    discovery,
    foreign,
    form,
    forwarded,
    frames,
    head,
    headers,
    jwks,
    path,
    refresh_token,
    token,
    trace,
    usage,
    websocket,
);

fn names_in(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(fuzz().join(folder)).expect("a folder");
    entries.map(|entry| entry.expect("an entry").path().file_stem().expect("a name").display().to_string()).collect()
}

/// The targets themselves are compiled by `make fuzz` alone: they are one call each, and that call is known.
#[test]
fn every_target_is_tried_here_and_built_by_cargo_fuzz() {
    let all: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(TRIED.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(), all);
    assert_eq!(names_in("fuzz_targets"), all);
    assert_eq!(names_in("seeds"), all);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("a manifest");
    for name in &all {
        let target = fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).expect("a target");
        let call =
            format!("libfuzzer_sys::fuzz_target!(|data: &[u8]| {{\n    portcullis_fuzz::{name}::check(data);\n}});\n");
        assert!(target.ends_with(&call), "{name}");
        let entry = format!("[[bin]]\nname = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"\n");
        assert!(manifest.contains(&entry), "{name} is not in fuzz/Cargo.toml");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), all.len());
    // What compiles here compiles there: the same libraries are at hand.
    for source in names_in("src") {
        let text = fs::read_to_string(fuzz().join(format!("src/{source}.rs"))).expect("a source");
        for library in text.lines().filter_map(|line| line.strip_prefix("use ")?.split("::").next()) {
            let known = ["std", "super", "portcullis"].contains(&library);
            let listed = manifest.contains(&format!("\n{library} = "));
            assert!(known || listed, "{source}.rs uses {library}, which fuzz/Cargo.toml has not");
        }
    }
}

#[test]
fn seeds_are_small_enough_to_be_read() {
    for (target, _) in TARGETS {
        for (name, bytes) in seeds(target) {
            assert!(bytes.len() <= 4_096, "{target}/{name}: {} bytes", bytes.len());
        }
    }
}
