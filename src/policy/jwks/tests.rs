//! Odd key sets, one rule a test.

use serde_json::{Value, json};

use super::*;
use crate::policy::keys::tests::key;

fn jwk(algorithm: Algorithm) -> Value {
    // Making an RSA key takes as long as everything else here.
    static RSA: std::sync::LazyLock<Value> =
        std::sync::LazyLock::new(|| key(Algorithm::Rs256).verifying().jwk().clone());
    if algorithm == Algorithm::Rs256 { RSA.clone() } else { key(algorithm).verifying().jwk().clone() }
}

fn with(mut jwk: Value, name: &str, value: Value) -> Value {
    jwk[name] = value;
    jwk
}

fn without(mut jwk: Value, name: &str) -> Value {
    jwk.as_object_mut().unwrap().remove(name);
    jwk
}

/// How many keys of a set are of use to an issuer of these algorithms.
fn used(keys: &[Value], algorithms: &[Algorithm]) -> usize {
    parse(json!({ "keys": keys }).to_string().as_bytes(), algorithms).unwrap().0.len()
}

#[test]
fn a_published_key_verifies_what_its_private_half_signed() {
    for algorithm in Algorithm::ALL.into_iter().filter(|algorithm| *algorithm != Algorithm::Hs256) {
        let key = key(algorithm);
        let named = with(key.verifying().jwk().clone(), "kid", json!("its name"));
        let (set, left_out) = parse(json!({"keys": [named]}).to_string().as_bytes(), &[algorithm]).unwrap();
        let found = set.find(Some("its name"), algorithm).unwrap();
        assert_eq!((found.verify(b"input", &key.sign(b"input").unwrap()), left_out), (Ok(()), 0), "{algorithm}");
        assert_eq!(found.thumbprint, *key.kid());
    }
}

#[test]
fn one_odd_key_never_fails_a_set() {
    let good = jwk(Algorithm::Es256);
    let odd = [
        json!(null),
        json!("key"),
        json!([]),
        json!({}),
        json!({"kty": 1}),
        json!({"kty": "XYZ", "kid": "a"}),
        json!({"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"}),
        with(good.clone(), "x", json!("AA")),
        with(good.clone(), "x", json!("not base64!")),
        with(good.clone(), "y", good["x"].clone()),
        with(good.clone(), "kid", json!(7)),
        with(good.clone(), "key_ops", json!("verify")),
        without(good.clone(), "y"),
        with(jwk(Algorithm::EdDsa), "x", json!("AAAA")),
        with(jwk(Algorithm::Rs256), "n", json!("AQAB")),
        with(jwk(Algorithm::Rs256), "e", json!("AQ")),
        with(jwk(Algorithm::Rs256), "e", json!("Ag")),
        with(jwk(Algorithm::Rs256), "e", json!("")),
    ];
    for odd in odd {
        let keys = [odd.clone(), good.clone(), odd.clone()];
        assert_eq!(used(&keys, &[Algorithm::Es256, Algorithm::EdDsa, Algorithm::Rs256]), 1, "{odd}");
    }
    let doubled = good.to_string().replacen('{', "{\"kty\":\"EC\",", 1);
    let document = format!("{{\"keys\":[{doubled},{good}]}}");
    assert_eq!(parse(document.as_bytes(), &[Algorithm::Es256]).unwrap().1, 1, "a member twice");
}

#[test]
fn keys_for_encryption_and_for_nothing_of_ours_are_never_used() {
    let good = jwk(Algorithm::Rs256);
    for (name, value) in [
        ("use", json!("enc")),
        ("use", json!("ENC")),
        ("use", json!("")),
        ("key_ops", json!(["encrypt"])),
        ("key_ops", json!([])),
        ("alg", json!("RSA-OAEP")),
        ("alg", json!("RS512")),
        ("alg", json!("none")),
    ] {
        assert_eq!(used(&[with(good.clone(), name, value.clone())], &[Algorithm::Rs256]), 0, "{name} {value}");
    }
    assert_eq!(used(&[without(without(good, "use"), "alg")], &[Algorithm::Rs256]), 1);
}

