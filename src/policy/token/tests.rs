//! Misuse of tokens, one threat a test; what good tokens look like is tested where they are minted.

use proptest::prelude::*;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::*;
use crate::policy::{
    claims::tests::{claims, full_claims},
    keys::{SigningKey, tests::key},
    mint,
};

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Signs whatever header and payload, well-formed or not.
fn forge_raw(key: &SigningKey, header: &str, payload: &str) -> String {
    let input = format!("{}.{}", b64(header), b64(payload));
    let signature = key.sign(input.as_bytes()).unwrap();
    format!("{input}.{}", b64(signature))
}

fn good_header(key: &SigningKey) -> Value {
    json!({"typ": "at+jwt", "alg": key.algorithm().name(), "kid": &**key.kid()})
}

fn good_payload() -> Value {
    json!({"iss": "https://gw.test", "sub": "u", "aud": "api", "exp": 1_900, "iat": 1_000, "jti": "t"})
}

fn outcome(token: &str, key: &SigningKey) -> Result<(), TokenFault> {
    verify(token, &KeySet::new([key.verifying()])).map(|_| ())
}

/// The outcome of a properly signed token with one header member changed (`null` value: removed).
fn with_header(name: &str, value: Value) -> Result<(), TokenFault> {
    let key = key(Algorithm::Es256);
    let mut header = good_header(&key);
    if value == json!("<absent>") {
        header.as_object_mut().unwrap().remove(name);
    } else {
        header[name] = value;
    }
    outcome(&forge_raw(&key, &header.to_string(), &good_payload().to_string()), &key)
}

/// The outcome of a properly signed token with one claim changed.
fn with_claim(name: &str, value: Value) -> Result<Claims, TokenFault> {
    let key = key(Algorithm::EdDsa);
    let mut payload = good_payload();
    if value == json!("<absent>") {
        payload.as_object_mut().unwrap().remove(name);
    } else {
        payload[name] = value;
    }
    let token = forge_raw(&key, &good_header(&key).to_string(), &payload.to_string());
    verify(&token, &KeySet::new([key.verifying()])).map(|verified| (*verified.claims).clone())
}

#[test]
fn the_helper_s_own_token_is_good() {
    assert_eq!(with_header("other", json!({"deep": [1]})), Ok(()));
    assert!(with_claim("other", json!({"deep": [1]})).is_ok());
}

#[test]
fn alg_none_is_refused_in_any_case_with_and_without_a_signature() {
    for alg in ["none", "None", "NONE", "nOnE"] {
        assert_eq!(with_header("alg", json!(alg)), Err(TokenFault::Algorithm));
    }
    let key = key(Algorithm::Es256);
    let unsigned = format!("{}.{}.", b64(r#"{"alg":"none","typ":"at+jwt"}"#), b64(good_payload().to_string()));
    assert_eq!(outcome(&unsigned, &key), Err(TokenFault::Algorithm));
}

#[test]
fn hs256_keyed_with_the_public_key_is_refused() {
    let key = key(Algorithm::Es256);
    let mut header = good_header(&key);
    header["alg"] = json!("HS256");
    let input = format!("{}.{}", b64(header.to_string()), b64(good_payload().to_string()));
    for public in [key.verifying().jwk().to_string(), key.verifying().jwk()["x"].to_string()] {
        let secret = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, public.as_bytes());
        let token = format!("{input}.{}", b64(aws_lc_rs::hmac::sign(&secret, input.as_bytes())));
        assert_eq!(outcome(&token, &key), Err(TokenFault::Algorithm));
    }
}

#[test]
fn a_key_verifies_with_its_own_algorithm_only() {
    let (elliptic, edwards) = (key(Algorithm::Es256), key(Algorithm::EdDsa));
    let keys = KeySet::new([elliptic.verifying(), edwards.verifying()]);
    let header = json!({"typ": "at+jwt", "alg": "EdDSA", "kid": &**elliptic.kid()});
    let token = forge_raw(&edwards, &header.to_string(), &good_payload().to_string());
    assert_eq!(verify(&token, &keys).map(|_| ()), Err(TokenFault::Algorithm));
}

#[test]
fn other_algorithms_and_a_missing_alg_are_refused() {
    for alg in ["RS256", "ES384", "PS256", "es256", "ES256 "] {
        assert_eq!(with_header("alg", json!(alg)), Err(TokenFault::Algorithm));
    }
    for alg in [json!("<absent>"), json!(null), json!(["ES256"]), json!(1)] {
        assert_eq!(with_header("alg", alg), Err(TokenFault::Malformed));
    }
}

#[test]
fn a_token_that_brings_its_own_key_is_refused() {
    let stranger = key(Algorithm::Es256);
    for (name, value) in [
        ("jwk", stranger.verifying().jwk().clone()),
        ("jku", json!("https://evil.test/jwks.json")),
        ("x5u", json!("https://evil.test/cert.pem")),
        ("x5c", json!(["MII"])),
        ("jwk", json!(null)),
    ] {
        assert_eq!(with_header(name, value), Err(TokenFault::EmbeddedKey), "{name}");
    }
}

#[test]
fn critical_extensions_are_refused_whatever_they_say() {
    for (name, value) in [("crit", json!(["exp"])), ("crit", json!([])), ("crit", json!(null)), ("b64", json!(true))] {
        assert_eq!(with_header(name, value), Err(TokenFault::Critical), "{name}");
    }
}

#[test]
fn only_access_tokens_are_access_tokens() {
    for typ in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/AT+jwt"] {
        assert_eq!(with_header("typ", json!(typ)), Ok(()));
    }
    for typ in ["JWT", "", "gw-id+jwt", "at+jwt ", "text/at+jwt", "rt+jwt", "<absent>"] {
        assert_eq!(with_header("typ", json!(typ)), Err(TokenFault::Kind), "{typ}");
    }
}

