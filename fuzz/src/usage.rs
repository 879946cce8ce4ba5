//! `policy::usage`: what an answer used does not depend on how its bytes are cut, nothing is made up, and what plain JSON
//! says is found. The first byte is the shape.

use portcullis::policy::usage::{Meter, Shape, Source, Used};

/// The rest of the bytes as an answer; true: it said what it used.
pub fn check(data: &[u8]) -> bool {
    let Some((first, answer)) = data.split_first() else { return false };
    let shape = if *first == b'e' { Shape::Events } else { Shape::Json };
    let mut whole = Meter::new(shape);
    read(&mut whole, answer);
    let mut drip = Meter::new(shape);
    for (at, byte) in answer.iter().enumerate() {
        read(&mut drip, std::slice::from_ref(byte));
        let (before, so_far) = (drip.counted(), (at as u64 + 1).div_ceil(4));
        assert!(before <= so_far, "more was counted than came");
    }
    assert_eq!(told(&whole), told(&drip), "it depends on how the bytes are cut");
    let Used { input, output, source } = whole.used(true);
    for tokens in [input.unwrap_or(0), output] {
        assert!(tokens <= 1_000_000_000_000);
    }
    if shape == Shape::Json {
        plain(answer, source, output);
    }
    source == Source::Reported
}

fn read(meter: &mut Meter, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let read = meter.read(bytes);
        assert!(read > 0, "it goes on");
        bytes = &bytes[read..];
    }
}

fn told(meter: &Meter) -> (Used, Used, Option<&str>, bool) {
    (meter.used(true), meter.used(false), meter.model(), meter.between_events())
}

/// Of JSON that says it once, in plain words, it is what serde finds.
fn plain(answer: &[u8], source: Source, output: u64) {
    let once = |word: &[u8]| answer.windows(word.len()).filter(|window| *window == word).count() == 1;
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(answer) else { return };
    if answer.contains(&b'\\') || !once(b"\"usage\"") || !once(b"\"completion_tokens\"") {
        return;
    }
    if let Some(said) = json["usage"]["completion_tokens"].as_u64().filter(|said| *said <= 1_000_000_000_000) {
        assert_eq!((source, output), (Source::Reported, said));
    }
}
