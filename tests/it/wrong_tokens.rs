//! Tokens of every wrong kind (RFC 8725), and what is no token at all where one belongs: each is 401, all with one
//! body, so that nobody learns which check a forgery fails; and none of them reaches a service.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis::policy::keys::{Algorithm, SigningKey};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::harness::{
    client::Answer,
    clock::BEGIN,
    gateway::{Engine, Gateway},
    tokens::{good_claims, good_header, hmac_signed, signed, signed_text, unsigned, with},
    upstream::Upstream,
};

/// Every token that is not a good access token of this gateway's, by what is wrong with it.
async fn wrong_tokens(gateway: &Gateway) -> Vec<(&'static str, String)> {
    let key = gateway.signing_key().await;
    let (header, claims) = (good_header(&key), good_claims());
    let jwk = key.verifying().jwk().clone();
    let point = ["x", "y"].map(|part| URL_SAFE_NO_PAD.decode(jwk[part].as_str().unwrap()).unwrap()).concat();
    let public = [&[4][..], &point].concat();
    let stranger = SigningKey::generate_pkcs8(Algorithm::Es256).unwrap();
    let stranger = SigningKey::from_pkcs8(Algorithm::Es256, stranger.expose_secret()).unwrap();
    let now = BEGIN.seconds();
    let by_claims = |changes: Value| signed(&key, &header, &with(claims.clone(), &changes));
    let by_header = |changes: Value| signed(&key, &with(header.clone(), &changes), &claims);
    let hs256 = with(header.clone(), &json!({"alg": "HS256"}));
    let none = with(header.clone(), &json!({"alg": "none"}));
    let good = signed(&key, &header, &claims);
    let doubled = claims.to_string().replacen('{', "{\"exp\":9999999999,", 1);
    vec![
        ("HS256 under the public key", hmac_signed(&public, &hs256, &claims)),
        ("HS256 under the public key's JWK", hmac_signed(jwk.to_string().as_bytes(), &hs256, &claims)),
        ("alg none", unsigned(&none, &claims, b"")),
        ("alg None", unsigned(&with(header.clone(), &json!({"alg": "None"})), &claims, b"")),
        ("no signature", unsigned(&header, &claims, b"")),
        ("a signature of zeroes", unsigned(&header, &claims, &[0; 64])),
        ("no alg", by_header(json!({"alg": null}))),
        ("another key's", signed(&stranger, &header, &claims)),
        ("another key's, with its own kid", signed(&stranger, &good_header(&stranger), &claims)),
        (
            "an embedded jwk",
            signed(&stranger, &with(header.clone(), &json!({"jwk": stranger.verifying().jwk()})), &claims),
        ),
        ("jku", by_header(json!({"jku": "https://evil.example/jwks.json"}))),
        ("x5u", by_header(json!({"x5u": "https://evil.example/cert.pem"}))),
        ("crit", by_header(json!({"crit": ["exp"]}))),
        ("b64", by_header(json!({"b64": false, "crit": ["b64"]}))),
        ("typ JWT", by_header(json!({"typ": "JWT"}))),
        ("no typ", by_header(json!({"typ": null}))),
        ("an identity token", by_header(json!({"typ": "gw-id+jwt"}))),
        ("an unknown kid", by_header(json!({"kid": "elsewhere"}))),
        ("kid a path", by_header(json!({"kid": "../../dev/null"}))),
        ("exp a string", by_claims(json!({"exp": "9999999999"}))),
        ("no exp", by_claims(json!({"exp": null}))),
        ("exp negative", by_claims(json!({"exp": -1}))),
        (
            "exp beyond numbers",
            signed_text(&key, &header, &claims.to_string().replace(&(now + 900).to_string(), "1e999")),
        ),
        ("expired", by_claims(json!({"exp": now - 31}))),
        ("nbf in the future", by_claims(json!({"nbf": now + 31}))),
        ("another issuer", by_claims(json!({"iss": "https://evil.example"}))),
        ("an issuer with a slash", by_claims(json!({"iss": "https://gw.test/"}))),
        ("no issuer", by_claims(json!({"iss": null}))),
        ("another audience", by_claims(json!({"aud": "other"}))),
        ("no audience", by_claims(json!({"aud": null}))),
        ("audiences of a wrong type", by_claims(json!({"aud": [1, "gw-test"]}))),
        ("no session", by_claims(json!({"sid": null}))),
        ("a member twice", signed_text(&key, &header, &doubled)),
        ("a payload that is no object", signed_text(&key, &header, "[1]")),
        ("a payload that is no JSON", signed_text(&key, &header, "exp=9999999999")),
        ("oversized", by_claims(json!({"pad": "x".repeat(9 << 10)}))),
        ("two parts", good.rsplit_once('.').unwrap().0.to_owned()),
        ("four parts", format!("{good}.e30")),
        ("padded", format!("{good}==")),
        ("five parts, encrypted", "e30.e30.e30.e30.e30".to_owned()),
    ]
}

