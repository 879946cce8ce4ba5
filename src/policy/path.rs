//! The canonical path: one spelling per resource, the one that is matched, authorised *and* forwarded (under another
//! prefix where a route says so: [`crate::policy::rewrite`]).
//!
//! Whatever two servers might read differently is refused; what only has several spellings is brought to one. Within a
//! segment every percent-encoded `pchar` (RFC 3986 §3.3) is decoded and everything else is encoded with upper-case hex,
//! so two paths are the same canonical string exactly when they decode to the same segments. That is a little more than
//! RFC 3986 §6.2.2.2 asks (unreserved only): a route `/files/$inbox` would otherwise be walked around as
//! `/files/%24inbox`, since upstreams decode before they route.

use std::borrow::Cow;

use crate::policy::reason::Reason;

/// Why a path is not served. The text names no part of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// It does not start with `/`.
    #[error("the path must start with a slash")]
    NotAbsolute,
    /// `//`: some servers merge them, some do not.
    #[error("the path holds an empty segment")]
    EmptySegment,
    /// `.` or `..`, encoded or not.
    #[error("the path holds a dot segment")]
    DotSegment,
    /// `\`, `%5c` or `%2f`: a separator for some servers.
    #[error("the path holds a backslash or an encoded separator")]
    Separator,
    /// `;` or `%3b`: cut off by servers that know path parameters.
    #[error("the path holds a semicolon")]
    Parameter,
    /// `#` or `?` where neither can be.
    #[error("the path holds a fragment or a query")]
    Delimiter,
    /// NUL or another control character, encoded or not.
    #[error("the path holds a control character")]
    Control,
    /// A `%` without two hex digits, or bytes that are not UTF-8 (RFC 3986 §2.5; overlong forms hide separators).
    #[error("the path holds a malformed percent-encoding")]
    Encoding,
    /// Decoding it twice would yield any of the above.
    #[error("the path holds a double percent-encoding")]
    DoubleEncoding,
    /// A byte above 0x7F that is not percent-encoded.
    #[error("the path holds a character that must be percent-encoded")]
    NotAscii,
}

impl PathFault {
    /// Always the same.
    #[must_use]
    pub const fn reason(self) -> Reason {
        Reason::PathInvalid
    }
}

/// The path to match and forward. Borrowed when `raw` is canonical already. Idempotent.
pub fn canonical(raw: &str) -> Result<Cow<'_, str>, PathFault> {
    if !raw.starts_with('/') {
        return Err(PathFault::NotAbsolute);
    }
    if raw.bytes().all(|byte| byte == b'/' || is_segment_char(byte)) {
        check_segments(raw.as_bytes())?;
        return Ok(Cow::Borrowed(raw));
    }
    let decoded = decode(raw)?;
    check_double_encoding(&decoded)?;
    check_segments(&decoded)?;
    let encoded = encode(&decoded);
    Ok(if encoded == raw { Cow::Borrowed(raw) } else { Cow::Owned(encoded) })
}

/// `pchar` without `%` and without `;`, which is refused.
const fn is_segment_char(byte: u8) -> bool {
    matches!(byte,
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~'
        | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@')
}

/// Refuses empty segments but for the last, and dot segments.
fn check_segments(path: &[u8]) -> Result<(), PathFault> {
    let mut segments = path[1..].split(|&byte| byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            [] if segments.peek().is_some() => return Err(PathFault::EmptySegment),
            b"." | b".." => return Err(PathFault::DotSegment),
            _ => {}
        }
    }
    Ok(())
}

