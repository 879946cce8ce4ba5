//! Tokens of other issuers: what they may say, and what comes of it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::policy::keys::{SigningKey, tests::key};

const NOW: i64 = 1_000;

fn rules() -> TokenRules {
    TokenRules {
        name: "sso".into(),
        issuer: "https://sso.test".into(),
        algorithms: vec![Algorithm::Es256],
        types: vec![TokenType::AccessToken, TokenType::Jwt],
        max_lifetime: Duration::from_hours(1),
        mapping: Mapping {
            roles: ["realm_access.roles", "https://a.test/roles"].map(|text| ClaimPath::parse(text).unwrap()).into(),
            scopes: ["scope", "scp"].map(|text| ClaimPath::parse(text).unwrap()).into(),
            org: ClaimPath::parse("/org/a.b/id"),
            role_names: [("rag-admins".to_owned(), "admin".into())].into(),
        },
        bare_subject: false,
    }
}

fn payload() -> Value {
    json!({"iss": "https://sso.test", "sub": "u", "aud": "api", "exp": NOW + 900, "iat": NOW})
}

fn signed(key: &SigningKey, header: &Value, payload: &str) -> String {
    let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(payload));
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(key.sign(input.as_bytes()).unwrap()))
}

fn outcome(rules: &TokenRules, typ: Option<&str>, payload: &str) -> Result<Claims, TokenFault> {
    let key = key(rules.algorithms[0]);
    let header = json!({"alg": key.algorithm().name(), "typ": typ, "kid": &**key.kid()});
    let header = match typ {
        Some(_) => header,
        None => json!({"alg": key.algorithm().name(), "kid": &**key.kid()}),
    };
    let keys = KeySet::new([key.verifying()]);
    let token = signed(&key, &header, payload);
    verify(&token, &keys, rules, Timestamp::from_seconds(NOW)).map(|verified| (*verified.claims).clone())
}

fn claims(changes: &Value) -> Result<Claims, TokenFault> {
    let mut payload = payload();
    for (name, value) in changes.as_object().unwrap() {
        payload[name] = value.clone();
    }
    outcome(&rules(), Some("JWT"), &payload.to_string())
}

fn roles_of(changes: &Value) -> Vec<String> {
    claims(changes).unwrap().roles.iter().map(ToString::to_string).collect()
}

#[test]
fn every_algorithm_an_issuer_may_use_verifies() {
    for algorithm in Algorithm::ALL {
        let rules = TokenRules { algorithms: vec![algorithm], ..rules() };
        assert!(outcome(&rules, Some("JWT"), &payload().to_string()).is_ok(), "{algorithm}");
        let key = key(algorithm);
        let token = signed(&key, &json!({"alg": algorithm.name(), "kid": &**key.kid()}), &payload().to_string());
        let others = TokenRules {
            algorithms: Algorithm::ALL.into_iter().filter(|other| *other != algorithm).collect(),
            ..rules.clone()
        };
        let keys = KeySet::new([key.verifying()]);
        let refused = verify(&token, &keys, &others, Timestamp::from_seconds(NOW)).map(|_| ());
        assert_eq!(refused, Err(TokenFault::Algorithm), "{algorithm}");
    }
}

#[test]
fn a_secret_is_the_one_key_whatever_a_token_calls_it() {
    let secret = key(Algorithm::Hs256);
    let keys = KeySet::of_secret(secret.verifying());
    let rules = TokenRules { algorithms: vec![Algorithm::Hs256], ..rules() };
    for header in [json!({"alg": "HS256"}), json!({"alg": "HS256", "kid": "whatever"})] {
        let token = signed(&secret, &header, &payload().to_string());
        assert!(verify(&token, &keys, &rules, Timestamp::from_seconds(NOW)).is_ok(), "{header}");
    }
}

#[test]
fn a_token_of_another_issuer_under_this_one_s_key_is_refused() {
    for issuer in ["https://sso.test/", "https://gw.test", "sso"] {
        assert_eq!(claims(&json!({ "iss": issuer })), Err(TokenFault::Issuer), "{issuer}");
    }
}

