//! `policy::token` with `claims_json` behind it: only what our key signed verifies, it says what any JSON reader
//! reads, and one changed character makes it nothing.

use std::{sync::Arc, time::Duration};

use portcullis::{
    clock::Timestamp,
    policy::token::{Expectations, admit, claimed_issuer, verify},
};

use super::signed::{audience, keys, signed};

/// The bytes as a token; and as the lines of a header and a payload, which are then signed.
pub fn check(data: &[u8]) -> bool {
    let keys = keys();
    let raw = String::from_utf8_lossy(data);
    assert!(verify(&raw, &keys).is_err(), "nobody signed this");
    if let Some(issuer) = claimed_issuer(&raw) {
        assert!(issuer.len() <= raw.len());
    }
    let Some(signed) = signed(data) else { return false };
    let Ok(verified) = verify(&signed.token, &keys) else { return false };
    for changed in signed.changed() {
        assert!(verify(&changed, &keys).is_err(), "{changed} for {}", signed.token);
    }
    let Some(all) = signed.assert_header(&["at+jwt"], false) else { return true };
    let claims = &verified.claims;
    assert_eq!((all["iss"].as_str(), all["sub"].as_str()), (Some(&*claims.issuer), Some(&*claims.subject)));
    assert_eq!(all["jti"].as_str(), Some(&*claims.token_id));
    assert_eq!(audience(&all), claims.audience.iter().map(|one| &**one).collect::<Vec<_>>());
    assert!(!claims.issuer.is_empty() && !claims.subject.is_empty() && !claims.audience.is_empty());
    assert_eq!(claimed_issuer(&signed.token).as_deref(), Some(&*claims.issuer));
    let number = |name: &str| all[name].as_f64().expect("a number");
    let near = |whole: i64, name: &str| (number(name) - seconds(whole)).abs() < 1.0;
    assert!(near(claims.expires, "exp") && seconds(claims.expires) <= number("exp"), "it lives longer than it says");
    assert!(near(claims.issued, "iat"));
    if let Some(begin) = claims.not_before {
        assert!(near(begin, "nbf") && seconds(begin) >= number("nbf"), "it begins before it says");
    }
    let roles = all.get("roles").and_then(|roles| roles.as_array()).map_or(0, Vec::len);
    assert_eq!(claims.roles.len(), roles);

    let audiences = [Arc::from(audience(&all)[0])];
    let expect = Expectations { issuer: &claims.issuer, audiences: &audiences, leeway: Duration::from_secs(30) };
    let end = Timestamp::from_seconds(claims.expires);
    assert!(admit(claims, &expect, end.plus(Duration::from_secs(30))).is_err(), "admitted after its end");
    let other = Expectations { issuer: "https://another.test/", ..expect };
    assert!(*claims.issuer == *other.issuer || admit(claims, &other, end).is_err(), "admitted for another issuer");
    true
}

#[expect(clippy::cast_precision_loss, reason = "accepted times are within what a double holds exactly")]
fn seconds(whole: i64) -> f64 {
    whole as f64
}