/// Values of `Authorization` that are no bearer token: credentials that were meant and cannot be read are not ignored.
const NO_TOKENS: [&[u8]; 15] = [
    b"",
    b"Bearer",
    b"Bearer ",
    b"Bearer    ",
    b"Bearer a b",
    b"Bearer a,b",
    b"Bearer a, Bearer b",
    b"Bearer \"a\"",
    b"Bearer a=b",
    b"Bearer \xc3\xa9",
    b"Bearer \xff",
    b"bearer\ta",
    b"a",
    b"Basic YTpi",
    b"Digest username=\"a\"",
];

/// What a client can tell an answer by, less what differs between any two.
fn told(answer: &Answer) -> String {
    let mut body = answer.json();
    body["request_id"] = json!("");
    body["instance"] = json!("");
    let mut headers: Vec<_> = answer.headers.iter().filter(|(name, _)| *name != "x-request-id").collect();
    headers.retain(|(name, _)| *name != "date");
    headers.sort_by_key(|(name, _)| name.as_str());
    format!("{body} {headers:?}")
}

#[tokio::test]
async fn every_wrong_kind_of_token_is_401_with_one_body_for_all() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(Engine::Sqlite, &upstream).await;
    let client = gateway.client();
    let key = gateway.signing_key().await;
    let good = signed(&key, &good_header(&key), &good_claims());
    assert_eq!(client.status("/ask/a", &good).await, 200, "the test knows how to make a good one");
    let session = client.register("ann@example.org").await;
    let ended = client.login("ann@example.org").await;
    client.post("/auth/logout").bearer(&ended.access).send().await.expect(204);

    let mut wrong = wrong_tokens(&gateway).await;
    wrong.push(("a refresh token", session.refresh.clone()));
    wrong.push(("of an ended session", ended.access.clone()));
    let mut wrong: Vec<(String, Vec<u8>)> =
        wrong.into_iter().map(|(what, token)| (what.to_owned(), format!("Bearer {token}").into_bytes())).collect();
    wrong.extend(NO_TOKENS.map(|value| (format!("{:?}", String::from_utf8_lossy(value)), value.to_vec())));
    let mut answers = BTreeSet::new();
    for (what, value) in &wrong {
        for (method, path) in [("GET", "/ask/a"), ("GET", "/maybe/a"), ("GET", "/auth/me"), ("POST", "/auth/logout")] {
            let answer = client.call(method, path).header_bytes("authorization", value).send().await;
            assert_eq!((answer.status, answer.code().as_str()), (401, "invalid_token"), "{what}: {}", answer.text());
            let challenge = answer.header("www-authenticate");
            assert_eq!(challenge, Some(r#"Bearer realm="portcullis", error="invalid_token""#), "{what}");
            answers.insert(told(&answer));
        }
    }
    assert_eq!(answers.len(), 1, "a client can tell wrong tokens apart: {answers:#?}");
    for (method, path) in [("GET", "/ask/a"), ("GET", "/auth/me"), ("POST", "/auth/logout")] {
        let none = client.call(method, path).send().await;
        none.refused(401, "credentials_missing");
        assert_eq!(none.header("www-authenticate"), Some(r#"Bearer realm="portcullis""#), "{path}");
    }
    assert_eq!(upstream.received().len(), 1, "only the good one came through");
}
