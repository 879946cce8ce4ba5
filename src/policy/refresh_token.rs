//! The refresh token itself: session id ‖ counter ‖ MAC, so that nothing per token is stored.
//!
//! `base64url(version ‖ session id (16 bytes) ‖ counter (u64, big-endian) ‖ HMAC-SHA256 (32 bytes))`, the MAC over
//! everything before it, under a key derived for this one session. A dump of the store without the master key mints
//! nothing. Opaque to clients (RFC 6749 §1.5); what a counter is worth is [`crate::policy::refresh`]'s to decide.

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::SecretString;
use uuid::Uuid;

use crate::policy::ids::SessionId;

const VERSION: u8 = 1;
const SIGNED_LEN: usize = 1 + 16 + 8;
const TOKEN_LEN: usize = SIGNED_LEN + 32;

/// The token of a session at a counter. `key` is the session's own, derived from the master key, its id and salt.
#[must_use]
pub fn issue(key: &[u8; 32], sid: SessionId, counter: u64) -> SecretString {
    let mut bytes = [0; TOKEN_LEN];
    let (signed, mac) = bytes.split_at_mut(SIGNED_LEN);
    signed.copy_from_slice(&message(sid, counter));
    mac.copy_from_slice(hmac::sign(&mac_key(key), signed).as_ref());
    URL_SAFE_NO_PAD.encode(bytes).into()
}

/// A token of the right form. Claims a session and a counter; believe it only when [`Self::authentic`].
#[derive(Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The session it claims to be of.
    pub sid: SessionId,
    /// Its place in the chain of rotations. Any `u64`; the store's column may hold less.
    pub counter: u64,
    mac: [u8; 32],
}

/// Takes a token apart; `None` when it has not the form of one.
#[must_use]
pub fn parse(token: &str) -> Option<Parsed> {
    // The decoder needs more room than the bytes it writes when the length is no multiple of four; ours is one.
    let mut bytes = [0; TOKEN_LEN];
    if token.len() != TOKEN_LEN / 3 * 4 || URL_SAFE_NO_PAD.decode_slice(token, &mut bytes) != Ok(TOKEN_LEN) {
        return None;
    }
    let (signed, mac) = bytes.split_at(SIGNED_LEN);
    let (head, counter) = signed.split_last_chunk::<8>()?;
    let (&VERSION, sid) = head.split_first()? else { return None };
    Some(Parsed {
        sid: SessionId(Uuid::from_slice(sid).ok()?),
        counter: u64::from_be_bytes(*counter),
        mac: mac.try_into().ok()?,
    })
}

impl Parsed {
    /// Whether the token was issued under `key`. Constant-time in the MAC.
    #[must_use]
    pub fn authentic(&self, key: &[u8; 32]) -> bool {
        hmac::verify(&mac_key(key), &message(self.sid, self.counter), &self.mac).is_ok()
    }
}

impl std::fmt::Debug for Parsed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Parsed({} #{}, …)", self.sid, self.counter)
    }
}

fn mac_key(key: &[u8; 32]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key)
}

fn message(sid: SessionId, counter: u64) -> [u8; SIGNED_LEN] {
    let mut message = [VERSION; SIGNED_LEN];
    message[1..17].copy_from_slice(sid.0.as_bytes());
    message[17..].copy_from_slice(&counter.to_be_bytes());
    message
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn sid() -> SessionId {
        "0190a1b2-0000-7000-8000-00000000000a".parse().unwrap()
    }

    #[test]
    fn a_token_comes_back_as_it_was_issued() {
        for counter in [0, 1, 77, u64::MAX] {
            let parsed = parse(issue(&KEY, sid(), counter).expose_secret()).unwrap();
            assert_eq!((parsed.sid, parsed.counter), (sid(), counter));
            assert!(parsed.authentic(&KEY));
        }
    }

    #[test]
    fn another_session_s_key_authenticates_nothing() {
        let parsed = parse(issue(&KEY, sid(), 1).expose_secret()).unwrap();
        assert!(!parsed.authentic(&[8; 32]));
    }

    #[test]
    fn a_counter_raised_by_the_client_is_not_authentic() {
        let mut parsed = parse(issue(&KEY, sid(), 1).expose_secret()).unwrap();
        parsed.counter = 2;
        assert!(!parsed.authentic(&KEY));
    }

    #[test]
    fn an_unknown_version_is_no_token() {
        let token = issue(&KEY, sid(), 1);
        let mut bytes = URL_SAFE_NO_PAD.decode(token.expose_secret()).unwrap();
        bytes[0] = 2;
        assert!(parse(&URL_SAFE_NO_PAD.encode(bytes)).is_none());
    }

    #[test]
    fn a_token_cut_padded_or_lengthened_is_none() {
        let token = issue(&KEY, sid(), 1);
        let token = token.expose_secret();
        assert_eq!(token.len(), 76);
        assert!(parse(&token[..75]).is_none() && parse(&token[..72]).is_none() && parse("").is_none());
        assert!(parse(&format!("{token}A")).is_none() && parse(&format!("{token}AAAA")).is_none());
        assert!(parse(&format!(" {token}")).is_none() && parse(&format!("{}=", &token[..75])).is_none());
    }

    #[test]
    fn debug_does_not_show_the_mac() {
        let parsed = parse(issue(&KEY, sid(), 3).expose_secret()).unwrap();
        assert_eq!(format!("{parsed:?}"), format!("Parsed({} #3, …)", sid()));
    }

    proptest! {
        #[test]
        fn no_changed_byte_stays_authentic(at in 0..TOKEN_LEN, flip in 1_u8..) {
            let token = issue(&KEY, sid(), 5);
            let mut bytes = URL_SAFE_NO_PAD.decode(token.expose_secret()).unwrap();
            bytes[at] ^= flip;
            let parsed = parse(&URL_SAFE_NO_PAD.encode(bytes));
            prop_assert!(parsed.is_none_or(|parsed| !parsed.authentic(&KEY)));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,120}") {
            prop_assert!(parse(&text).is_none_or(|parsed| !parsed.authentic(&KEY)));
        }
    }
}
