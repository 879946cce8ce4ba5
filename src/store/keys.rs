//! Signing keys as the store knows them: sealed, with where each stands in its life, and what may be asked of them.

use super::audit::Actor;
use crate::{
    clock::Timestamp,
    policy::{
        key_life::{KeyRules, Order, Step},
        keys::Algorithm,
    },
};

pub use crate::policy::key_life::{KeyLife, KeyState};

/// A signing key as it lies in the store: the private part sealed under the master key.
#[derive(Debug, Clone)]
pub struct StoredKey {
    /// Who it is and where it stands. Its row is its publication: whoever reads the table publishes what is there.
    pub life: KeyLife,
    /// PKCS#8, sealed; associated data: purpose and `kid`.
    pub sealed_pkcs8: Vec<u8>,
}

/// A signing key that was made and is not in the store yet.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// `kid`.
    pub kid: String,
    /// Its one algorithm.
    pub algorithm: Algorithm,
    /// As in [`StoredKey`].
    pub sealed_pkcs8: Vec<u8>,
}

/// What is asked of the signing keys.
#[derive(Debug, Clone, Copy)]
pub struct KeyAsk<'a> {
    /// What.
    pub order: Order<'a>,
    /// The algorithms that something is signed with.
    pub needed: &'a [Algorithm],
    /// When keys change.
    pub rules: &'a KeyRules,
    /// Now.
    pub now: Timestamp,
    /// Who asks, for the audit.
    pub by: &'a Actor,
}

/// What came of it.
#[derive(Debug, Clone)]
pub enum KeysAdvanced {
    /// These steps were taken, perhaps none; the keys there are now.
    Done(Vec<Step>, Vec<StoredKey>),
    /// Nothing was done: new keys of these algorithms are needed, and were not all given.
    Needs(Vec<Algorithm>),
}
