//! The device cookie: proof that somebody has logged in to an account from here before. It opens nothing; it only has
//! failures counted apart ([`crate::policy::lockout`]), so that nobody else's keep its owner out.
//!
//! `base64url(version ‖ user id (16 bytes) ‖ nonce (16) ‖ issued (i64 seconds, big-endian) ‖ HMAC-SHA256 (32))`, the
//! MAC over everything before it. Nothing is stored of one before an attempt with it fails.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::SecretString;
use uuid::Uuid;

use crate::{clock::Timestamp, policy::ids::UserId};

const VERSION: u8 = 1;
const SIGNED_LEN: usize = 1 + 16 + 16 + 8;
const COOKIE_LEN: usize = SIGNED_LEN + 32;
/// Characters of 73 bytes in base64 without padding.
const TEXT_LEN: usize = 98;
/// A clock of another gateway may be so much ahead.
const LEEWAY: Duration = Duration::from_mins(1);

/// What a cookie says that is authentic, and of now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Whose login it was.
    pub user: UserId,
    /// Which login.
    pub nonce: Uuid,
    /// When it ends.
    pub expires: Timestamp,
}

/// The cookie of a login that happens at `issued`.
#[must_use]
pub fn issue(key: &[u8; 32], user: UserId, nonce: Uuid, issued: Timestamp) -> SecretString {
    let mut bytes = [VERSION; COOKIE_LEN];
    let (signed, mac) = bytes.split_at_mut(SIGNED_LEN);
    signed[1..17].copy_from_slice(user.0.as_bytes());
    signed[17..33].copy_from_slice(nonce.as_bytes());
    signed[33..].copy_from_slice(&issued.seconds().to_be_bytes());
    mac.copy_from_slice(hmac::sign(&mac_key(key), signed).as_ref());
    URL_SAFE_NO_PAD.encode(bytes).into()
}

/// Reads a cookie; `None` when it is none of ours, not of now, or of somebody else than `user`. Constant-time in the MAC.
#[must_use]
pub fn read(key: &[u8; 32], text: &str, user: UserId, life: Duration, now: Timestamp) -> Option<Device> {
    authentic(key, text, life, now).filter(|device| device.user == user)
}

/// Reads a cookie of whomever; `None` when it is none of ours, or not of now. Constant-time in the MAC.
#[must_use]
pub fn authentic(key: &[u8; 32], text: &str, life: Duration, now: Timestamp) -> Option<Device> {
    let mut bytes = [0; COOKIE_LEN + 2];
    if text.len() != TEXT_LEN || URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) != Ok(COOKIE_LEN) {
        return None;
    }
    let (signed, mac) = bytes[..COOKIE_LEN].split_at(SIGNED_LEN);
    hmac::verify(&mac_key(key), signed, mac).ok()?;
    let (head, issued) = signed.split_last_chunk::<8>()?;
    let (&VERSION, ids) = head.split_first()? else { return None };
    let (whose, nonce) = ids.split_at(16);
    let issued = Timestamp::from_seconds(i64::from_be_bytes(*issued));
    let device = Device {
        user: UserId(Uuid::from_slice(whose).ok()?),
        nonce: Uuid::from_slice(nonce).ok()?,
        expires: issued.plus(life),
    };
    (issued <= now.plus(LEEWAY) && now < device.expires).then_some(device)
}

fn mac_key(key: &[u8; 32]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::*;

    const KEY: [u8; 32] = [7; 32];
    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
    const LIFE: Duration = Duration::from_hours(180 * 24);

    fn user(last: u128) -> UserId {
        UserId(Uuid::from_u128(last))
    }

    fn cookie() -> SecretString {
        issue(&KEY, user(1), Uuid::from_u128(9), NOW)
    }

    fn reads(text: &str, whose: UserId, now: Timestamp) -> bool {
        read(&KEY, text, whose, LIFE, now).is_some()
    }

    #[test]
    fn a_cookie_comes_back_as_it_was_issued() {
        let device = read(&KEY, cookie().expose_secret(), user(1), LIFE, NOW).unwrap();
        assert_eq!(device, Device { user: user(1), nonce: Uuid::from_u128(9), expires: NOW.plus(LIFE) });
        assert_eq!(cookie().expose_secret().len(), TEXT_LEN);
    }

    #[test]
    fn it_is_worth_nothing_for_another_account_under_another_key_or_out_of_its_time() {
        let cookie = cookie();
        let text = cookie.expose_secret();
        assert!(!reads(text, user(2), NOW));
        assert_eq!(authentic(&KEY, text, LIFE, NOW).unwrap().user, user(1), "whoever asks");
        assert!(
            authentic(&[8; 32], text, LIFE, NOW).is_none() && authentic(&KEY, text, LIFE, NOW.plus(LIFE)).is_none()
        );
        assert!(read(&[8; 32], text, user(1), LIFE, NOW).is_none());
        assert!(reads(text, user(1), NOW.plus(LIFE).minus(Duration::from_secs(1))));
        assert!(!reads(text, user(1), NOW.plus(LIFE)));
        assert!(!reads(text, user(1), NOW.minus(Duration::from_mins(2))), "of the future");
    }

    #[test]
    fn one_cut_padded_or_lengthened_is_none() {
        let cookie = cookie();
        let text = cookie.expose_secret();
        for changed in [&text[..97], "", &format!("{text}="), &format!("{text}A"), &format!(" {}", &text[..97])] {
            assert!(!reads(changed, user(1), NOW), "{changed}");
        }
    }

    proptest! {
        #[test]
        fn no_changed_byte_stays_authentic(at in 0..COOKIE_LEN, flip in 1_u8..) {
            let mut bytes = URL_SAFE_NO_PAD.decode(cookie().expose_secret()).unwrap();
            bytes[at] ^= flip;
            prop_assert!(!reads(&URL_SAFE_NO_PAD.encode(bytes), user(1), NOW));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,120}") {
            prop_assert!(!reads(&text, user(1), NOW));
        }
    }
}
