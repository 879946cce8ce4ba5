//! `tokens.signing_key`: the keys that a gateway without a store signs with.

use std::sync::Arc;

use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use secrecy::ExposeSecret;

use super::{
    checks::Checks,
    item::{At, Item},
    secret::Secret,
    settings::Settings,
};
use crate::policy::keys::{Algorithm, SigningKey};

/// Those that a PEM key may be for: a key fits one of them at most.
const FITTING: [Algorithm; 3] = [Algorithm::Es256, Algorithm::EdDsa, Algorithm::Rs256];

/// What the PEM text holds.
pub(super) fn check(item: Option<Item<Secret>>, no_store: bool, checks: &mut Checks) -> Option<Vec<Arc<SigningKey>>> {
    let Some(item) = item else { return Some(Vec::new()) };
    if !no_store {
        checks.error(&item.at, "only with store.url: none; a store makes its own keys and keeps them");
    }
    let secret = item.value?;
    match read(secret.0.expose_secret()) {
        Ok(keys) => Some(keys),
        Err(message) => {
            checks.error(&item.at, message);
            None
        }
    }
}

fn read(pem: &str) -> Result<Vec<Arc<SigningKey>>, &'static str> {
    // The library's errors could quote what they stumbled over.
    let sections: Result<Vec<_>, _> = PrivatePkcs8KeyDer::pem_slice_iter(pem.as_bytes()).collect();
    let sections = sections.map_err(|_| "not PEM")?;
    let mut keys: Vec<Arc<SigningKey>> = Vec::new();
    for section in &sections {
        let fits = |algorithm| SigningKey::from_pkcs8(algorithm, section.secret_pkcs8_der()).ok();
        let key =
            FITTING.into_iter().find_map(fits).ok_or("a key in it is none of P-256, Ed25519 or RSA from 2048 bits")?;
        if keys.iter().any(|other| other.algorithm() == key.algorithm()) {
            return Err("two keys of one algorithm; one of them signs, so give that one");
        }
        keys.push(Arc::new(key));
    }
    if keys.is_empty() {
        return Err("no private key in it: expected PEM with BEGIN PRIVATE KEY (PKCS#8, unencrypted)");
    }
    Ok(keys)
}

/// Whether there is a key for everything that is signed.
pub(super) fn check_complete(settings: &Settings, checks: &mut Checks) {
    let given = &settings.tokens.signing_keys;
    if given.is_empty() {
        return;
    }
    let missing = settings
        .signing_algorithms()
        .iter()
        .filter(|algorithm| !given.iter().any(|key| key.algorithm() == *algorithm))
        .collect::<Vec<_>>();
    for algorithm in missing {
        let who = if algorithm == settings.tokens.algorithm { "tokens.algorithm" } else { "an identity.preset" };
        checks.error(
            &At::root().child("tokens").child("signing_key"),
            format!("no {algorithm} key in it, which {who} asks for"),
        );
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, prelude::BASE64_STANDARD};

    use super::*;

    fn pem(algorithm: Algorithm) -> String {
        let pkcs8 = SigningKey::generate_pkcs8(algorithm).unwrap();
        let body = BASE64_STANDARD.encode(pkcs8.expose_secret());
        format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
    }

    #[test]
    fn each_key_is_for_the_one_algorithm_it_fits() {
        let text = FITTING.map(pem).concat();
        let algorithms: Vec<_> = read(&text).unwrap().iter().map(|key| key.algorithm()).collect();
        assert_eq!(algorithms, FITTING);
        assert_eq!(read(&text).unwrap()[0].kid(), read(&text).unwrap()[0].kid());
    }

    #[test]
    fn what_is_no_key_of_use_is_refused_and_never_quoted() {
        let twice = [pem(Algorithm::Es256), pem(Algorithm::Es256)].concat();
        let broken = pem(Algorithm::Es256).replace("MI", "!!");
        for text in [
            "",
            "hunter2",
            &broken,
            &twice,
            &pem(Algorithm::Es384),
            "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\naHVudGVyMg==\n-----END ENCRYPTED PRIVATE KEY-----\n",
        ] {
            let told = read(text).unwrap_err();
            assert!(!told.contains("hunter2") && !told.contains("aHVu"), "{told}");
        }
    }
}
