//! Claims that did not fit an identity, until the service asks for them or the identity ends.
//!
//! An identity that refers to claims carries a bearer token that reads them here, at `/.well-known/portcullis/claims`:
//! OIDC Core 1.0 §5.6.2 (the endpoint is `portal/claims.rs`). The token is 32 random bytes, only the service has it,
//! and what is kept is found by its digest.
//!
//! Kept in this process alone: with several gateways a cluster's `claims_url` must lead back to the very one that sent
//! the identity. Bounded; what is pushed out is answered 401, and the service knows that it does not know.

use std::sync::Arc;

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use quick_cache::{Weighter, sync::Cache};

use crate::{
    clock::{Clock, Entropy, Timestamp},
    gate::keyring::Keyring,
    policy::{
        by_reference::ByReference,
        claims::Claims,
        keys::{Algorithm, KeyFault, SigningKey},
        mint::{self, ReferredClaims},
    },
};

/// What is kept at once, in KiB of memory: the claims of thousands.
const MOST_KIB: u64 = 64 * 1_024;

/// Of one caller, usually.
const USUAL_KIB: u64 = 16;

/// Where services ask, below the cluster's `claims_url`.
pub const CLAIMS_PATH: &str = "/.well-known/portcullis/claims";

/// Claims that some identity refers to.
#[derive(Debug)]
struct Referred {
    issuer: Arc<str>,
    audience: Arc<str>,
    claims: Arc<Claims>,
    named: ByReference,
    key: Arc<SigningKey>,
    expires: Timestamp,
}

/// As large as it is: a thousand short roles are ten times what their token was.
#[derive(Debug, Clone)]
struct BySize;

impl Weighter<[u8; 32], Arc<Referred>> for BySize {
    fn weight(&self, _: &[u8; 32], referred: &Arc<Referred>) -> u64 {
        // With what is no list: 6 KiB at most, since tokens have 8.
        8 + u64::try_from(referred.claims.size_of_lists() / 1_024).unwrap_or(MOST_KIB)
    }
}

/// An identity that refers to claims.
#[derive(Debug, Clone, Copy)]
pub struct NewReference<'a> {
    /// `iss` of the identity.
    pub issuer: &'a Arc<str>,
    /// `aud` of the identity.
    pub audience: &'a Arc<str>,
    /// Whose claims.
    pub claims: &'a Arc<Claims>,
    /// Which of them.
    pub named: ByReference,
    /// What signs them, as it signs the identity.
    pub key: &'a Arc<SigningKey>,
    /// End of the identity.
    pub expires: Timestamp,
}

/// Claims by reference.
pub struct References {
    kept: Cache<[u8; 32], Arc<Referred>, BySize>,
    entropy: Arc<dyn Entropy>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for References {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("References(…)")
    }
}

impl References {
    /// None yet.
    #[must_use]
    pub fn new(entropy: Arc<dyn Entropy>, clock: Arc<dyn Clock>) -> Self {
        let usually = usize::try_from(MOST_KIB / USUAL_KIB).unwrap_or_default();
        Self { kept: Cache::with_weighter(usually, MOST_KIB, BySize), entropy, clock }
    }

    /// Keeps the claims until the identity ends; the token that reads them.
    #[must_use]
    pub fn keep(&self, new: NewReference<'_>) -> String {
        let mut token = [0; 32];
        self.entropy.fill(&mut token);
        let token = URL_SAFE_NO_PAD.encode(token);
        let referred = Referred {
            issuer: Arc::clone(new.issuer),
            audience: Arc::clone(new.audience),
            claims: Arc::clone(new.claims),
            named: new.named,
            key: Arc::clone(new.key),
            expires: new.expires,
        };
        self.kept.insert(digest_of(&token), Arc::new(referred));
        token
    }

    /// The claims behind a token, signed for the service that it was given to; `None`: unknown, or its identity is over.
    /// A key that is gone meanwhile signs them no more: the one that signs now does.
    pub fn read(&self, token: &str, keyring: &Keyring) -> Option<Result<String, KeyFault>> {
        let now = self.clock.now();
        let referred = self.kept.get(&digest_of(token)).filter(|referred| now < referred.expires)?;
        // A service's secret is no key of ours, and its own to change.
        let key = &referred.key;
        let is_good = key.algorithm() == Algorithm::Hs256 || keyring.published().get(key.kid()).is_some();
        let key = if is_good { Arc::clone(key) } else { keyring.own() };
        Some(mint::claims_token(
            &key,
            &ReferredClaims {
                issuer: &referred.issuer,
                audience: &referred.audience,
                issued: now.seconds(),
                expires: referred.expires.seconds(),
                claims: &referred.claims,
                named: referred.named,
            },
        ))
    }
}