#[test]
fn a_refresh_token_is_no_access_token() {
    let token = crate::policy::refresh_token::issue(&[7; 32], full_claims().session.unwrap(), 1);
    assert_eq!(outcome(token.expose_secret(), &key(Algorithm::Es256)), Err(TokenFault::Malformed));
}

#[test]
fn an_unknown_key_is_refused_and_a_missing_kid_needs_a_single_key() {
    assert_eq!(with_header("kid", json!("other")), Err(TokenFault::UnknownKey));
    assert_eq!(with_header("kid", json!("../../dev/null")), Err(TokenFault::UnknownKey));
    assert_eq!(with_header("kid", json!("<absent>")), Ok(()));
    let (one, two) = (key(Algorithm::Es256), key(Algorithm::Es256));
    let token = forge_raw(&one, r#"{"typ":"at+jwt","alg":"ES256"}"#, &good_payload().to_string());
    let both = KeySet::new([one.verifying(), two.verifying()]);
    assert_eq!(verify(&token, &both).map(|_| ()), Err(TokenFault::UnknownKey));
}

#[test]
fn a_stranger_s_signature_under_our_kid_is_refused() {
    let (ours, stranger) = (key(Algorithm::Es256), key(Algorithm::Es256));
    let token = forge_raw(&stranger, &good_header(&ours).to_string(), &good_payload().to_string());
    assert_eq!(outcome(&token, &ours), Err(TokenFault::Signature));
}

#[test]
fn members_given_twice_are_refused() {
    let key = key(Algorithm::Es256);
    let (header, payload) = (good_header(&key).to_string(), good_payload().to_string());
    for doubled in ["\"alg\":\"ES256\"", "\"typ\":\"at+jwt\"", "\"kid\":\"x\"", "\"jwk\":1,\"jwk\":1"] {
        let doubled = header.replacen('{', &format!("{{{doubled},"), 1);
        assert_eq!(outcome(&forge_raw(&key, &doubled, &payload), &key), Err(TokenFault::Malformed), "{doubled}");
    }
    for doubled in ["\"exp\":9999999999", "\"sub\":\"admin\"", "\"aud\":\"x\"", "\"roles\":[],\"roles\":[\"admin\"]"] {
        let doubled = payload.replacen('{', &format!("{{{doubled},"), 1);
        assert_eq!(outcome(&forge_raw(&key, &header, &doubled), &key), Err(TokenFault::Malformed), "{doubled}");
    }
}

#[test]
fn lists_scalars_and_trailing_bytes_are_no_objects() {
    let key = key(Algorithm::Es256);
    let (header, payload) = (good_header(&key).to_string(), good_payload().to_string());
    for odd in [r#"["ES256","at+jwt"]"#, "1", "null", "", &format!("{header}x"), &format!("{header}{header}")] {
        assert_eq!(outcome(&forge_raw(&key, odd, &payload), &key), Err(TokenFault::Malformed), "{odd}");
    }
    for odd in [r#"["i","s","a",1,1,1,"j"]"#, "null", "", &format!("{payload},"), "\u{feff}{}"] {
        assert_eq!(outcome(&forge_raw(&key, &header, odd), &key), Err(TokenFault::Malformed), "{odd}");
    }
}

#[test]
fn exp_must_be_a_number() {
    for odd in
        [json!("1900"), json!(null), json!("<absent>"), json!([1900]), json!(true), json!(1e300), json!(u64::MAX)]
    {
        assert_eq!(with_claim("exp", odd.clone()), Err(TokenFault::Malformed), "{odd}");
    }
}

#[test]
fn fractions_of_a_second_only_ever_shorten_a_token_s_life() {
    assert_eq!(with_claim("exp", json!(1_900.9)).unwrap().expires, 1_900);
    assert_eq!(with_claim("nbf", json!(1_000.1)).unwrap().not_before, Some(1_001));
    assert_eq!(with_claim("exp", json!(-0.5)).unwrap().expires, -1);
}

#[test]
fn claims_of_a_wrong_type_and_empty_names_are_refused() {
    for (name, odd) in [
        ("sub", json!("")),
        ("sub", json!("<absent>")),
        ("sub", json!(7)),
        ("iss", json!("")),
        ("iss", json!(["https://gw.test"])),
        ("aud", json!([])),
        ("aud", json!([1])),
        ("aud", json!({"api": true})),
        ("aud", json!("<absent>")),
        ("jti", json!("")),
        ("jti", json!("<absent>")),
        ("iat", json!("1000")),
        ("nbf", json!("0")),
        ("nbf", json!(null)),
        ("sid", json!("not-a-uuid")),
        ("roles", json!("admin")),
        ("roles", json!([["admin"]])),
        ("scope", json!(["a"])),
        ("av", json!(-1)),
        ("email_verified", json!("true")),
    ] {
        assert_eq!(with_claim(name, odd.clone()), Err(TokenFault::Malformed), "{name} {odd}");
    }
}

#[test]
fn one_audience_and_several_are_read_alike() {
    assert_eq!(with_claim("aud", json!("api")).unwrap().audience, vec![Box::from("api")]);
    assert_eq!(with_claim("aud", json!(["a", "api"])).unwrap().audience.len(), 2);
}

#[test]
fn a_token_over_8_kib_is_refused_unread() {
    let key = key(Algorithm::Es256);
    let mut payload = good_payload();
    payload["pad"] = json!("x".repeat(MAX_TOKEN_LEN));
    let token = forge_raw(&key, &good_header(&key).to_string(), &payload.to_string());
    assert_eq!(outcome(&token, &key), Err(TokenFault::TooLarge));
}

#[test]
fn any_truncation_and_any_other_shape_is_refused() {
    let key = key(Algorithm::EdDsa);
    let token = mint::access_token(&key, &full_claims()).unwrap();
    let token = token.expose_secret();
    for end in 0..token.len() {
        assert!(outcome(&token[..end], &key).is_err(), "{end}");
    }
    for odd in [
        format!("{token}."),
        format!("{token}.x"),
        format!(".{token}"),
        format!("{token}="),
        format!("{token} "),
        format!(" {token}"),
        token.replace('.', ".."),
        token.replace('.', ""),
        String::new(),
        "..".into(),
    ] {
        assert_eq!(outcome(&odd, &key), Err(TokenFault::Malformed), "{odd}");
    }
}

#[test]
fn stray_bits_in_the_last_character_are_refused() {
    // 64 bytes end in a character of which two bits count: three others decode alike in a lax decoder.
    let key = key(Algorithm::Es256);
    let token = forge_raw(&key, &good_header(&key).to_string(), &good_payload().to_string());
    let (body, last) = token.split_at(token.len() - 1);
    assert!("AQgw".contains(last));
    for stray in ["B", "R", "h", "x", "_"] {
        assert_eq!(outcome(&format!("{body}{stray}"), &key), Err(TokenFault::Malformed));
    }
}

static API: std::sync::LazyLock<[Arc<str>; 1]> = std::sync::LazyLock::new(|| ["api".into()]);

fn expect() -> Expectations<'static> {
    Expectations { issuer: "https://gw.test", audiences: &*API, leeway: Duration::from_secs(30) }
}

