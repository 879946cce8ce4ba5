//! The signing keys: unsealed, made and sealed where one is missing, never quietly replaced ([`Vault`]); followed while
//! the gateway runs ([`KeyKeeper`]). Without a store (`unkept`): those of `tokens.signing_key`, or made anew and kept
//! in memory. `of_secret` is the secret of `tokens.algorithm: HS256`.
//!
//! Each gateway reads the table once a second, and at once when the feed says that keys have changed. One that finds a
//! step due asks the store to take it: under the table's lock the step is decided again, so the first one does it and
//! the others find it done. When the store is lost, what is held goes on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use secrecy::{ExposeSecret, SecretSlice};
use tokio::{
    sync::{Mutex, Notify},
    time::MissedTickBehavior,
};

use crate::{
    app::{Rim, StartFault, force::Force},
    config::settings::{self, Settings, SigningAlgorithms},
    gate::keyring::Keyring,
    policy::{
        key_life::{KeyRules, KeyState, Order, Step, plan},
        keys::{Algorithm, KeyFault, SigningKey},
        master_key::MasterKey,
    },
    store::{KeyAsk, KeyLife, KeysAdvanced, NewKey, SharedStore, StoreFault, StoredKey, audit::Actor},
    telemetry::metrics::{Metrics, ReadResult},
};

/// Purpose bound into the seal of a signing key.
const PURPOSE: &str = "signing-key";

/// How often the table is read. [`crate::policy::key_life::LEARNED`] is several times this.
const EVERY: Duration = Duration::from_secs(1);

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

/// The store's keys, and what opens them.
pub(super) struct Vault {
    store: SharedStore,
    master: Arc<MasterKey>,
    rules: KeyRules,
    rim: Rim,
}

impl Vault {
    /// Finds the master key: made, if nothing lies sealed yet and it may be.
    pub(super) async fn open(
        store: SharedStore,
        kept: &settings::Store,
        settings: &Settings,
        rim: &Rim,
    ) -> Result<Self, StartFault> {
        let sealed_rows = !store.signing_keys().await?.is_empty();
        let master = crate::store::master_key::master_key(kept, sealed_rows, &*rim.entropy)?;
        Ok(Self { store, master: Arc::new(master), rules: settings.tokens.rotation, rim: rim.clone() })
    }

    pub(super) fn master(&self) -> Arc<MasterKey> {
        Arc::clone(&self.master)
    }

    /// An error if the master key does not open everything that is there.
    pub(super) async fn opens_all(&self) -> Result<(), KeysFault> {
        self.store.signing_keys().await?.iter().try_for_each(|key| self.unseal(key).map(drop))
    }

    /// An error if the master key opens nothing that is there: it is another one. A row that is damaged is no reason.
    pub(super) async fn opens_any(&self) -> Result<(), KeysFault> {
        let mut opened = Ok(());
        for key in self.store.signing_keys().await? {
            opened = self.unseal(&key).map(drop);
            if opened.is_ok() {
                break;
            }
        }
        opened
    }

    fn unseal(&self, key: &StoredKey) -> Result<Arc<SigningKey>, KeysFault> {
        let kid = &key.life.kid;
        let pkcs8 =
            self.master.open(PURPOSE, kid, &key.sealed_pkcs8).map_err(|_| KeysFault::WrongMasterKey(kid.clone()))?;
        Ok(Arc::new(SigningKey::from_pkcs8(key.life.algorithm, pkcs8.expose_secret())?))
    }

    fn is_due(&self, keys: &[KeyLife], needed: &[Algorithm]) -> bool {
        !plan(keys, needed, &self.rules, Order::Due, self.rim.clock.now()).is_empty()
    }

    /// Carries an order out. New keys are made before the store is asked to lock anything, and only once it has said
    /// that it needs them.
    pub(super) async fn advance(
        &self,
        order: Order<'_>,
        needed: &[Algorithm],
        by: &Actor,
    ) -> Result<(Vec<Step>, Vec<StoredKey>), KeysFault> {
        let mut spares: Vec<NewKey> = Vec::new();
        loop {
            let ask = KeyAsk { order, needed, rules: &self.rules, now: self.rim.clock.now(), by };
            match self.store.advance_signing_keys(&ask, &spares).await? {
                KeysAdvanced::Done(steps, keys) => return Ok((steps, keys)),
                KeysAdvanced::Needs(algorithms) => {
                    for algorithm in algorithms {
                        spares.push(self.make(algorithm).await?);
                    }
                }
            }
        }
    }

