//! `edge::frames`: however the bytes are cut, the same is on its way, and it is what a plain reading says.

use portcullis::edge::frames::Frames;

const PREFACE: usize = 24;

/// The bytes as what an HTTP/2 client sends.
pub fn check(data: &[u8]) -> bool {
    let data = &data[..data.len().min(4_096)];
    let mut whole = Frames::default();
    whole.came(data);
    let mut drip = Frames::default();
    for byte in data {
        drip.came(std::slice::from_ref(byte));
    }
    assert_eq!(whole.under_way(), drip.under_way(), "it depends on how the bytes are cut");
    let half = data.len() / 2;
    let mut halves = Frames::default();
    halves.came(&data[..half]);
    halves.came(&data[half..]);
    assert_eq!(whole.under_way(), halves.under_way());
    assert_eq!(whole.under_way().is_some(), is_half(data));
    whole.under_way().is_none() && data.len() > PREFACE
}

/// Whether something but the payload of DATA is missing its end, or a header block its last frame.
fn is_half(data: &[u8]) -> bool {
    if data.len() <= PREFACE {
        return !data.is_empty() && data.len() < PREFACE;
    }
    let (mut rest, mut block) = (&data[PREFACE..], false);
    while !rest.is_empty() {
        let Some((header, payload)) = rest.split_at_checked(9) else { return true };
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        if header[3] == 1 || header[3] == 9 {
            block = header[4] & 4 == 0;
        }
        match payload.get(length..) {
            Some(next) => rest = next,
            None => return block || header[3] != 0,
        }
    }
    block
}
