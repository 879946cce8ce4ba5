//! Passwords: the rules for new ones (NIST SP 800-63B-4 §3.1.1) and argon2id (RFC 9106).
//!
//! Length, normalisation, blocklist; no composition rules. [`hash`] and [`verify`] burn tens of milliseconds and
//! megabytes by design: call them on the hashing pool, never on a runtime thread. Every password is brought to NFC
//! first, so that one typed on another keyboard is the same password. zxcvbn reads the clock (to time itself, and for
//! this year in dates) without asking; no rule here hangs on it.

use std::borrow::Cow;

use argon2::{
    ARGON2ID_IDENT, Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version,
    password_hash::phc::{Output, ParamsString, PasswordHash, Salt},
};
use secrecy::{ExposeSecret, SecretString};
use unicode_normalization::{UnicodeNormalization, is_nfc};
use zxcvbn::{Score, feedback::Feedback, zxcvbn};

/// What a new password must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordRules {
    /// Fewest characters (Unicode scalar values after NFC).
    pub min_chars: usize,
    /// Most characters.
    pub max_chars: usize,
    /// Refuse common and context-derived passwords.
    pub blocklist: bool,
    /// Words a password may not be built around (product and company names).
    pub context_words: Vec<String>,
}

/// Why a new password is refused. The text is for the person choosing it and never holds the password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PasswordFault {
    /// Fewer characters than the rules ask.
    #[error("The password must have at least {min} characters.")]
    TooShort {
        /// Characters.
        min: usize,
    },
    /// More characters than the rules allow.
    #[error("The password must have at most {max} characters.")]
    TooLong {
        /// Characters.
        max: usize,
    },
    /// Common, or built around the person's or the product's names.
    #[error("The password is too easy to guess. {hint}")]
    Guessable {
        /// What makes it so.
        hint: String,
    },
}

/// Unicode normalisation form C (UAX #15). Borrowed when the password is in it already.
#[must_use]
pub fn normalise(password: &str) -> Cow<'_, str> {
    if is_nfc(password) { Cow::Borrowed(password) } else { Cow::Owned(password.nfc().collect()) }
}

/// Whether a new password satisfies the rules. `context` is what else an attacker would try for this person: e-mail
/// address, username, full name.
///
/// Guessable means fewer than 10^8 guesses by zxcvbn's estimate (a score below 3): common passwords, keyboard walks,
/// repetitions, and anything whose only substance is a context word. Call it on the hashing pool too: an ordinary
/// password takes a millisecond, one made to be slow about as long as a hash.
pub fn check(rules: &PasswordRules, password: &str, context: &[&str]) -> Result<(), PasswordFault> {
    // Before NFC has any work to do; composing never makes more characters out of fewer bytes than this.
    let too_long = PasswordFault::TooLong { max: rules.max_chars };
    if password.len() > rules.max_chars.saturating_mul(MAX_BYTES_PER_CHAR) {
        return Err(too_long);
    }
    let normal = normalise(password);
    let chars = normal.chars().count();
    if chars < rules.min_chars {
        return Err(PasswordFault::TooShort { min: rules.min_chars });
    }
    if chars > rules.max_chars {
        return Err(too_long);
    }
    if !rules.blocklist {
        return Ok(());
    }
    let context = context.iter().copied().chain(rules.context_words.iter().map(String::as_str));
    let words: Vec<&str> = context.flat_map(context_words).collect();
    let judged = normal.char_indices().nth(JUDGED_CHARS).map_or(&*normal, |(end, _)| &normal[..end]);
    let estimate = zxcvbn(judged, &words);
    if estimate.score() >= Score::Three {
        return Ok(());
    }
    let hint = estimate.feedback().and_then(Feedback::warning).map(|warning| warning.to_string());
    Err(PasswordFault::Guessable { hint: hint.unwrap_or_else(|| "Add a few uncommon words.".into()) })
}

/// How many characters the estimate looks at. zxcvbn tries every combination of look-alikes (`4` for `a`, `$` for
/// `s`): a hundred characters made of them cost it over a second, thirty-two a tenth of one. More characters only make
/// a password harder to guess, so one that is good this far is good.
const JUDGED_CHARS: usize = 32;

/// Bytes one character of NFC may have been made of: a base and a handful of combining marks. Generous, and still a
/// bound.
const MAX_BYTES_PER_CHAR: usize = 32;

/// A context entry whole and in parts: `ann.lee@example.org` gives also `ann`, `lee`, `example`. Short parts are in
/// too many good passwords to count against them.
fn context_words(entry: &str) -> impl Iterator<Item = &str> {
    let parts = entry.split(|c: char| !c.is_alphanumeric()).filter(|part| part.chars().count() >= 3);
    std::iter::once(entry).filter(|entry| !entry.is_empty()).chain(parts)
}

/// What a hash costs to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashCost {
    /// Memory, KiB; at least 8 per lane (RFC 9106 §3.1), in production at least 19456.
    pub memory_kib: u32,
    /// Passes over the memory; at least 1, in production at least 2.
    pub iterations: u32,
    /// Lanes; 1 to 2^24 − 1. They are computed one after the other: more lanes do not make it faster.
    pub lanes: u32,
}