#[test]
fn only_the_listed_kinds_of_token_are_taken() {
    let narrow = TokenRules { types: vec![TokenType::AccessToken], ..rules() };
    for (typ, wide_ok, narrow_ok) in [
        (Some("at+jwt"), true, true),
        (Some("application/AT+JWT"), true, true),
        (Some("JWT"), true, false),
        (None, true, false),
        (Some("gw-id+jwt"), false, false),
        (Some("logout+jwt"), false, false),
        (Some(""), false, false),
    ] {
        let text = payload().to_string();
        assert_eq!(outcome(&rules(), typ, &text).is_ok(), wide_ok, "{typ:?}");
        assert_eq!(outcome(&narrow, typ, &text).is_ok(), narrow_ok, "{typ:?}");
    }
}

#[test]
fn no_issuer_can_name_somebody_else_s_subject() {
    assert_eq!(&*claims(&json!({})).unwrap().subject, "sso:u");
    let bare = TokenRules { bare_subject: true, ..rules() };
    assert_eq!(&*outcome(&bare, None, &payload().to_string()).unwrap().subject, "u");
    for odd in ["", " u", "u\n", "ü", "u\u{202e}", &"x".repeat(256)] {
        assert_eq!(claims(&json!({ "sub": odd })), Err(TokenFault::Malformed), "{odd:?}");
    }
}

#[test]
fn nested_claims_become_roles_scopes_and_organisation() {
    let claims = claims(&json!({
        "realm_access": {"roles": ["analyst", "user", "analyst", 7, null, ["x"]]},
        "https://a.test/roles": "reader",
        "scope": "docs:read docs:write", "scp": ["docs:read", "more"],
        "org": {"a.b": {"id": "acme"}},
        "email": "ann@example.org", "email_verified": "true", "azp": "app",
    }))
    .unwrap();
    let roles: Vec<&str> = claims.roles.iter().map(AsRef::as_ref).collect();
    assert_eq!(roles, ["analyst", "user", "reader"]);
    assert_eq!(claims.scopes, ["docs:read", "docs:write", "more"].map(Box::from));
    assert_eq!((claims.org.as_deref(), claims.client_id.as_deref()), (Some("acme"), Some("app")));
    assert!(claims.email_verified && claims.session.is_none());
}

#[test]
fn admin_comes_only_of_a_mapping_that_spells_it_out() {
    assert_eq!(roles_of(&json!({"realm_access": {"roles": ["admin", "Admin", "ADMIN", "user"]}})), ["user"]);
    assert_eq!(roles_of(&json!({"realm_access": {"roles": ["rag-admins"]}})), ["admin"]);
    assert_eq!(roles_of(&json!({"roles": ["rag-admins"]})), Vec::<String>::new(), "where no mapping looks");
    let mut spelled = rules();
    spelled.mapping.role_names.insert("admin".to_owned(), "admin".into());
    let payload = json!({"realm_access": {"roles": ["admin"]}});
    let mut all = self::payload();
    all["realm_access"] = payload["realm_access"].clone();
    assert_eq!(&*outcome(&spelled, None, &all.to_string()).unwrap().roles[0], "admin");
}

#[test]
fn a_role_that_could_be_read_as_two_is_none() {
    for odd in ["user,admin", "admin ", " admin", "a\tadmin", "ａｄｍｉｎ", "", &"x".repeat(129)] {
        assert_eq!(roles_of(&json!({"realm_access": {"roles": [odd]}})), Vec::<String>::new(), "{odd:?}");
    }
    assert_eq!(roles_of(&json!({"realm_access": {"roles": "Domain Users"}})), ["Domain Users"]);
}

