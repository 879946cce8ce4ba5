//! API keys: `pk_<id>_<secret>`, what a user gives to a program of its own.
//!
//! The id is a UUID in 32 hexadecimal digits, the secret base64url (RFC 4648 §5) of 32 random bytes and a check of 8.
//! The check is an HMAC-SHA-256 (RFC 2104) over id and secret, cut, under a key of this deployment's: what was not
//! issued here is told without a look into the store, however many make keys up. It grants nothing: whether there is
//! such a key is known by its hash, another HMAC over the same, which is all that the store keeps. Both keys come of
//! the master key, so a dump of the store neither is a key nor lets anybody try one.

use std::fmt;

use aws_lc_rs::{constant_time, hmac};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use crate::{
    clock::Timestamp,
    policy::{ids::ApiKeyId, master_key::MasterKey, reason::Reason},
};

/// How every key begins, and no access token does.
pub const PREFIX: &str = "pk_";

/// Random bytes of a secret.
pub const SECRET_LEN: usize = 32;

/// What a key's owner may call it: characters.
const NAME_CHARS: usize = 100;

const ID_LEN: usize = 32;
const CHECK_LEN: usize = 8;
const TAIL_LEN: usize = SECRET_LEN + CHECK_LEN;
/// The same in base64url without padding.
const TAIL_TEXT_LEN: usize = (TAIL_LEN * 4).div_ceil(3);
/// Characters of a whole key.
pub const KEY_LEN: usize = PREFIX.len() + ID_LEN + 1 + TAIL_TEXT_LEN;

/// Purposes of the derived keys; see [`MasterKey::derive`].
const HASHING: &str = "api-key/hash/v1";
const CHECKING: &str = "api-key/check/v1";

/// Makes keys and knows those that were made here.
pub struct ApiKeyMint {
    hashing: hmac::Key,
    checking: hmac::Key,
}

impl fmt::Debug for ApiKeyMint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKeyMint(…)")
    }
}

/// A key that was made here. What it is worth its row says.
pub struct Shown {
    /// Which it claims to be.
    pub id: ApiKeyId,
    hash: [u8; 32],
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shown({}, …)", self.id)
    }
}

/// A new key.
#[derive(Debug)]
pub struct Made {
    /// The key itself: for its owner, once.
    pub key: SecretString,
    /// What is kept of it.
    pub hash: [u8; 32],
}

impl ApiKeyMint {
    /// Of a deployment.
    #[must_use]
    pub fn new(master: &MasterKey) -> Self {
        let key = |purpose| hmac::Key::new(hmac::HMAC_SHA256, master.derive(purpose, &[], &[]).expose_secret());
        Self { hashing: key(HASHING), checking: key(CHECKING) }
    }

    /// A new key of this id; `secret` is random.
    #[must_use]
    pub fn make(&self, id: ApiKeyId, secret: &[u8; SECRET_LEN]) -> Made {
        let mut tail = [0; TAIL_LEN];
        let (front, check) = tail.split_at_mut(SECRET_LEN);
        front.copy_from_slice(secret);
        check.copy_from_slice(&self.check(id, secret));
        let mut key = String::with_capacity(KEY_LEN);
        key.push_str(PREFIX);
        key.push_str(id.0.as_simple().encode_lower(&mut Uuid::encode_buffer()));
        key.push('_');
        URL_SAFE_NO_PAD.encode_string(tail, &mut key);
        Made { key: key.into(), hash: self.hash(id, secret) }
    }

    /// A key that a client shows; `None`: no such key was ever made here.
    #[must_use]
    pub fn read(&self, text: &str) -> Option<Shown> {
        let (id, tail) = taken_apart(text)?;
        let (secret, check) = tail.split_first_chunk::<SECRET_LEN>()?;
        constant_time::verify_slices_are_equal(&self.check(id, secret), check).ok()?;
        Some(Shown { id, hash: self.hash(id, secret) })
    }

    fn hash(&self, id: ApiKeyId, secret: &[u8; SECRET_LEN]) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(hmac::sign(&self.hashing, &message(id, secret)).as_ref());
        hash
    }

    fn check(&self, id: ApiKeyId, secret: &[u8; SECRET_LEN]) -> [u8; CHECK_LEN] {
        let mut check = [0; CHECK_LEN];
        let whole = hmac::sign(&self.checking, &message(id, secret));
        check.copy_from_slice(&whole.as_ref()[..CHECK_LEN]);
        check
    }
}