fn digest_of(token: &str) -> [u8; 32] {
    let mut key = [0; 32];
    key.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    key
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

    use super::*;
    use crate::{
        clock::{SystemEntropy, Tick},
        policy::{claims::tests::claims, keys::tests::key},
    };

    /// Seconds, by hand.
    struct Standing(AtomicI64);

    impl Clock for Standing {
        fn now(&self) -> Timestamp {
            Timestamp::from_seconds(self.0.load(Relaxed))
        }

        fn tick(&self) -> Tick {
            Tick::from_nanos(0)
        }
    }

    fn references() -> (References, Arc<Standing>) {
        let clock = Arc::new(Standing(AtomicI64::new(1_000)));
        (References::new(Arc::new(SystemEntropy), Arc::clone(&clock) as Arc<dyn Clock>), clock)
    }

    fn keep(references: &References, key: &Arc<SigningKey>) -> String {
        keep_of(references, key, Claims { org: Some("x".repeat(5_000).into()), ..claims() })
    }

    fn keep_of(references: &References, key: &Arc<SigningKey>, claims: Claims) -> String {
        let claims = Arc::new(claims);
        references.keep(NewReference {
            issuer: &"https://gw.test".into(),
            audience: &"rag".into(),
            named: ByReference::of(&claims),
            claims: &claims,
            key,
            expires: Timestamp::from_seconds(1_060),
        })
    }

    fn keyring(key: &Arc<SigningKey>) -> Keyring {
        Keyring::new(Arc::clone(key), Vec::new(), &[])
    }

    #[test]
    fn a_key_that_is_gone_signs_no_claims() {
        let (references, _) = references();
        let [old, new] = [(); 2].map(|()| Arc::new(key(Algorithm::Es256)));
        let token = keep(&references, &old);
        let signed_by = |keyring: &Keyring| {
            let signed = references.read(&token, keyring).unwrap().unwrap();
            let (input, signature) = signed.rsplit_once('.').unwrap();
            let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
            [&old, &new].map(|key| key.verifying().verify(input.as_bytes(), &signature).is_ok())
        };
        assert_eq!(signed_by(&keyring(&old)), [true, false]);
        let rotated = Keyring::new(Arc::clone(&new), Vec::new(), &[old.verifying()]);
        assert_eq!(signed_by(&rotated), [true, false], "it verifies still");
        assert_eq!(signed_by(&keyring(&new)), [false, true]);
    }

    #[test]
    fn a_reference_ends_with_its_identity() {
        let (references, clock) = references();
        let key = Arc::new(key(Algorithm::Es256));
        let (token, keyring) = (keep(&references, &key), keyring(&key));
        assert!(references.read(&token[1..], &keyring).is_none());
        clock.0.store(1_059, Relaxed);
        assert!(references.read(&token, &keyring).is_some());
        clock.0.store(1_060, Relaxed);
        assert!(references.read(&token, &keyring).is_none());
    }

    #[test]
    fn a_flood_of_large_callers_keeps_no_more_than_there_is_room_for() {
        let ((references, _), key) = (references(), Arc::new(key(Algorithm::Es256)));
        // As many as a token of 8 KiB has room for.
        let roles: Vec<Arc<str>> = (0..1_400).map(|number| format!("{number:x}").into()).collect();
        let mut last = String::new();
        for _ in 0..2_000 {
            last = keep_of(&references, &key, Claims { roles: roles.clone(), ..claims() });
        }
        let (kept, each) = (references.kept.len(), 1_400 * 50);
        assert!(kept > 500 && kept * each <= 64 * 1_024 * 1_024, "{kept} of {each} bytes each");
        assert!(references.read(&last, &keyring(&key)).is_some(), "the latest is there");
        for _ in 0..20_000 {
            keep(&references, &key);
        }
        assert!(references.kept.len() <= 8_192, "{}", references.kept.len());
    }
}