    async fn make(&self, algorithm: Algorithm) -> Result<NewKey, KeysFault> {
        // An RSA key takes long enough to hold up what shares the thread.
        let made = tokio::task::spawn_blocking(move || SigningKey::generate_pkcs8(algorithm)).await;
        let pkcs8 = made.map_err(|_| KeyFault::Generation)??;
        let kid = SigningKey::from_pkcs8(algorithm, pkcs8.expose_secret())?.kid().to_string();
        let mut nonce = [0; 12];
        self.rim.entropy.fill(&mut nonce);
        let sealed_pkcs8 = self.master.seal(PURPOSE, &kid, nonce, pkcs8.expose_secret());
        Ok(NewKey { kid, algorithm, sealed_pkcs8 })
    }
}

/// What the last reading brought.
struct Held {
    lives: Vec<KeyLife>,
    keys: Vec<Arc<SigningKey>>,
}

/// The keyring and how it is kept.
pub(super) struct KeyKeeper {
    pub(super) keyring: Arc<Keyring>,
    vault: Vault,
    own: Algorithm,
    metrics: Arc<Metrics>,
    /// Locked from a reading to its use: no older one overtakes a newer.
    held: Mutex<Held>,
    /// Whether the reading before failed, so that a loss is told once.
    failing: AtomicBool,
}

impl KeyKeeper {
    /// With what the store holds now; keys that are needed and missing are made, once for all gateways that look at the
    /// same time.
    pub(super) async fn open(vault: Vault, settings: &Settings, metrics: Arc<Metrics>) -> Result<Self, KeysFault> {
        let needed: Vec<_> = settings.signing_algorithms().iter().collect();
        let own = settings.tokens.algorithm;
        let (held, due) = current(&vault, &needed, Held { lives: Vec::new(), keys: Vec::new() }).await?;
        let signs = |algorithm: &Algorithm| {
            held.lives.iter().any(|life| life.state == KeyState::Current && life.algorithm == *algorithm)
        };
        match due {
            // A start with a key it cannot open would sign with others under a wrong master key.
            Err(fault @ (KeysFault::WrongMasterKey(_) | KeysFault::Key(_))) => return Err(fault),
            Err(fault) if !needed.iter().all(signs) => return Err(fault),
            // Nothing that a start needs: it is tried again each second.
            Err(fault) => tracing::warn!(%fault, "a change of signing keys that is due could not be made"),
            Ok(()) => {}
        }
        let keyring = keyring(own, &held)?;
        let keyring = match &settings.tokens.secret {
            Some(secret) => keyring.with_secret(Arc::new(of_secret(secret)?)),
            None => keyring,
        };
        let (keyring, held, failing) = (Arc::new(keyring), Mutex::new(held), AtomicBool::new(false));
        Ok(Self { keyring, vault, own, metrics, held, failing })
    }

    /// Follows the store, and takes what steps are due, for ever.
    pub(super) async fn follow(&self, force: &ArcSwap<Force>, changed: &Notify) {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = every.tick() => {}
                () = changed.notified() => {}
            }
            let needed = force.load().settings.signing_algorithms();
            let looked = self.look(&needed).await;
            let result = if looked.is_ok() { ReadResult::Ok } else { ReadResult::Failed };
            self.tell(looked);
            self.metrics.signing_key_reads.of(result).inc();
        }
    }

    /// Takes over what the store holds now.
    pub(super) async fn look(&self, needed: &SigningAlgorithms) -> Result<(), KeysFault> {
        let needed: Vec<_> = needed.iter().collect();
        let mut held = self.held.lock().await;
        let before = Held { lives: held.lives.clone(), keys: held.keys.clone() };
        let (read, due) = current(&self.vault, &needed, before).await?;
        if read.lives != held.lives {
            self.keyring.replace(&keyring(self.own, &read)?);
            let (signs, keys) = (self.keyring.own(), read.lives.len());
            tracing::info!(signs = %signs.kid(), keys, "the signing keys have changed");
            *held = read;
        }
        self.publish(&held.lives);
        due
    }

    fn publish(&self, lives: &[KeyLife]) {
        for state in KeyState::ALL {
            let count = lives.iter().filter(|life| life.state == *state).count();
            self.metrics.signing_keys.of(*state).set_count(count);
        }
        let own = |life: &&KeyLife| life.state == KeyState::Current && life.algorithm == self.own;
        if let Some(current) = lives.iter().find(own) {
            let age = self.vault.rim.clock.now().since(current.signs_since()).as_secs();
            self.metrics.signing_key_age.set(i64::try_from(age).unwrap_or(i64::MAX));
        }
    }

    fn tell(&self, looked: Result<(), KeysFault>) {
        let failed = self.failing.swap(looked.is_err(), Ordering::Relaxed);
        self.keyring.set_cut_off(looked.is_err());
        match looked {
            Err(fault) if !failed => tracing::warn!(%fault, "signing keys are not followed; what is held goes on"),
            Ok(()) if failed => tracing::info!("signing keys are followed again"),
            _ => {}
        }
    }
}