impl Shown {
    /// Whether it is the key of which this was kept. In constant time.
    #[must_use]
    pub fn is_kept_as(&self, hash: &[u8; 32]) -> bool {
        constant_time::verify_slices_are_equal(&self.hash, hash).is_ok()
    }
}

/// Whether a bearer token means to be an API key.
#[must_use]
pub fn is_meant(token: &str) -> bool {
    token.starts_with(PREFIX)
}

/// Every part has its one length and its one spelling, so that a key is one text.
fn taken_apart(text: &str) -> Option<(ApiKeyId, [u8; TAIL_LEN])> {
    let rest = text.strip_prefix(PREFIX).filter(|_| text.len() == KEY_LEN)?;
    let (id, tail) = rest.split_at_checked(ID_LEN)?;
    let tail = tail.strip_prefix('_')?;
    if id.bytes().any(|byte| !matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; TAIL_LEN];
    if URL_SAFE_NO_PAD.decode_slice(tail, &mut bytes) != Ok(TAIL_LEN) {
        return None;
    }
    Some((ApiKeyId(Uuid::try_parse(id).ok()?), bytes))
}

fn message(id: ApiKeyId, secret: &[u8; SECRET_LEN]) -> [u8; 16 + SECRET_LEN] {
    let mut message = [0; 16 + SECRET_LEN];
    let (front, rest) = message.split_at_mut(16);
    front.copy_from_slice(id.0.as_bytes());
    rest.copy_from_slice(secret);
    message
}

/// What a row says of a key and of its owner at this moment.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// What was kept of the key.
    pub hash: &'a [u8; 32],
    /// When it ends; `None`: never by itself.
    pub expires_at: Option<Timestamp>,
    /// Whether its owner's account is.
    pub owner_active: bool,
}

/// Whether a key that is shown is good.
pub fn judge(shown: &Shown, standing: &Standing<'_>, now: Timestamp) -> Result<(), Reason> {
    if !shown.is_kept_as(standing.hash) || !standing.owner_active {
        return Err(Reason::ApiKeyInvalid);
    }
    unexpired(standing.expires_at, now)
}

/// Whether a key that ends then is over.
pub fn unexpired(expires_at: Option<Timestamp>, now: Timestamp) -> Result<(), Reason> {
    if expires_at.is_some_and(|end| end <= now) { Err(Reason::ApiKeyExpired) } else { Ok(()) }
}

/// The roles a key has now: those of its owner's, or those of them that the key is limited to, in the owner's order.
#[must_use]
pub fn roles<'o>(key: Option<&[String]>, owner: &'o [String]) -> Vec<&'o str> {
    let has = |role: &&String| key.is_none_or(|key| key.contains(role));
    owner.iter().filter(has).map(String::as_str).collect()
}

/// Why a key's name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("A key's name has 1 to {NAME_CHARS} characters and no control characters.")]
pub struct NameFault;

