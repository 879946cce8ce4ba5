//! Tokens of a header and a payload that the bytes choose, properly signed, so that what lies behind the signature is
//! reached; and every change to one, which must not be.

use std::sync::OnceLock;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis::policy::keys::{Algorithm, KeySet, SigningKey};
use serde_json::Value;

use super::lines;

/// A token and the two texts in it.
pub struct Signed {
    pub token: String,
    pub header: String,
    pub payload: String,
}

/// A secret that signs the same for ever, so that what was found is found again.
pub fn key() -> &'static SigningKey {
    static KEY: OnceLock<SigningKey> = OnceLock::new();
    KEY.get_or_init(|| SigningKey::from_pkcs8(Algorithm::Hs256, &[b'k'; 32]).expect("a key"))
}

/// The one key.
pub fn keys() -> KeySet {
    KeySet::new([key().verifying()])
}

/// The first line as the header, the second as the payload; `$kid` is the key's name.
pub fn signed(data: &[u8]) -> Option<Signed> {
    let text = std::str::from_utf8(data).ok()?;
    let mut lines = text.splitn(3, '\n');
    let (header, payload) = (lines.next()?.replace("$kid", key().kid()), lines.next()?.to_owned());
    let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(&header), URL_SAFE_NO_PAD.encode(&payload));
    let signature = key().sign(input.as_bytes()).expect("a signature");
    Some(Signed { token: format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)), header, payload })
}

impl Signed {
    /// The token with one character changed, at a place and to characters that its own text chooses.
    pub fn changed(&self) -> impl Iterator<Item = String> {
        let sum: usize = self.token.bytes().map(usize::from).sum();
        [1, 7, 31].into_iter().filter_map(move |step| {
            let at = (sum * step) % self.token.len();
            let mut bytes = self.token.clone().into_bytes();
            let other = b"AB-_z9.=+/"[(sum + step) % 10];
            (std::mem::replace(&mut bytes[at], other) != other).then(|| String::from_utf8(bytes).expect("ASCII"))
        })
    }

    /// What must hold of a token whose header was accepted; its claims as any JSON reader has them.
    pub fn assert_header(&self, types: &[&str], may_lack_type: bool) -> Option<Value> {
        let header = lines::json(self.header.as_bytes())?;
        let header = header.as_object().expect("a header is an object");
        assert_eq!(header["alg"], "HS256");
        assert!(header.get("kid").is_none_or(|kid| *kid == **key().kid()), "{header:?}");
        match header.get("typ") {
            Some(typ) => {
                let typ = typ.as_str().expect("text").to_ascii_lowercase();
                assert!(types.contains(&typ.trim_start_matches("application/")), "{typ}");
            }
            None => assert!(may_lack_type),
        }
        for name in ["crit", "b64", "jwk", "jku", "x5u", "x5c"] {
            assert!(!header.contains_key(name), "{name}");
        }
        lines::json(self.payload.as_bytes())
    }
}

/// `aud` as a list.
pub fn audience(claims: &Value) -> Vec<&str> {
    match &claims["aud"] {
        Value::String(one) => vec![one],
        Value::Array(all) => all.iter().map(|one| one.as_str().expect("text")).collect(),
        other => panic!("accepted as an audience: {other}"),
    }
}