/// A cost outside RFC 9106's ranges, or no memory to pay it with.
#[derive(Debug, thiserror::Error)]
#[error("the password could not be hashed: {0}")]
pub struct HashFault(String);

const OUTPUT_LEN: usize = 32;

impl HashCost {
    fn params(self) -> Result<Params, HashFault> {
        Params::new(self.memory_kib, self.iterations, self.lanes, Some(OUTPUT_LEN)).map_err(fault)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn fault(error: impl ToString) -> HashFault {
    HashFault(error.to_string())
}

/// The argon2id hash of a password, as a PHC string. `salt` is random, 16 bytes, never used twice.
pub fn hash(password: &str, salt: &[u8; 16], cost: HashCost) -> Result<SecretString, HashFault> {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, cost.params()?);
    let password = SecretString::from(normalise(password).into_owned());
    let hash = argon2.hash_password_with_salt(password.expose_secret().as_bytes(), salt).map_err(fault)?;
    Ok(hash.to_string().into())
}

/// Whether a password is the one of this PHC string, at the string's own cost. Constant-time in the outcome's bytes;
/// `false` for a string that is no argon2 hash.
#[must_use]
pub fn verify(password: &str, phc: &str) -> bool {
    let Ok(hash) = PasswordHash::new(phc) else { return false };
    let password = SecretString::from(normalise(password).into_owned());
    Argon2::default().verify_password(password.expose_secret().as_bytes(), &hash).is_ok()
}

/// Whether this PHC string is easier to guess against than one of this cost: another algorithm or version, less memory,
/// or fewer passes. Lanes are no strength. `false` for a string that is no argon2 hash: nobody's password is behind it.
#[must_use]
pub fn is_weaker(phc: &str, cost: HashCost) -> bool {
    let Ok(hash) = PasswordHash::new(phc) else { return false };
    let Ok(params) = Params::try_from(&hash) else { return false };
    hash.algorithm != ARGON2ID_IDENT
        || hash.version != Some(Version::V0x13.into())
        || params.m_cost() < cost.memory_kib
        || params.t_cost() < cost.iterations
}

/// A hash to verify against when there is no such user, so that it takes as long as when there is one. Its output is
/// not the output of any known password.
pub fn dummy_hash(cost: HashCost) -> Result<SecretString, HashFault> {
    let hash = PasswordHash {
        algorithm: ARGON2ID_IDENT,
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&cost.params()?).map_err(fault)?,
        salt: Some(Salt::new(&[0; 16]).map_err(fault)?),
        hash: Some(Output::new(&[0; OUTPUT_LEN]).map_err(fault)?),
    };
    Ok(hash.to_string().into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHEAP: HashCost = HashCost { memory_kib: 64, iterations: 1, lanes: 1 };

    fn rules() -> PasswordRules {
        PasswordRules { min_chars: 15, max_chars: 128, blocklist: true, context_words: vec!["Portcullis".into()] }
    }

    fn guessable(password: &str) -> bool {
        let context = ["ann.lee@example.org", "annlee", "Ann Lee"];
        matches!(check(&rules(), password, &context), Err(PasswordFault::Guessable { .. }))
    }

    #[test]
    fn a_long_enough_passphrase_is_good_without_digits_or_symbols() {
        for good in ["correct horse battery staple", "пять весёлых крокодилов", "qPz8vLw2mXk5tRb"]
        {
            assert_eq!(check(&rules(), good, &["ann.lee@example.org"]), Ok(()), "{good}");
        }
    }

    #[test]
    fn length_is_counted_in_characters_after_nfc() {
        let rules = PasswordRules { min_chars: 4, max_chars: 5, blocklist: false, context_words: vec![] };
        assert_eq!(check(&rules, "e\u{301}e\u{301}e\u{301}", &[]), Err(PasswordFault::TooShort { min: 4 }));
        assert_eq!(check(&rules, "e\u{301}e\u{301}e\u{301}e\u{301}e\u{301}", &[]), Ok(()));
        assert_eq!(check(&rules, "漢漢漢漢漢", &[]), Ok(()));
        assert_eq!(check(&rules, "abcdef", &[]), Err(PasswordFault::TooLong { max: 5 }));
    }

    #[test]
    fn a_huge_password_is_refused_before_any_work() {
        assert_eq!(check(&rules(), &"e\u{301}".repeat(1 << 20), &[]), Err(PasswordFault::TooLong { max: 128 }));
    }

    #[test]
    fn common_passwords_are_refused_however_long() {
        for bad in ["aaaaaaaaaaaaaaaa", "passwordpassword", "123456789012345", "qwertyuiopasdfgh", "abcabcabcabcabcabc"]
        {
            assert!(guessable(bad), "{bad}");
        }
    }

    #[test]
    fn passwords_around_the_person_or_the_product_are_refused() {
        for bad in ["ann.lee@example.org", "portcullisportcullis", "Portcullis2024!", "annleeannleeannlee"] {
            assert!(guessable(bad), "{bad}");
        }
    }

    #[test]
    fn a_password_made_to_be_slow_to_judge_is_judged_by_its_beginning() {
        // Whole, this takes zxcvbn seconds; cut, both read the same.
        let slow = "zz1!|l7+$5s@a4(c<{[3e6g9b8o0%x2".repeat(4);
        assert_eq!(check(&rules(), &slow, &[]), Ok(()));
        let weak_start = ["a".repeat(JUDGED_CHARS), slow].concat();
        assert!(guessable(&weak_start[..120]));
    }

    #[test]
    fn without_the_blocklist_only_length_counts() {
        let rules = PasswordRules { min_chars: 8, blocklist: false, ..rules() };
        assert_eq!(check(&rules, "password", &[]), Ok(()));
    }

    #[test]
    fn the_message_tells_people_what_to_do_and_never_the_password() {
        let message = check(&rules(), "portcullisportcullis", &[]).unwrap_err().to_string();
        assert!(
            message.starts_with("The password is too easy to guess. ") && !message.contains("portcullis"),
            "{message}"
        );
        assert_eq!(
            check(&rules(), "short", &[]).unwrap_err().to_string(),
            "The password must have at least 15 characters."
        );
    }

    #[test]
    fn a_hash_verifies_its_own_password_only() {
        let phc = hash("correct horse", &[1; 16], CHEAP).unwrap();
        let phc = phc.expose_secret();
        assert!(phc.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{phc}");
        assert!(verify("correct horse", phc));
        for wrong in ["correct horsf", "Correct horse", "correct horse ", ""] {
            assert!(!verify(wrong, phc), "{wrong}");
        }
    }

    #[test]
    fn a_password_typed_in_another_normal_form_is_the_same_password() {
        let phc = hash("cafe\u{301} au lait", &[1; 16], CHEAP).unwrap();
        assert!(verify("caf\u{e9} au lait", phc.expose_secret()));
    }

    #[test]
    fn bytes_past_72_count() {
        let phc = hash(&"x".repeat(100), &[1; 16], CHEAP).unwrap();
        assert!(!verify(&"x".repeat(99), phc.expose_secret()));
    }

    #[test]
    fn salts_make_hashes_differ() {
        let (one, two) = (hash("a", &[1; 16], CHEAP).unwrap(), hash("a", &[2; 16], CHEAP).unwrap());
        assert_ne!(one.expose_secret(), two.expose_secret());
    }

    #[test]
    fn the_dummy_hash_costs_the_same_and_no_password_fits() {
        let dummy = dummy_hash(CHEAP).unwrap();
        let real = hash("x", &[1; 16], CHEAP).unwrap();
        let cost = |phc: &SecretString| phc.expose_secret().split('$').take(4).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(cost(&dummy), cost(&real));
        assert_eq!(dummy.expose_secret().len(), real.expose_secret().len());
        assert!(!verify("", dummy.expose_secret()) && !verify("x", dummy.expose_secret()));
    }

    #[test]
    fn a_hash_of_less_than_the_cost_is_weaker_and_one_of_more_is_not() {
        let cost = HashCost { memory_kib: 64, iterations: 2, lanes: 1 };
        for (memory_kib, iterations, lanes, weaker) in [
            (64, 2, 1, false),
            (32, 2, 1, true),
            (64, 1, 1, true),
            (128, 1, 1, true),
            (32, 9, 1, true),
            (128, 3, 1, false),
            (64, 2, 4, false),
        ] {
            let phc = hash("x", &[1; 16], HashCost { memory_kib, iterations, lanes }).unwrap();
            assert_eq!(is_weaker(phc.expose_secret(), cost), weaker, "{}", phc.expose_secret());
        }
        let strong = hash("x", &[1; 16], cost).unwrap().expose_secret().to_owned();
        for old in [("argon2id", "argon2i"), ("argon2id", "argon2d"), ("v=19", "v=16")] {
            assert!(is_weaker(&strong.replace(old.0, old.1), cost), "{old:?}");
        }
        for odd in ["", "x", "$2b$12$abcdefghijklmnopqrstuv"] {
            assert!(!is_weaker(odd, cost), "{odd}");
        }
    }

    #[test]
    fn an_impossible_cost_is_an_error() {
        for cost in
            [HashCost { memory_kib: 1, ..CHEAP }, HashCost { iterations: 0, ..CHEAP }, HashCost { lanes: 0, ..CHEAP }]
        {
            assert!(hash("a", &[1; 16], cost).is_err() && dummy_hash(cost).is_err());
        }
    }

    #[test]
    fn a_string_that_is_no_hash_verifies_nothing() {
        for odd in ["", "x", "$argon2id$", "$argon2id$v=19$m=64,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA", "$plain$x"] {
            assert!(!verify("", odd) && !verify("x", odd), "{odd}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_password_is_judged_and_hashed_without_panic(password in "\\PC{0,24}", context in "\\PC{0,12}") {
            let _ = check(&PasswordRules { min_chars: 1, ..rules() }, &password, &[&context]);
            let phc = hash(&password, &[3; 16], CHEAP).unwrap();
            prop_assert!(verify(&password, phc.expose_secret()));
        }
    }
}