/// Decodes once. Separators can only be there raw, so the segments stay what they were.
fn decode(raw: &str) -> Result<Vec<u8>, PathFault> {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match byte {
            b'%' => {
                let (byte, tail) = hex_pair(tail).ok_or(PathFault::Encoding)?;
                if matches!(byte, b'/' | b'\\') {
                    return Err(PathFault::Separator);
                }
                decoded.push(byte);
                rest = tail;
            }
            b'\\' => return Err(PathFault::Separator),
            b'#' | b'?' => return Err(PathFault::Delimiter),
            0x80.. => return Err(PathFault::NotAscii),
            _ => decoded.push(*byte),
        }
    }
    let text = std::str::from_utf8(&decoded).map_err(|_| PathFault::Encoding)?;
    match text.chars().find(|c| *c == ';' || c.is_control()) {
        Some(';') => Err(PathFault::Parameter),
        Some(_) => Err(PathFault::Control),
        None => Ok(decoded),
    }
}

/// Refuses what a second decoding would turn into something that is refused, or into a third round.
fn check_double_encoding(decoded: &[u8]) -> Result<(), PathFault> {
    for (at, _) in decoded.iter().enumerate().filter(|(_, byte)| **byte == b'%') {
        let again = hex_pair(&decoded[at + 1..]);
        if let Some((b'/' | b'\\' | b'.' | b';' | b'#' | b'?' | b'%' | ..=0x1f | 0x7f.., _)) = again {
            return Err(PathFault::DoubleEncoding);
        }
    }
    Ok(())
}

fn hex_pair(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let ([high, low], rest) = bytes.split_first_chunk::<2>()?;
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some((digit(*high)? << 4 | digit(*low)?, rest))
}

