//! The signing keys, at the start and when a reload needs one of another algorithm. With a store (`open`): unsealed, or
//! made and sealed where one is missing; never quietly replaced. Without one (`unkept`): those of `tokens.signing_key`,
//! or made anew and kept in memory. `of_secret` is the secret of `tokens.algorithm: HS256`.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretSlice};

use crate::{
    app::Rim,
    config::settings::SigningAlgorithms,
    gate::keyring::Keyring,
    policy::{
        keys::{Algorithm, KeyFault, SigningKey},
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
    /// The key that was just made is not there.
    #[error("the store holds signing keys but none of {0} is current")]
    NoCurrent(Algorithm),
    /// A key does not parse or cannot be made.
    #[error(transparent)]
    Key(#[from] KeyFault),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreFault),
}

/// Unseals every key and makes those that are missing, one for each algorithm that is needed: once for all gateways that
/// look at the same time.
pub(super) async fn open(
    store: &dyn Store,
    master: &MasterKey,
    needed: &SigningAlgorithms,
    rim: &Rim,
) -> Result<Keyring, KeysFault> {
    let mut stored = store.signing_keys().await?;
    // Nothing is made under a master key that is not the store's.
    let mut unsealed = unseal(&stored, master)?;
    for algorithm in needed.iter() {
        if !stored.iter().any(|key| key.state == KeyState::Current && key.algorithm == algorithm) {
            stored = store.ensure_signing_key(&make(master, algorithm, rim)?).await?;
            unsealed = unseal(&stored, master)?;
        }
    }
    let signs = |algorithm: Algorithm| {
        let all = stored.iter().zip(&unsealed);
        let mut current = all.filter(|(key, _)| key.state == KeyState::Current && key.algorithm == algorithm);
        current.next_back().map(|(_, signing)| Arc::clone(signing)).ok_or(KeysFault::NoCurrent(algorithm))
    };
    let others = needed.others.iter().copied().map(signs).collect::<Result<_, _>>()?;
    let verifying: Vec<_> = unsealed.iter().map(|key| key.verifying()).collect();
    Ok(Keyring::new(signs(needed.own)?, others, &verifying))
}

fn unseal(stored: &[StoredKey], master: &MasterKey) -> Result<Vec<Arc<SigningKey>>, KeysFault> {
    let unseal = |key: &StoredKey| {
        let pkcs8 = master
            .open(PURPOSE, &key.kid, &key.sealed_pkcs8)
            .map_err(|_| KeysFault::WrongMasterKey(key.kid.clone()))?;
        Ok(Arc::new(SigningKey::from_pkcs8(key.algorithm, pkcs8.expose_secret())?))
    };
    stored.iter().map(unseal).collect()
}

/// Without a store: the keys that the operator gives, else new ones. `held` keys are kept: others see them already.
pub(super) fn unkept(
    given: &[Arc<SigningKey>],
    needed: &SigningAlgorithms,
    held: Option<&Keyring>,
) -> Result<Keyring, KeysFault> {
    let of = |algorithm: Algorithm| {
        let given = given.iter().find(|key| key.algorithm() == algorithm).cloned();
        if let Some(key) = given.or_else(|| held?.of(algorithm)) {
            return Ok(key);
        }
        let pkcs8 = SigningKey::generate_pkcs8(algorithm)?;
        Ok::<_, KeysFault>(Arc::new(SigningKey::from_pkcs8(algorithm, pkcs8.expose_secret())?))
    };
    let others = needed.others.iter().copied().map(of).collect::<Result<_, _>>()?;
    let verifying: Vec<_> = given.iter().map(|key| key.verifying()).collect();
    Ok(Keyring::new(of(needed.own)?, others, &verifying))
}

/// The secret that the operator gives for access tokens.
pub(super) fn of_secret(secret: &SecretSlice<u8>) -> Result<SigningKey, KeysFault> {
    Ok(SigningKey::from_pkcs8(Algorithm::Hs256, secret.expose_secret())?)
}

fn make(master: &MasterKey, algorithm: Algorithm, rim: &Rim) -> Result<StoredKey, KeyFault> {
    let pkcs8 = SigningKey::generate_pkcs8(algorithm)?;
    let kid = SigningKey::from_pkcs8(algorithm, pkcs8.expose_secret())?.kid().to_string();
    let mut nonce = [0; 12];
    rim.entropy.fill(&mut nonce);
    Ok(StoredKey {
        sealed_pkcs8: master.seal(PURPOSE, &kid, nonce, pkcs8.expose_secret()),
        kid,
        algorithm,
        state: KeyState::Current,
        created_at: rim.clock.now(),
    })
}
