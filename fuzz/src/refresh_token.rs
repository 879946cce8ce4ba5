//! `policy::refresh_token`: only what was issued is authentic, and it has one spelling.

use portcullis::policy::refresh_token::{issue, parse};
use secrecy::ExposeSecret;

const KEY: [u8; 32] = [7; 32];

/// The bytes as a token.
pub fn check(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Some(parsed) = parse(text) else { return false };
    let issued = issue(&KEY, parsed.sid, parsed.counter);
    let issued = issued.expose_secret();
    assert_eq!(parsed.authentic(&KEY), issued == text, "authentic is what was issued, to the last character");
    assert!(!parsed.authentic(&[9; 32]));
    assert_eq!(&issued[..32], &text[..32], "session and counter are read as they are written");
    let at = data.iter().map(|byte| usize::from(*byte)).sum::<usize>() % issued.len();
    for other in [b'A', b'-', b'=', b'.', b'9'] {
        let mut changed = issued.as_bytes().to_vec();
        if std::mem::replace(&mut changed[at], other) != other {
            let changed = String::from_utf8(changed).expect("ASCII");
            assert!(parse(&changed).is_none_or(|parsed| !parsed.authentic(&KEY)), "{changed}");
        }
    }
    assert!(!format!("{parsed:?}").contains(&text[40..]), "the MAC is shown");
    true
}