/// What the store holds once everything due is done, opened; and what came of doing it. Nothing is made under a master
/// key that is not the store's.
async fn current(vault: &Vault, needed: &[Algorithm], held: Held) -> Result<(Held, Result<(), KeysFault>), KeysFault> {
    let stored = vault.store.signing_keys().await?;
    let (read, opened_all) = opened(vault, &stored, &held.keys);
    if opened_all.is_err() || !vault.is_due(&read.lives, needed) {
        return Ok((read, opened_all));
    }
    match vault.advance(Order::Due, needed, &Actor::System).await {
        Ok((steps, stored)) => {
            for step in steps {
                tracing::info!(?step, "a change of signing keys was due, and this gateway made it");
            }
            Ok(opened(vault, &stored, &read.keys))
        }
        // What was read is still news.
        Err(fault) => Ok((read, Err(fault))),
    }
}

/// Opens what is stored, but what is `held` already. One that does not open is left out, and told: what became of the
/// others, a key that was retired above all, is still news.
fn opened(vault: &Vault, stored: &[StoredKey], held: &[Arc<SigningKey>]) -> (Held, Result<(), KeysFault>) {
    let (mut read, mut outcome) = (Held { lives: Vec::new(), keys: Vec::new() }, Ok(()));
    for key in stored {
        let held = held.iter().find(|held| **held.kid() == *key.life.kid).cloned();
        match held.map_or_else(|| vault.unseal(key), Ok) {
            Ok(opened) => {
                read.lives.push(key.life.clone());
                read.keys.push(opened);
            }
            Err(fault) => outcome = Err(fault),
        }
    }
    (read, outcome)
}

/// Every key verifies and is published, from before it signs until no token of it is left; current ones sign.
fn keyring(own: Algorithm, held: &Held) -> Result<Keyring, KeysFault> {
    let all = held.lives.iter().zip(&held.keys);
    let current = all.filter(|(life, _)| life.state == KeyState::Current).map(|(_, key)| key);
    let (owns, others): (Vec<_>, Vec<_>) = current.cloned().partition(|key| key.algorithm() == own);
    let own = owns.into_iter().next_back().ok_or(KeysFault::NoCurrent(own))?;
    let verifying: Vec<_> = held.keys.iter().map(|key| key.verifying()).collect();
    Ok(Keyring::new(own, others, &verifying))
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
    let mut others = needed.others.iter().copied().map(of).collect::<Result<Vec<_>, _>>()?;
    // Requests of the configuration before may still be signed for.
    let still = Algorithm::ALL.into_iter().filter(|algorithm| !needed.iter().any(|one| one == *algorithm));
    others.extend(still.filter_map(|algorithm| held?.of(algorithm)));
    let verifying: Vec<_> = given.iter().map(|key| key.verifying()).collect();
    Ok(Keyring::new(of(needed.own)?, others, &verifying))
}

/// The secret that the operator gives for access tokens.
pub(super) fn of_secret(secret: &SecretSlice<u8>) -> Result<SigningKey, KeysFault> {
    Ok(SigningKey::from_pkcs8(Algorithm::Hs256, secret.expose_secret())?)
}
