//! Another issuer: a recording service that publishes keys, and the tokens it signs. What it answers, and when, is the
//! test's to say.

use portcullis::policy::keys::{Algorithm, SigningKey};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::harness::{
    client::Client,
    clock::BEGIN,
    soon,
    tokens::{signed, with},
    upstream::{Held, Reply, Upstream},
};

/// Where its discovery document is.
pub(crate) const DISCOVERY: &str = "/.well-known/openid-configuration";

/// Where it publishes its keys.
pub(crate) const JWKS: &str = "/jwks";

/// `aud` of its tokens that are meant for us.
pub(crate) const AUDIENCE: &str = "rag-api";

/// A new key.
pub(crate) fn key(algorithm: Algorithm) -> SigningKey {
    SigningKey::from_pkcs8(algorithm, SigningKey::generate_pkcs8(algorithm).unwrap().expose_secret()).unwrap()
}

/// The set of these keys.
pub(crate) fn jwks(keys: &[&SigningKey]) -> Value {
    json!({"keys": keys.iter().map(|key| key.verifying().jwk().clone()).collect::<Vec<_>>()})
}

/// The issuer.
pub(crate) struct Issuer {
    pub(crate) service: Upstream,
    pub(crate) key: SigningKey,
}

impl Issuer {
    /// Publishes one ES256 key.
    pub(crate) async fn start() -> Self {
        Self::of(Upstream::start().await)
    }

    /// The same on a service that is there already.
    pub(crate) fn of(service: Upstream) -> Self {
        let issuer = Self { service, key: key(Algorithm::Es256) };
        let document = json!({"issuer": issuer.url(), "jwks_uri": format!("{}{JWKS}", issuer.url())});
        issuer.service.reply(DISCOVERY, Reply::new(200, &document.to_string()));
        issuer.publish(&[&issuer.key]);
        issuer
    }

    /// Its `iss`.
    pub(crate) fn url(&self) -> String {
        self.service.url()
    }

    /// Its key set is this from now on.
    pub(crate) fn publish(&self, keys: &[&SigningKey]) {
        self.answer(Reply::new(200, &jwks(keys).to_string()));
    }

    /// Whoever asks for its key set is answered so from now on.
    pub(crate) fn answer(&self, reply: Reply) {
        self.service.reply(JWKS, reply);
    }

    /// Takes the next request for its key set, and answers none before the test says so.
    pub(crate) async fn held(&self) -> Held {
        self.service.held().await
    }

    /// How often its key set was asked for.
    pub(crate) fn fetches(&self) -> usize {
        self.service.received().iter().filter(|one| one.target() == JWKS).count()
    }

    /// Claims of a good token.
    pub(crate) fn claims(&self) -> Value {
        json!({
            "iss": self.url(), "sub": "ann", "aud": AUDIENCE, "iat": BEGIN.seconds(), "exp": BEGIN.seconds() + 900,
        })
    }

    /// A token by its key, with some claims changed; `null` takes one away.
    pub(crate) fn token(&self, changes: &Value) -> String {
        self.token_by(&self.key, changes)
    }

    /// The same by another key.
    pub(crate) fn token_by(&self, key: &SigningKey, changes: &Value) -> String {
        let header = json!({"typ": "JWT", "alg": key.algorithm().name(), "kid": &**key.kid()});
        signed(key, &header, &with(self.claims(), changes))
    }
}

/// Asks again and again until the gateway has the keys it fetches at its start.
pub(crate) async fn ready(client: &Client, path: &str, token: &str) {
    let asked = async { while client.status(path, token).await != 200 {} };
    soon("the first keys", asked).await;
}
