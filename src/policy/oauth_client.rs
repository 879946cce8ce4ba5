//! Clients of the OAuth endpoints: who one is by its id and secret (RFC 6749 §2.3).
//!
//! Of a secret only the digest is kept. The digests of all clients are compared whoever asks and with whatever id, each
//! in constant time, so that the time of an answer tells neither which ids exist nor how much of a secret was right.

use std::{fmt, sync::Arc};

use aws_lc_rs::{constant_time, digest};

/// Shortest secret, bytes: what nobody guesses needs no lockout.
pub const MIN_SECRET: usize = 32;

/// A client that may ask.
#[derive(Clone)]
pub struct OAuthClient {
    id: Arc<str>,
    secret: [u8; 32],
}

impl fmt::Debug for OAuthClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthClient").field("id", &self.id).finish_non_exhaustive()
    }
}

impl OAuthClient {
    /// A client with this secret.
    #[must_use]
    pub fn new(id: &str, secret: &[u8]) -> Self {
        Self { id: id.into(), secret: hashed(secret) }
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> &Arc<str> {
        &self.id
    }
}

fn hashed(secret: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, secret).as_ref());
    bytes
}

/// The client of this id, when the secret is its own.
#[must_use]
pub fn authenticate<'c>(clients: &'c [OAuthClient], id: &str, secret: &[u8]) -> Option<&'c OAuthClient> {
    let given = hashed(secret);
    let mut found = None;
    for client in clients {
        let fits = constant_time::verify_slices_are_equal(&client.secret, &given).is_ok();
        if fits && *client.id == *id {
            found = Some(client);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients() -> Vec<OAuthClient> {
        vec![OAuthClient::new("one", &[1; 32]), OAuthClient::new("two", &[2; 32])]
    }

    fn who(id: &str, secret: &[u8]) -> Option<String> {
        authenticate(&clients(), id, secret).map(|client| client.id().to_string())
    }

    #[test]
    fn a_client_is_known_by_its_own_secret_and_no_other() {
        assert_eq!(who("one", &[1; 32]).as_deref(), Some("one"));
        assert_eq!(who("two", &[2; 32]).as_deref(), Some("two"));
        for (id, secret) in [("one", &[2; 32][..]), ("one", &[1; 31]), ("one", b""), ("three", &[1; 32]), ("", b"")] {
            assert_eq!(who(id, secret), None, "{id} {secret:?}");
        }
        assert!(authenticate(&[], "one", &[1; 32]).is_none());
    }

    #[test]
    fn what_is_printed_of_a_client_is_its_id() {
        assert_eq!(format!("{:?}", clients()[0]), r#"OAuthClient { id: "one", .. }"#);
    }
}
