//! Keys: the RFCs' own vectors, and what must not load, verify or print.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::ExposeSecret;

use super::*;

pub(crate) fn key(algorithm: Algorithm) -> SigningKey {
    let pkcs8 = SigningKey::generate_pkcs8(algorithm).unwrap();
    SigningKey::from_pkcs8(algorithm, pkcs8.expose_secret()).unwrap()
}

/// The key of RFC 8037, appendix A.
fn rfc8037_key() -> SigningKey {
    let mut pkcs8 = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    pkcs8.extend(URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap());
    SigningKey::from_pkcs8(Algorithm::EdDsa, &pkcs8).unwrap()
}

#[test]
fn a_signature_verifies_with_its_own_key_only() {
    for algorithm in Algorithm::ALL {
        let (one, other) = (key(algorithm), key(algorithm));
        let signature = one.sign(b"input").unwrap();
        assert_eq!(one.verifying().verify(b"input", &signature), Ok(()));
        assert_eq!(one.verifying().verify(b"inpux", &signature), Err(KeyFault::Signature));
        assert_eq!(one.verifying().verify(b"input", &signature[..signature.len() - 1]), Err(KeyFault::Signature));
        assert_eq!(other.verifying().verify(b"input", &signature), Err(KeyFault::Signature));
    }
}

#[test]
fn the_kid_is_the_thumbprint_of_rfc_8037() {
    let key = rfc8037_key();
    assert_eq!(&**key.kid(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    assert_eq!(key.verifying().jwk()["x"], "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
}

#[test]
fn the_signature_is_the_one_of_rfc_8037() {
    let input = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let expected = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    assert_eq!(URL_SAFE_NO_PAD.encode(rfc8037_key().sign(input).unwrap()), expected);
}

#[test]
fn a_key_of_one_algorithm_does_not_load_as_the_other() {
    let pkcs8 = SigningKey::generate_pkcs8(Algorithm::Es256).unwrap();
    assert_eq!(SigningKey::from_pkcs8(Algorithm::EdDsa, pkcs8.expose_secret()).map(|_| ()), Err(KeyFault::Malformed));
    assert_eq!(SigningKey::from_pkcs8(Algorithm::Es256, b"junk").map(|_| ()), Err(KeyFault::Malformed));
}

#[test]
fn a_public_key_off_the_curve_or_cut_short_is_refused() {
    let mut off_curve = [1; 65];
    off_curve[0] = 4;
    assert_eq!(VerifyingKey::new(Algorithm::Es256, &off_curve).map(|_| ()), Err(KeyFault::Malformed));
    assert_eq!(VerifyingKey::new(Algorithm::Es256, &[4; 9]).map(|_| ()), Err(KeyFault::Malformed));
    assert_eq!(VerifyingKey::new(Algorithm::EdDsa, &[1; 31]).map(|_| ()), Err(KeyFault::Malformed));
}

#[test]
fn without_a_kid_only_a_single_fitting_key_is_found() {
    let (one, two, edwards) = (key(Algorithm::Es256), key(Algorithm::Es256), key(Algorithm::EdDsa));
    let set = KeySet::new([one.verifying(), edwards.verifying()]);
    assert_eq!(set.find(None, Algorithm::Es256).unwrap().kid, *one.kid());
    let set = KeySet::new([one.verifying(), two.verifying(), edwards.verifying()]);
    assert!(set.find(None, Algorithm::Es256).is_none());
    assert_eq!(set.find(None, Algorithm::EdDsa).unwrap().kid, *edwards.kid());
    assert_eq!(set.find(Some(two.kid()), Algorithm::Es256).unwrap().kid, *two.kid());
    assert!(set.find(Some("unknown"), Algorithm::EdDsa).is_none());
}

#[test]
fn a_key_given_twice_still_counts_as_the_only_one() {
    let one = key(Algorithm::Es256);
    let set = KeySet::new([one.verifying(), one.verifying()]);
    assert_eq!(set.iter().count(), 1);
    assert!(set.find(None, Algorithm::Es256).is_some());
}

#[test]
fn the_jwks_holds_public_members_only() {
    let all = [Algorithm::Es256, Algorithm::EdDsa, Algorithm::Rs256, Algorithm::Hs256];
    let set = KeySet::new(all.map(|algorithm| key(algorithm).verifying()));
    let jwks = set.jwks();
    let names = |i: usize| {
        let mut names: Vec<_> = jwks["keys"][i].as_object().unwrap().keys().cloned().collect();
        names.sort_unstable();
        names
    };
    assert_eq!(names(0), ["alg", "crv", "kid", "kty", "use", "x", "y"]);
    assert_eq!(names(1), ["alg", "crv", "kid", "kty", "use", "x"]);
    assert_eq!(names(2), ["alg", "e", "kid", "kty", "n", "use"]);
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 3, "a secret is not published");
}

#[test]
fn debug_shows_the_kid_and_no_key_material() {
    let key = rfc8037_key();
    assert_eq!(format!("{key:?}"), format!("SigningKey(EdDSA {}, …)", key.kid()));
}

#[test]
fn only_the_listed_algorithms_have_names() {
    for name in ["none", "None", "HS512", "RS384", "es256", "ES256K", "Ed25519", ""] {
        assert_eq!(Algorithm::from_name(name), None, "{name}");
    }
    for algorithm in Algorithm::ALL {
        assert_eq!(Algorithm::from_name(algorithm.name()), Some(algorithm));
    }
}
