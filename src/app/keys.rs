//! The signing keys at start: unsealed, or the first one made and sealed; never quietly replaced.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretSlice};

use crate::{
    clock::{Clock, Entropy},
    gate::keyring::Keyring,
    policy::{
        keys::{Algorithm, KeyFault, KeySet, SigningKey},
        master_key::MasterKey,
    },
    store::{KeyState, Store, StoreFault, StoredKey},
};

/// Purpose bound into the seal of a signing key.
const PURPOSE: &str = "signing-key";

/// Why there are no keys to sign with.
#[derive(Debug, thiserror::Error)]
pub enum KeysFault {
    /// The master key does not open what was sealed.
    #[error(
        "signing key {0} cannot be unsealed: the master key is not the one it was sealed under. \
         Give the right key back; it is never replaced, since that would end every session"
    )]
    WrongMasterKey(String),
    /// No key in the store may sign.
    #[error("the store holds signing keys but none is current")]
    NoCurrent,
    /// A key does not parse or cannot be made.
    #[error(transparent)]
    Key(#[from] KeyFault),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreFault),
}

/// Unseals every key and, in an empty store, makes the first: once for all gateways that start at the same time.
pub(super) async fn open(
    store: &dyn Store,
    master: &MasterKey,
    algorithm: Algorithm,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<Keyring, KeysFault> {
    let mut stored = store.signing_keys().await?;
    if stored.is_empty() {
        stored = store.ensure_signing_key(&make(master, algorithm, clock, entropy)?).await?;
    }
    let mut current = None;
    let mut verifying = Vec::with_capacity(stored.len());
    for key in &stored {
        let pkcs8 = master
            .open(PURPOSE, &key.kid, &key.sealed_pkcs8)
            .map_err(|_| KeysFault::WrongMasterKey(key.kid.clone()))?;
        let signing = Arc::new(SigningKey::from_pkcs8(key.algorithm, pkcs8.expose_secret())?);
        verifying.push(signing.verifying());
        if key.state == KeyState::Current {
            current = Some(signing);
        }
    }
    let current = current.ok_or(KeysFault::NoCurrent)?;
    Ok(Keyring::new(current, Arc::new(KeySet::new(verifying))))
}

/// The secret that the operator gives for access tokens.
pub(super) fn of_secret(secret: &SecretSlice<u8>) -> Result<SigningKey, KeysFault> {
    Ok(SigningKey::from_pkcs8(Algorithm::Hs256, secret.expose_secret())?)
}

fn make(
    master: &MasterKey,
    algorithm: Algorithm,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<StoredKey, KeyFault> {
    let pkcs8 = SigningKey::generate_pkcs8(algorithm)?;
    let kid = SigningKey::from_pkcs8(algorithm, pkcs8.expose_secret())?.kid().to_string();
    let mut nonce = [0; 12];
    entropy.fill(&mut nonce);
    Ok(StoredKey {
        sealed_pkcs8: master.seal(PURPOSE, &kid, nonce, pkcs8.expose_secret()),
        kid,
        algorithm,
        state: KeyState::Current,
        created_at: clock.now(),
    })
}
