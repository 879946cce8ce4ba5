//! `policy::cookies`: ours are gone from what a service gets, the others stand as they were.

use std::sync::Arc;

use http::{HeaderMap, header::COOKIE};
use portcullis::policy::cookies::{Planted, keep_private, only, strip};

use super::lines;

const OURS: [&str; 2] = ["__Host-access", "__Secure-refresh"];

/// The bytes as values of `Cookie`, one a line.
pub fn check(data: &[u8]) -> bool {
    let sent = lines::values(data, &COOKIE);
    let own: Vec<Arc<str>> = OURS.map(Arc::from).into();
    let mut headers = sent.clone();
    strip(&mut headers, &own);
    assert!(headers.get_all(COOKIE).iter().count() <= 1, "an HTTP/1.1 service gets one Cookie header");
    let others = |headers: &HeaderMap| {
        let mut pairs = pairs(headers);
        pairs.retain(|pair| !pair.is_empty() && !OURS.iter().any(|name| name_of(pair) == name.as_bytes()));
        pairs
    };
    let mut left = pairs(&headers);
    left.retain(|pair| !pair.is_empty());
    assert_eq!(left, others(&sent), "the others' cookies");
    for name in OURS {
        // Every pair with a value counts, whatever bytes other pairs hold; one that is no text is no token.
        let pairs = pairs(&sent);
        let values = pairs.iter().filter_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
        let given: Vec<&str> = values
            .filter(|value| !value.is_empty())
            .map(|value| std::str::from_utf8(value).unwrap_or("\u{fffd}"))
            .collect();
        match only(&sent, name) {
            Ok(found) => assert_eq!(found.as_slice(), given.as_slice()),
            Err(Planted) => assert!(given.len() > 1),
        }
    }
    let mut answer = lines::headers(data);
    keep_private(&mut answer);
    let said = answer.get_all("cache-control").iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut words = said.map(|one| one.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii());
    let known: [&[u8]; 5] = [b"private", b"public", b"no-store", b"s-maxage", b"must-revalidate"];
    assert!(words.any(|word| known.iter().any(|known| word.eq_ignore_ascii_case(known))));
    !left.is_empty()
}

fn pairs(headers: &HeaderMap) -> Vec<Vec<u8>> {
    let values = headers.get_all(COOKIE).iter();
    values
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'))
        .map(|pair| pair.trim_ascii().to_vec())
        .collect()
}

fn name_of(pair: &[u8]) -> &[u8] {
    pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii()
}