#[test]
fn a_token_lives_until_its_exp_plus_leeway_and_not_a_microsecond_longer() {
    let at = |micros| admit(&claims(), &expect(), Timestamp::from_micros(micros));
    assert_eq!(at(1_930_000_000 - 1), Ok(()));
    assert_eq!(at(1_930_000_000), Err(TokenFault::Expired));
}

#[test]
fn a_token_lives_no_longer_than_tokens_do_now_whatever_it_says_of_itself() {
    let at =
        |micros| admit_for(&claims(), Duration::from_mins(5), Duration::from_secs(30), Timestamp::from_micros(micros));
    assert_eq!(at(1_330_000_000 - 1), Ok(()));
    assert_eq!(at(1_330_000_000), Err(TokenFault::Expired));
    let mut odd = claims();
    odd.issued = i64::MAX;
    assert_eq!(admit_for(&odd, Duration::MAX, Duration::MAX, Timestamp::from_seconds(1_000)), Ok(()));
}

#[test]
fn a_token_is_not_good_before_its_nbf_less_leeway() {
    let at = |seconds| admit(&full_claims(), &expect(), Timestamp::from_seconds(seconds));
    assert_eq!(at(970), Ok(()));
    assert_eq!(at(969), Err(TokenFault::NotYetValid));
}