#[test]
fn secrets_and_private_keys_are_never_used() {
    let secret = json!({"kty": "oct", "alg": "HS256", "k": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"});
    assert_eq!(used(&[secret], &Algorithm::ALL), 0);
    assert_eq!(used(&[with(jwk(Algorithm::Es256), "d", json!("AA"))], &Algorithm::ALL), 0);
}

#[test]
fn a_key_has_one_algorithm_and_its_issuer_may_use_it() {
    let rsa = jwk(Algorithm::Rs256);
    let nameless = without(rsa.clone(), "alg");
    assert_eq!(used(std::slice::from_ref(&rsa), &[Algorithm::Ps256, Algorithm::Es256]), 0);
    assert_eq!(used(std::slice::from_ref(&nameless), &[Algorithm::Rs256]), 1);
    assert_eq!(used(&[nameless], &[Algorithm::Rs256, Algorithm::Ps256]), 0, "it would fit two");
    let (set, _) = parse(json!({"keys": [rsa]}).to_string().as_bytes(), &Algorithm::ALL).unwrap();
    assert_eq!(set.iter().next().unwrap().algorithm, Algorithm::Rs256);
}

#[test]
fn an_rsa_key_below_2048_bits_is_left_out() {
    let bits = |bytes: usize, first: u8| {
        let mut n = vec![0xff; bytes];
        n[0] = first;
        with(jwk(Algorithm::Rs256), "n", json!(URL_SAFE_NO_PAD.encode(n)))
    };
    assert_eq!(used(&[bits(256, 0x80)], &[Algorithm::Rs256]), 1);
    assert_eq!(used(&[bits(256, 0x7f)], &[Algorithm::Rs256]), 0, "2047 bits");
    assert_eq!(used(&[bits(128, 0xff)], &[Algorithm::Rs256]), 0);
    assert_eq!(used(&[bits(257, 0x00)], &[Algorithm::Rs256]), 1, "leading zeros are no bits");
    assert_eq!(used(&[bits(256, 0x00)], &[Algorithm::Rs256]), 0);
    assert_eq!(used(&[bits(2_000, 0xff)], &[Algorithm::Rs256]), 0, "only slow");
}

#[test]
fn a_set_of_more_than_a_hundred_keys_is_none() {
    let many = |count: usize| json!({"keys": vec![json!({}); count]}).to_string();
    assert!(parse(many(100).as_bytes(), &[Algorithm::Es256]).is_ok());
    assert_eq!(parse(many(101).as_bytes(), &[Algorithm::Es256]).map(|_| ()), Err(JwksFault::TooMany));
}

#[test]
fn what_is_no_set_is_a_fault() {
    for odd in ["", "null", "[]", "{}", "[[]]", r#"{"keys":{}}"#, r#"{"keys":null}"#, r#"{"keys":[]}x"#, "<html>"] {
        assert_eq!(parse(odd.as_bytes(), &Algorithm::ALL).map(|_| ()), Err(JwksFault::Malformed), "{odd}");
    }
    assert!(parse(br#"{"keys":[],"more":1}"#, &Algorithm::ALL).unwrap().0.is_empty());
}

#[test]
fn the_first_of_two_keys_of_one_name_counts() {
    let (one, two) = (key(Algorithm::Es256), key(Algorithm::Es256));
    let named = |key: &crate::policy::keys::SigningKey| with(key.verifying().jwk().clone(), "kid", json!("a"));
    let document = json!({"keys": [named(&one), named(&two)]}).to_string();
    let (set, left_out) = parse(document.as_bytes(), &[Algorithm::Es256]).unwrap();
    assert!(set.holds(one.kid()) && !set.holds(two.kid()));
    assert_eq!(left_out, 1);
}

#[test]
fn a_discovery_document_is_its_issuer_s_own() {
    let document = br#"{"issuer":"https://a.example","jwks_uri":"https://a.example/jwks","x":1}"#;
    assert_eq!(jwks_uri(document, "https://a.example").as_deref(), Some("https://a.example/jwks"));
    for issuer in ["https://a.example/", "https://A.example", "https://b.example", ""] {
        assert_eq!(jwks_uri(document, issuer), None, "{issuer}");
    }
    assert_eq!(jwks_uri(br#"{"issuer":"https://a.example"}"#, "https://a.example"), None);
}

#[test]
fn a_list_and_what_is_no_text_are_no_documents_of_anybody() {
    let refused: [&[u8]; 2] = [
        br#"["https://a.example","https://elsewhere.example/"]"#,
        b"{\"issuer\":\"https://a.example\",\"jwks_uri\":\"https://a.example/jwks\",\"x\":\"\xff\"}",
    ];
    for document in refused {
        assert_eq!(jwks_uri(document, "https://a.example"), None);
    }
    assert!(matches!(parse(b"{\"keys\":[],\"x\":\"\xff\"}", &Algorithm::ALL), Err(JwksFault::Malformed)));
}