fn encode(decoded: &[u8]) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut path = String::with_capacity(decoded.len() + 16);
    for &byte in decoded {
        if byte == b'/' || is_segment_char(byte) {
            path.push(byte.into());
        } else {
            let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
            path.push('%');
            path.extend(digits.map(char::from));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn refused(fault: PathFault, paths: &[&str]) {
        for path in paths {
            assert_eq!(canonical(path), Err(fault), "{path}");
        }
    }

    #[test]
    fn a_canonical_path_is_borrowed() {
        for path in
            ["/", "/a", "/a/", "/a/b.txt", "/a%20b", "/C%C3%A9", "/.hidden", "/...", "/a..b", "/~u/x:y@z", "/%25"]
        {
            assert!(matches!(canonical(path), Ok(Cow::Borrowed(same)) if same == path), "{path}");
        }
    }

    #[test]
    fn several_spellings_become_one() {
        for (raw, expected) in [
            ("/%61dmin", "/admin"),
            ("/%7Euser", "/~user"),
            ("/a%2db%5f", "/a-b_"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/files/%24inbox", "/files/$inbox"),
            ("/a%40b", "/a@b"),
            ("/a{b}|c", "/a%7Bb%7D%7Cc"),
            ("/a b", "/a%20b"),
            ("/100%25", "/100%25"),
            ("/%E2%80%A6", "/%E2%80%A6"),
        ] {
            assert_eq!(canonical(raw).unwrap(), expected, "{raw}");
        }
    }

    #[test]
    fn other_forms_of_target_are_refused() {
        refused(PathFault::NotAbsolute, &["", "*", "a", "http://x/", "%2Fa", "./a", "\\a"]);
    }

    #[test]
    fn empty_segments_are_refused() {
        refused(PathFault::EmptySegment, &["//", "//a", "/a//b", "/a//", "/%61//b"]);
    }

    #[test]
    fn dot_segments_are_refused_however_they_are_spelled() {
        refused(
            PathFault::DotSegment,
            &["/.", "/..", "/a/../b", "/a/./b", "/a/..", "/%2e", "/%2E%2e/a", "/.%2e/a", "/a/%2e./b", "/a%20/.."],
        );
    }

    #[test]
    fn encoded_separators_and_backslashes_are_refused() {
        refused(PathFault::Separator, &["/a%2fb", "/a%2Fb", "/a\\b", "/a%5cb", "/a%5Cb", "/..%2f", "/..\\..", "/%2f"]);
    }

    #[test]
    fn path_parameters_are_refused() {
        refused(PathFault::Parameter, &["/a;b", "/a;", "/admin;/x", "/a%3bb", "/a%3B", "/..;/admin"]);
    }

    #[test]
    fn control_characters_are_refused() {
        refused(
            PathFault::Control,
            &["/%00", "/a%00.png", "/a%0d%0ab", "/a%7f", "/a\tb", "/a\u{7f}", "/%c2%85", "/%1F"],
        );
    }

    #[test]
    fn malformed_and_overlong_encodings_are_refused() {
        refused(
            PathFault::Encoding,
            &["/%", "/%4", "/%zz", "/%%32f", "/a%2", "/%u002f", "/%c0%af", "/%e0%80%af", "/%ff", "/%+1", "/%c3"],
        );
    }

    #[test]
    fn double_encodings_of_what_is_refused_are_refused() {
        refused(
            PathFault::DoubleEncoding,
            &[
                "/%252f",
                "/%252F",
                "/%255c",
                "/%252e%252e/a",
                "/%2500",
                "/%253b",
                "/%2525",
                "/%25252f",
                "/%25%32%66",
                "/%2523",
                "/%253f",
                "/%250a",
                "/%25c0%25af",
            ],
        );
        assert_eq!(canonical("/100%2520").unwrap(), "/100%2520");
    }

    #[test]
    fn raw_bytes_beyond_ascii_and_delimiters_are_refused() {
        refused(PathFault::NotAscii, &["/é", "/a／b"]);
        refused(PathFault::Delimiter, &["/a#b", "/a?b", "/#"]);
    }

    /// What an upstream makes of a path.
    fn upstream_reads(path: &str) -> Vec<Vec<u8>> {
        path.split('/').map(|segment| percent_encoding::percent_decode_str(segment).collect()).collect()
    }

    /// Text in which the interesting characters are likely.
    fn paths() -> impl Strategy<Value = String> {
        "/([a-c./%;#2-5eEfFcC \\\\]|%2[0-9a-f]|%[0-9a-fA-F]{2}|\\PC){0,24}"
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn canonical_is_idempotent(raw in paths()) {
            if let Ok(once) = canonical(&raw) {
                prop_assert!(matches!(canonical(&once), Ok(Cow::Borrowed(twice)) if twice == once));
            }
        }

        #[test]
        fn the_upstream_reads_what_the_client_wrote(raw in paths()) {
            if let Ok(path) = canonical(&raw) {
                prop_assert_eq!(upstream_reads(&path), upstream_reads(&raw));
            }
        }

        #[test]
        fn what_the_upstream_reads_alike_is_one_string(segments in prop::collection::vec("[a-z$:@ é%.]{1,6}", 1..4), seed in any::<u64>()) {
            let spell = |seed: u64| segments.iter().flat_map(|segment| {
                let bytes = segment.bytes().enumerate().map(move |(i, byte)| {
                    if byte.is_ascii_alphanumeric() && seed >> (i % 64) & 1 == 0 { char::from(byte).to_string() } else { format!("%{byte:02x}") }
                });
                std::iter::once("/".to_owned()).chain(bytes)
            }).collect::<String>();
            prop_assert_eq!(canonical(&spell(seed)).map(Cow::into_owned), canonical(&spell(!seed)).map(Cow::into_owned));
        }

        #[test]
        fn what_passes_holds_nothing_ambiguous_even_decoded_twice(raw in paths()) {
            if let Ok(path) = canonical(&raw) {
                let once: Vec<u8> = percent_encoding::percent_decode_str(&path).collect();
                let twice: Vec<u8> = percent_encoding::percent_decode(&once).collect();
                for bytes in [once, twice] {
                    prop_assert!(!bytes.iter().any(|byte| matches!(byte, b'\\' | b';' | 0..=31 | 127)));
                    prop_assert_eq!(bytes.split(|byte| *byte == b'/').count(), path.split('/').count());
                    prop_assert!(!bytes.split(|byte| *byte == b'/').any(|segment| matches!(segment, b"." | b"..")));
                    prop_assert!(!bytes.windows(2).any(|pair| pair == b"//"));
                }
                prop_assert!(path.is_ascii());
            }
        }
    }
}
