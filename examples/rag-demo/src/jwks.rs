//! The gateway's public keys (a JWK set, RFC 7517), fetched over HTTP and kept. No tokens here.
//!
//! Keys change: a `kid` that is not there is looked for again, but at most once in [`Options::min_interval`] however
//! many tokens name unknown ones, and by one fetch at a time.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse},
};

/// A key set larger than this is not read.
const MAX_BYTES: usize = 512 * 1024;
/// Between two attempts as long as none has succeeded.
const RETRY: Duration = Duration::from_millis(200);

/// How often keys are fetched.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Between two fetches for the sake of an unknown `kid`.
    pub min_interval: Duration,
    /// Keys older than this are fetched anew at the next use, so that a withdrawn one is forgotten; when that fails,
    /// the old ones stay.
    pub max_age: Duration,
    /// For one fetch.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            min_interval: Duration::from_secs(30),
            max_age: Duration::from_mins(10),
            timeout: Duration::from_secs(5),
        }
    }
}

/// A verifying key with its one algorithm.
pub type Key = Arc<(Algorithm, DecodingKey)>;

/// What came of looking for a key.
pub enum Found {
    /// Here it is.
    Key(Key),
    /// The gateway publishes no such key.
    Unknown,
    /// No key set was ever fetched: nobody can be judged yet.
    NotYet,
}

struct Set {
    keys: HashMap<String, Key>,
    fetched: Instant,
}

/// The published keys.
pub struct Jwks {
    url: String,
    client: reqwest::Client,
    options: Options,
    set: RwLock<Option<Arc<Set>>>,
    /// Held while fetching; the time of the last attempt.
    fetching: tokio::sync::Mutex<Option<Instant>>,
}

impl Jwks {
    /// Nothing is fetched yet.
    ///
    /// # Errors
    /// When the HTTP client cannot be built (no TLS roots, say).
    pub fn new(url: impl Into<String>, options: Options) -> Result<Self, reqwest::Error> {
        let client =
            reqwest::Client::builder().timeout(options.timeout).redirect(reqwest::redirect::Policy::none()).build()?;
        let (set, fetching) = (RwLock::new(None), tokio::sync::Mutex::new(None));
        Ok(Self { url: url.into(), client, options, set, fetching })
    }

    /// The key called `kid`.
    pub async fn find(&self, kid: &str) -> Found {
        if let Some(set) = self.current()
            && let Some(key) = set.keys.get(kid)
            && set.fetched.elapsed() < self.options.max_age
        {
            return Found::Key(Arc::clone(key));
        }
        self.refresh(kid).await;
        match self.current() {
            None => Found::NotYet,
            Some(set) => set.keys.get(kid).map_or(Found::Unknown, |key| Found::Key(Arc::clone(key))),
        }
    }

    /// Whether a key set was ever fetched.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        self.current().is_some()
    }

    /// Tries until the first key set is here. For the start: the gateway may come up later than this service.
    pub async fn fetch_first(&self) {
        while !self.has_keys() {
            self.refresh("").await;
            if !self.has_keys() {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    fn current(&self) -> Option<Arc<Set>> {
        self.set.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn refresh(&self, kid: &str) {
        let mut last = self.fetching.lock().await;
        let current = self.current();
        let fresh = |set: &Arc<Set>| set.fetched.elapsed() < self.options.max_age;
        // Somebody else may have fetched it while this call waited for the lock.
        if current.as_ref().is_some_and(|set| set.keys.contains_key(kid) && fresh(set)) {
            return;
        }
        let pause = if current.is_some() { self.options.min_interval } else { RETRY };
        if last.is_some_and(|last| last.elapsed() < pause) {
            return;
        }
        *last = Some(Instant::now());
        match self.fetch().await {
            Ok(keys) => {
                tracing::info!(url = %self.url, keys = keys.len(), "identity keys fetched");
                let set = Some(Arc::new(Set { keys, fetched: Instant::now() }));
                *self.set.write().unwrap_or_else(PoisonError::into_inner) = set;
            }
            Err(error) => tracing::warn!(url = %self.url, %error, "identity keys could not be fetched"),
        }
    }

    async fn fetch(&self) -> Result<HashMap<String, Key>, String> {
        let mut response = self.client.get(&self.url).send().await.map_err(|error| error.to_string())?;
        if !response.status().is_success() {
            return Err(format!("status {}", response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| error.to_string())? {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err("larger than a key set can be".to_owned());
            }
            body.extend_from_slice(&chunk);
        }
        parse(&body)
    }
}

/// The usable keys of a set. One odd key never fails the others.
fn parse(body: &[u8]) -> Result<HashMap<String, Key>, String> {
    #[derive(serde::Deserialize)]
    struct Raw {
        keys: Vec<serde_json::Value>,
    }
    let raw: Raw = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let keys = raw.keys.into_iter().filter_map(|value| serde_json::from_value::<Jwk>(value).ok());
    let set = JwkSet { keys: keys.collect() };
    Ok(set.keys.iter().filter_map(usable).collect())
}

fn usable(jwk: &Jwk) -> Option<(String, Key)> {
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        AlgorithmParameters::RSA(_) if jwk.common.key_algorithm == Some(KeyAlgorithm::RS256) => Algorithm::RS256,
        _ => return None,
    };
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some((jwk.common.key_id.clone()?, Arc::new((algorithm, key))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EC: &str = r#"{"kty":"EC","crv":"P-256","use":"sig","alg":"ES256","kid":"a",
        "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
    const ED: &str = r#"{"kty":"OKP","crv":"Ed25519","kid":"b","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

    fn names(keys: &[&str]) -> Vec<String> {
        let mut names: Vec<String> =
            parse(format!(r#"{{"keys":[{}]}}"#, keys.join(",")).as_bytes()).unwrap().into_keys().collect();
        names.sort();
        names
    }

    #[test]
    fn both_algorithms_are_read() {
        assert_eq!(names(&[EC, ED]), ["a", "b"]);
    }

    #[test]
    fn one_odd_key_does_not_fail_the_set() {
        assert_eq!(names(&[r#"{"kty":"quantum","kid":"q"}"#, "7", EC]), ["a"]);
    }

    #[test]
    fn keys_for_encryption_symmetric_keys_and_nameless_keys_are_left_out() {
        assert_eq!(names(&[&EC.replace("\"sig\"", "\"enc\"")]), [""; 0]);
        assert_eq!(names(&[r#"{"kty":"oct","kid":"o","k":"c2VjcmV0"}"#]), [""; 0]);
        assert_eq!(names(&[&ED.replace(r#""kid":"b","#, "")]), [""; 0]);
    }

    #[test]
    fn what_is_no_key_set_is_an_error() {
        assert!(parse(b"[]").is_err());
        assert!(parse(b"<html>").is_err());
    }
}
