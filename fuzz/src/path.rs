//! `policy::path` and `policy::rewrite`: an accepted path has one meaning, however often it is decoded.

use std::borrow::Cow;

use portcullis::policy::{path::canonical, rewrite::rewrite};

/// The bytes as a path.
pub fn check(data: &[u8]) -> bool {
    let Ok(raw) = std::str::from_utf8(data) else { return false };
    let Ok(path) = canonical(raw) else { return false };
    assert_canonical(&path);
    assert_eq!(segments(&path), segments(raw), "the service reads another path than the client wrote");
    for (prefix, to) in [("/api", "/v1"), ("/api/", "/"), ("/", "/v1/"), ("/a/b", "/")] {
        let Some(rewritten) = rewrite(&path, prefix, to) else { continue };
        assert_canonical(&rewritten);
        let (kept, before) = (segments(&rewritten), segments(&path));
        let named = |text: &str| segments(text).into_iter().filter(|segment| !segment.is_empty()).count();
        let tail = |all: &[Vec<u8>], skip| all.iter().skip(1 + skip).cloned().collect::<Vec<_>>();
        let (mut after, mut left) = (tail(&kept, named(to)), tail(&before, named(prefix)));
        // `/api` as `/` is `/`: an empty last segment that says nothing.
        after.retain(|segment| !segment.is_empty());
        left.retain(|segment| !segment.is_empty());
        assert_eq!(after, left, "{path} with {prefix} as {to} is {rewritten}");
    }
    true
}

fn assert_canonical(path: &str) {
    assert!(path.starts_with('/') && path.is_ascii(), "{path}");
    assert!(
        matches!(canonical(path), Ok(Cow::Borrowed(again)) if again == path),
        "{path} is not its own canonical form"
    );
    let uri: http::uri::PathAndQuery = path.parse().expect("a path of a request");
    assert_eq!((uri.path(), uri.query()), (path, None));
    let once = decoded(path.as_bytes());
    for bytes in [&decoded(&once), &once] {
        assert!(!bytes.iter().any(|byte| matches!(byte, b'\\' | b';' | 0..=31 | 127)), "{path} hides {bytes:?}");
        let parts: Vec<&[u8]> = bytes.split(|byte| *byte == b'/').collect();
        assert_eq!(parts.len(), path.split('/').count(), "{path} hides a separator");
        assert!(!parts.iter().any(|part| matches!(*part, b"." | b"..")), "{path} hides a dot segment");
        assert!(!parts[1..parts.len() - 1].contains(&&b""[..]), "{path} holds an empty segment");
    }
    assert!(std::str::from_utf8(&once).is_ok(), "{path} hides bytes that are no text");
}

fn segments(path: &str) -> Vec<Vec<u8>> {
    path.split('/').map(|segment| decoded(segment.as_bytes())).collect()
}

fn decoded(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let pair = text.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        let pair = pair.filter(|pair| pair.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(value) if byte == b'%' => {
                bytes.push(value);
                at += 3;
            }
            _ => {
                bytes.push(byte);
                at += 1;
            }
        }
    }
    bytes
}
