//! `policy::jwks::jwks_uri`: only the issuer's own document says where its keys are, and says it once.

use portcullis::policy::jwks::jwks_uri;

use super::lines;

const ISSUER: &str = "https://sso.test";

/// The bytes as a discovery document.
pub fn check(data: &[u8]) -> bool {
    let Some(uri) = jwks_uri(data, ISSUER) else { return false };
    let Some(document) = lines::json(data) else { return true };
    let document = document.as_object().expect("a document is an object");
    assert_eq!(document["issuer"], ISSUER);
    assert_eq!(document["jwks_uri"], uri.as_str());
    for other in ["https://sso.test/", "https://SSO.test", "http://sso.test", ""] {
        assert_eq!(jwks_uri(data, other), None, "{other}");
    }
    true
}
