//! `policy::foreign`: whatever another issuer says, nobody becomes admin by it, nor somebody else's user.

use std::time::Duration;

use portcullis::{
    clock::Timestamp,
    policy::{
        foreign::{ClaimPath, Mapping, TokenRules, TokenType, verify},
        keys::Algorithm,
    },
};
use serde_json::Value;

use super::signed::{audience, keys, signed};

const ISSUER: &str = "https://sso.test";
const NOW: i64 = 1_000;
const LIFETIME: Duration = Duration::from_hours(1);

fn rules() -> TokenRules {
    let paths = |texts: &[&str]| texts.iter().filter_map(|text| ClaimPath::parse(text)).collect();
    TokenRules {
        name: "sso".into(),
        issuer: ISSUER.into(),
        algorithms: vec![Algorithm::Hs256],
        types: vec![TokenType::AccessToken, TokenType::Jwt],
        max_lifetime: LIFETIME,
        mapping: Mapping {
            roles: paths(&["realm_access.roles", "https://a.test/roles"]),
            scopes: paths(&["scope", "scp"]),
            org: ClaimPath::parse("/org/a.b/id"),
            role_names: [("rag-admins".to_owned(), "admin".into())].into(),
        },
        bare_subject: false,
    }
}

/// The bytes as a path to a claim; and as the lines of a header and a payload, which are then signed.
pub fn check(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let _ = ClaimPath::parse(&text);
    let (keys, rules, now) = (keys(), rules(), Timestamp::from_seconds(NOW));
    assert!(verify(&text, &keys, &rules, now).is_err(), "nobody signed this");
    let Some(signed) = signed(data) else { return false };
    let Ok(verified) = verify(&signed.token, &keys, &rules, now) else { return false };
    for changed in signed.changed() {
        assert!(verify(&changed, &keys, &rules, now).is_err(), "{changed} for {}", signed.token);
    }
    let Some(all) = signed.assert_header(&["at+jwt", "jwt"], true) else { return true };
    let claims = &verified.claims;
    assert_eq!((&*claims.issuer, all["iss"].as_str()), (ISSUER, Some(ISSUER)));
    let subject = claims.subject.strip_prefix("sso:").expect("a subject is its issuer's");
    assert_eq!(all["sub"].as_str(), Some(subject));
    assert!(subject.bytes().all(|byte| matches!(byte, b' '..=b'~')) && !subject.is_empty());
    assert_eq!(audience(&all).len(), claims.audience.len());
    assert!(claims.session.is_none(), "no session of ours is another issuer's");

    let begin = claims.issued.min(NOW);
    let longest = i64::try_from(LIFETIME.as_secs()).expect("seconds");
    assert!(claims.expires.saturating_sub(begin) <= longest, "{begin} to {}", claims.expires);

    if claims.roles.iter().any(|role| role.eq_ignore_ascii_case("admin")) {
        let lists = [&all["realm_access"]["roles"], &all["https://a.test/roles"]];
        let mapped = lists.iter().any(|list| {
            **list == "rag-admins" || list.as_array().is_some_and(|list| list.contains(&Value::from("rag-admins")))
        });
        assert!(mapped, "an admin by {}", signed.payload);
    }
    for one in claims.roles.iter().map(|role| &**role).chain(claims.org.as_deref()) {
        let plain = one.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b',');
        assert!(plain && one.trim() == one && !one.is_empty(), "{one:?}");
    }
    assert!(claims.scopes.iter().all(|scope| !scope.contains([' ', '"', '\\', ',']) || scope.contains(',')));
    assert!(claims.scopes.iter().all(|scope| scope.bytes().all(|byte| byte.is_ascii_graphic())));
    true
}
