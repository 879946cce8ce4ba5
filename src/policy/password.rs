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
