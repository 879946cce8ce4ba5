//! `policy::websocket`: frames end where a plain reading says, however the bytes are cut, and what is left of one is never
//! more than what follows.

use portcullis::policy::websocket::Frames;

/// The bytes as what one side of a WebSocket sends.
pub fn check(data: &[u8]) -> bool {
    let data = &data[..data.len().min(4_096)];
    let mut whole = Frames::default();
    whole.came(data);
    let mut drip = Frames::default();
    for (at, byte) in data.iter().enumerate() {
        let rest = drip.rest(&data[at..]);
        assert!(rest.is_none_or(|rest| rest <= data.len() - at));
        assert_eq!(
            rest == Some(0),
            drip.between(),
            "nothing is left of a frame that has ended, and something of any other"
        );
        drip.came(std::slice::from_ref(byte));
    }
    assert_eq!(
        (whole.between(), whole.closed()),
        (drip.between(), drip.closed()),
        "it depends on how the bytes are cut"
    );
    assert_eq!(whole.between(), is_whole(data));
    whole.between() && !data.is_empty()
}

/// Whether the bytes are whole frames (RFC 6455 §5.2).
fn is_whole(mut data: &[u8]) -> bool {
    let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    while !data.is_empty() {
        let Some((&[_, second], rest)) = data.split_first_chunk() else { return false };
        let wide = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some((length, rest)) = rest.split_at_checked(wide) else { return false };
        let length = if wide == 0 { u64::from(second & 0x7f) } else { number(length) };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let Some(rest) = rest.get(mask..) else { return false };
        let Some(next) = usize::try_from(length).ok().and_then(|length| rest.get(length..)) else { return false };
        data = next;
    }
    true
}
