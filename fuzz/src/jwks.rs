//! `policy::jwks`: what of a key set may verify is public, of an algorithm that is allowed, and can be published again.

use std::collections::BTreeSet;

use portcullis::policy::{
    jwks::{MAX_KEYS, parse},
    keys::Algorithm,
};

use super::lines;

/// The bytes as a key set.
pub fn check(data: &[u8]) -> bool {
    let Ok((keys, left_out)) = parse(data, &Algorithm::ALL) else { return false };
    // The other readers of the same bytes: a set is an object with a list of keys.
    let Some(document) = lines::json(data) else { return false };
    let listed = document["keys"].as_array().expect("a list of keys");
    assert!(listed.len() <= MAX_KEYS);
    assert_eq!(keys.len() + left_out, listed.len());
    for key in keys.iter() {
        assert!(key.algorithm != Algorithm::Hs256, "a secret out of a published set");
        let published = key.jwk().as_object().expect("a JWK");
        assert!(["d", "p", "q", "dp", "dq", "qi", "k", "oth"].iter().all(|member| !published.contains_key(*member)));
        assert!(key.verify(b"anything", data).is_err() && key.verify(b"", b"").is_err());
    }
    let thumbprints = |keys: &portcullis::policy::keys::KeySet| {
        keys.iter().map(|key| key.thumbprint.to_string()).collect::<BTreeSet<_>>()
    };
    let (again, odd) = parse(keys.jwks().to_string().as_bytes(), &Algorithm::ALL).expect("our own set");
    assert_eq!((thumbprints(&again), odd), (thumbprints(&keys), keys.len() - again.len()));
    for algorithm in Algorithm::ALL {
        let (few, _) = parse(data, &[algorithm]).expect("the same set");
        assert!(few.iter().all(|key| key.algorithm == algorithm), "{algorithm}");
    }
    assert!(parse(data, &[]).expect("the same set").0.is_empty());
    !keys.is_empty()
}
