//! `policy::bearer`: what comes out is one token, from the only header, and nothing malformed counts as nothing.

use http::header::AUTHORIZATION;
use portcullis::policy::bearer::bearer;

use super::lines;

/// The bytes as values of `Authorization`, one a line.
pub fn check(data: &[u8]) -> bool {
    let headers = lines::values(data, &AUTHORIZATION);
    let sent: Vec<_> = headers.get_all(AUTHORIZATION).iter().collect();
    match bearer(&headers) {
        Ok(None) => {
            assert!(sent.is_empty(), "credentials were sent and overlooked: {sent:?}");
            false
        }
        Err(_) => {
            assert!(!sent.is_empty());
            false
        }
        Ok(Some(token)) => {
            let [value] = sent[..] else { panic!("one of {} was chosen", sent.len()) };
            let value = value.to_str().expect("text");
            let (scheme, rest) = value.split_once(' ').expect("a scheme and a token");
            assert!(scheme.eq_ignore_ascii_case("bearer"), "{scheme}");
            assert_eq!(rest.trim_start_matches(' '), token);
            let bare = token.trim_end_matches('=');
            assert!(
                !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte))
            );
            true
        }
    }
}