#[test]
fn extreme_times_neither_panic_nor_admit_for_ever() {
    let mut odd = claims();
    for (exp, nbf) in [(i64::MIN, None), (0, Some(i64::MAX)), (i64::MAX, Some(i64::MAX))] {
        (odd.expires, odd.not_before) = (exp, nbf);
        assert!(admit(&odd, &expect(), Timestamp::from_seconds(1_000)).is_err());
    }
}

#[test]
fn issuer_and_audience_must_be_exactly_ours() {
    let now = Timestamp::from_seconds(1_000);
    for issuer in ["https://gw.test/", "https://GW.test", "", "https://gw.test.evil"] {
        assert_eq!(admit(&claims(), &Expectations { issuer, ..expect() }, now), Err(TokenFault::Issuer));
    }
    for audience in ["", "ap", "api2", "API", "other"] {
        let audiences = &[audience.into()];
        assert_eq!(admit(&claims(), &Expectations { audiences, ..expect() }, now), Err(TokenFault::Audience));
    }
    assert_eq!(admit(&claims(), &Expectations { audiences: &[], ..expect() }, now), Err(TokenFault::Audience));
    for audiences in [&["other".into()][..], &["elsewhere".into(), "other".into()]] {
        assert_eq!(admit(&full_claims(), &Expectations { audiences, ..expect() }, now), Ok(()));
    }
}

#[test]
fn every_fault_of_time_or_place_has_its_own_reason_and_the_rest_are_malformed_or_unsigned() {
    for (fault, reason) in [
        (TokenFault::Critical, Reason::TokenMalformed),
        (TokenFault::Algorithm, Reason::TokenSignature),
        (TokenFault::Kind, Reason::TokenKind),
        (TokenFault::Expired, Reason::TokenExpired),
        (TokenFault::Audience, Reason::TokenAudience),
    ] {
        assert_eq!(fault.reason(), reason);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_text_never_panics_and_never_verifies(token in "\\PC{0,200}") {
        prop_assert!(outcome(&token, &SHARED).is_err());
    }

    #[test]
    fn arbitrary_signed_json_never_panics(header in "\\PC{0,60}", payload in "\\PC{0,60}") {
        prop_assert!(outcome(&forge_raw(&SHARED, &header, &payload), &SHARED).is_err());
    }

    #[test]
    fn no_changed_byte_is_ever_accepted(at in any::<prop::sample::Index>(), byte in 0x20_u8..0x7f) {
        let token = mint::access_token(&SHARED, &full_claims()).unwrap();
        let mut bytes = token.expose_secret().as_bytes().to_vec();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        prop_assert!(outcome(std::str::from_utf8(&bytes).unwrap(), &SHARED).is_err());
    }

    #[test]
    fn parts_of_two_good_tokens_never_make_a_third(swap in 0_usize..3) {
        let mut other = full_claims();
        other.roles = vec!["admin".into()];
        let (one, two) = (mint::access_token(&SHARED, &full_claims()).unwrap(), mint::access_token(&SHARED, &other).unwrap());
        let mut parts: Vec<_> = one.expose_secret().split('.').collect();
        parts[swap] = two.expose_secret().split('.').nth(swap).unwrap();
        // The headers are equal, so swapping those changes nothing.
        prop_assert_eq!(outcome(&parts.join("."), &SHARED).is_ok(), swap == 0);
    }
}

static SHARED: std::sync::LazyLock<SigningKey> = std::sync::LazyLock::new(|| key(Algorithm::EdDsa));