#[test]
fn an_address_that_could_be_read_as_another_is_none() {
    let email = |email: &str| claims(&json!({"email": email, "email_verified": true})).unwrap().email;
    for odd in ["", "ann@a.test ", "\tann@a.test", "ann@a.test\r\nx-user-id: eve", "a\0@a.test", &"x".repeat(255)] {
        assert_eq!(email(odd), None, "{odd:?}");
    }
    for good in ["ann@a.test", "用户@例え.jp", "\"a b\"@a.test", &"x".repeat(254)] {
        assert_eq!(email(good).as_deref(), Some(good));
    }
}

#[test]
fn a_token_lives_no_longer_than_its_issuer_s_tokens_may() {
    let life = |iat: Value, exp: i64| claims(&json!({"iat": iat, "exp": exp})).map(|_| ());
    assert_eq!(life(json!(NOW), NOW + 3_600), Ok(()));
    assert_eq!(life(json!(NOW), NOW + 3_601), Err(TokenFault::Lifetime));
    assert_eq!(life(json!(NOW + 3_000), NOW + 6_600), Err(TokenFault::Lifetime), "dated ahead");
    assert_eq!(life(json!(NOW - 3_000), NOW + 700), Err(TokenFault::Lifetime));
    let mut undated = payload();
    undated.as_object_mut().unwrap().remove("iat");
    assert!(outcome(&rules(), None, &undated.to_string()).is_ok());
    undated["exp"] = json!(NOW + 3_601);
    assert_eq!(outcome(&rules(), None, &undated.to_string()), Err(TokenFault::Lifetime));
}

#[test]
fn claims_that_are_missing_or_of_a_wrong_type_are_refused() {
    for (name, odd) in [
        ("sub", json!(7)),
        ("sub", json!(null)),
        ("aud", json!([])),
        ("aud", json!(null)),
        ("exp", json!("9999999999")),
        ("exp", json!(null)),
        ("nbf", json!("0")),
        ("iss", json!(["https://sso.test"])),
    ] {
        assert_eq!(claims(&json!({ name: odd.clone() })), Err(TokenFault::Malformed), "{name} {odd}");
    }
}

#[test]
fn a_member_twice_is_refused_at_any_depth() {
    let text = payload().to_string();
    let doubled = [
        text.replacen('{', "{\"sub\":\"x\",", 1),
        text.replacen('{', "{\"other\":1,\"other\":1,", 1),
        text.replacen('{', "{\"realm_access\":{\"roles\":[],\"roles\":[\"x\"]},", 1),
        text.replacen('{', "{\"list\":[{\"a\":1,\"a\":2}],", 1),
    ];
    for doubled in doubled {
        assert_eq!(outcome(&rules(), None, &doubled), Err(TokenFault::Malformed), "{doubled}");
    }
}

#[test]
fn a_path_says_one_place() {
    let names = |text: &str| ClaimPath::parse(text).map(|path| path.0.iter().map(ToString::to_string).collect());
    let some = |names: &[&str]| Some(names.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(names("realm_access.roles"), some(&["realm_access", "roles"]));
    assert_eq!(names("https://a.example/roles"), some(&["https://a.example/roles"]));
    assert_eq!(names("/resource_access/my.client/roles"), some(&["resource_access", "my.client", "roles"]));
    assert_eq!(names("/a~1b/c~0d/~01"), some(&["a/b", "c~d", "~1"]));
    for odd in ["", "a..b", ".a", "a.", "/", "/a//b", "/a~2", "a.b.c.d.e.f.g.h.i"] {
        assert_eq!(ClaimPath::parse(odd), None, "{odd}");
    }
}

proptest! {
    #[test]
    fn no_claims_whatever_make_an_admin_or_a_second_role(roles in prop::collection::vec("\\PC{0,12}|[aA][dD]min,?", 0..6)) {
        for role in roles_of(&json!({"realm_access": {"roles": roles}})) {
            prop_assert!(!role.trim().eq_ignore_ascii_case("admin") && !role.contains(','));
        }
    }

    #[test]
    fn reading_a_path_never_panics(text in "\\PC{0,40}") {
        let _ = ClaimPath::parse(&text);
    }
}