/// A key's name: trimmed.
pub fn name(typed: &str) -> Result<String, NameFault> {
    let name = super::validate::full_name(typed).map_err(|_| NameFault)?;
    if name.chars().count() <= NAME_CHARS { Ok(name) } else { Err(NameFault) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::master_key::MASTER_KEY_LEN;

    const SECRET: [u8; SECRET_LEN] = [0xa5; SECRET_LEN];

    fn mint(byte: u8) -> ApiKeyMint {
        ApiKeyMint::new(&MasterKey::new(&mut [byte; MASTER_KEY_LEN]))
    }

    fn id() -> ApiKeyId {
        "0190a1b2-0000-7000-8000-00000000000a".parse().unwrap()
    }

    fn key() -> String {
        mint(1).make(id(), &SECRET).key.expose_secret().to_owned()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    #[test]
    fn a_key_says_which_it_is_and_comes_back_as_it_was_made() {
        let made = mint(1).make(id(), &SECRET);
        let text = made.key.expose_secret();
        assert!(text.starts_with("pk_0190a1b200007000800000000000000a_"), "{text}");
        assert_eq!((text.len(), KEY_LEN), (90, 90));
        let shown = mint(1).read(text).unwrap();
        assert_eq!(shown.id, id());
        assert!(shown.is_kept_as(&made.hash) && !shown.is_kept_as(&[0; 32]));
    }

    #[test]
    fn what_is_kept_is_neither_the_secret_nor_a_plain_digest_of_it() {
        let made = mint(1).make(id(), &SECRET);
        assert_ne!(made.hash, SECRET);
        assert_ne!(made.hash, mint(2).make(id(), &SECRET).hash, "another deployment's");
        let other = "0190a1b2-0000-7000-8000-00000000000b".parse().unwrap();
        assert_ne!(made.hash, mint(1).make(other, &SECRET).hash, "moved to another row");
        assert_ne!(made.hash[..CHECK_LEN], mint(1).check(id(), &SECRET), "the key shows its check");
    }

    #[test]
    fn another_deployment_s_key_was_not_made_here() {
        assert!(mint(2).read(&key()).is_none());
    }

    #[test]
    fn every_part_has_one_spelling() {
        let key = key();
        for (other, what) in [
            (key.to_uppercase(), "case"),
            (key.replacen('a', "A", 1), "case of the id"),
            (key.replacen("pk_", "sk_", 1), "prefix"),
            (key[..KEY_LEN - 1].to_owned(), "cut"),
            (format!("{key}A"), "longer"),
            (format!("{key}="), "padded"),
            (format!(" {key}"), "led"),
            (key.replacen('_', "-", 2).replacen("pk-", "pk_", 1), "separator"),
            (String::new(), "nothing"),
            (PREFIX.to_owned(), "prefix alone"),
            (format!("{PREFIX}{}", "é".repeat(43)), "not ASCII"),
        ] {
            assert!(mint(1).read(&other).is_none(), "{what}: {other}");
        }
    }

    #[test]
    fn nothing_of_a_key_is_printed_but_its_id() {
        let shown = mint(1).read(&key()).unwrap();
        assert_eq!(format!("{shown:?}"), format!("Shown({}, …)", id()));
        assert_eq!(format!("{:?}", mint(1)), "ApiKeyMint(…)");
        assert!(!format!("{:?}", mint(1).make(id(), &SECRET).key).contains("pk_"));
    }

    #[test]
    fn a_key_is_good_with_its_secret_before_its_end_and_while_its_owner_is() {
        let made = mint(1).make(id(), &SECRET);
        let shown = mint(1).read(made.key.expose_secret()).unwrap();
        let good = Standing { hash: &made.hash, expires_at: Some(at(10)), owner_active: true };
        assert_eq!(judge(&shown, &good, at(9)), Ok(()));
        assert_eq!(judge(&shown, &Standing { expires_at: None, ..good }, at(i64::from(u32::MAX))), Ok(()));
        assert_eq!(judge(&shown, &good, at(10)), Err(Reason::ApiKeyExpired));
        assert_eq!(judge(&shown, &Standing { owner_active: false, ..good }, at(9)), Err(Reason::ApiKeyInvalid));
        assert_eq!(judge(&shown, &Standing { hash: &[7; 32], ..good }, at(9)), Err(Reason::ApiKeyInvalid));
    }

    #[test]
    fn a_key_never_has_more_roles_than_its_owner_has_now() {
        let list = |roles: &[&str]| roles.iter().map(|role| (*role).to_owned()).collect::<Vec<_>>();
        let owner = list(&["admin", "analyst", "user"]);
        assert_eq!(roles(None, &owner), ["admin", "analyst", "user"]);
        assert_eq!(roles(Some(&list(&["user", "admin"])), &owner), ["admin", "user"]);
        assert_eq!(roles(Some(&list(&["admin", "curator"])), &list(&["user"])), [""; 0]);
        assert_eq!(roles(Some(&[]), &owner), [""; 0]);
    }

    #[test]
    fn a_name_is_something_to_read() {
        assert_eq!(name("  nightly import ").unwrap(), "nightly import");
        assert_eq!(name(&"é".repeat(100)).unwrap().chars().count(), 100);
        for bad in ["", "   ", "a\nb", "a\u{202e}b", &"x".repeat(101)] {
            assert_eq!(name(bad), Err(NameFault), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_changed_character_is_a_key(at in 3..KEY_LEN, with in "[0-9A-Za-z_-]") {
            let key = key();
            let changed = format!("{}{with}{}", &key[..at], &key[at + 1..]);
            prop_assume!(changed != key);
            prop_assert!(mint(1).read(&changed).is_none());
        }

        #[test]
        fn arbitrary_text_never_panics(text in "(pk_)?\\PC{0,120}") {
            prop_assert!(mint(1).read(&text).is_none());
        }
    }
}
