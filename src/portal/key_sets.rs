//! Key sets where readers of a preset look for them: served while a cluster has the preset, with the portal or without.
//!
//! Each holds the keys of the preset's own algorithm and no other.

use axum::{
    Router,
    extract::State,
    routing::{MethodRouter, get},
};
use serde_json::{Map, Value, json};

use crate::{
    gate::refusal::Refusal,
    policy::{keys::VerifyingKey, preset::Preset},
    portal::{answers::Answer, state::Published, well_known::publish},
};

/// One key set.
#[derive(Debug)]
pub struct PresetKeys {
    /// Label in metrics and logs, and the route's name.
    pub name: &'static str,
    /// Whose readers look there.
    pub preset: Preset,
    /// Its place among [`Preset::key_paths`].
    place: usize,
    form: Form,
}

/// How the keys are written.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// A JWK Set (RFC 7517 §5).
    Jwks,
    /// An object from `kid` to PEM, as Google writes it.
    Pem,
}

/// Every one.
pub static PRESET_KEYS: &[PresetKeys] = &[
    PresetKeys { name: "keys_pomerium", preset: Preset::Pomerium, place: 0, form: Form::Jwks },
    PresetKeys { name: "keys_google_iap", preset: Preset::GoogleIap, place: 0, form: Form::Pem },
    PresetKeys { name: "keys_google_iap_jwk", preset: Preset::GoogleIap, place: 1, form: Form::Jwks },
    PresetKeys { name: "keys_cloudflare_access", preset: Preset::CloudflareAccess, place: 0, form: Form::Jwks },
];

impl PresetKeys {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &'static str {
        self.preset.key_paths().get(self.place).copied().unwrap_or_default()
    }

    fn handler(&'static self) -> MethodRouter<Published> {
        get(async move |State(published): State<Published>| -> Result<Answer, Refusal> {
            publish(&self.document(&published))
        })
    }

    fn document(&self, published: &Published) -> Value {
        let algorithm = self.preset.algorithm();
        let all = published.keyring.published();
        let keys = all.iter().filter(|key| Some(key.algorithm) == algorithm);
        match self.form {
            Form::Jwks => json!({"keys": keys.map(VerifyingKey::jwk).collect::<Vec<_>>()}),
            Form::Pem => keys
                .filter_map(|key| Some((key.kid.to_string(), Value::from(key.pem()?))))
                .collect::<Map<_, _>>()
                .into(),
        }
    }
}

/// The router of all of them: which are reachable is the route table's to say.
pub(crate) fn router(published: &Published) -> Router {
    let all = PRESET_KEYS.iter().fold(Router::new(), |router, keys| router.route(keys.path(), keys.handler()));
    all.with_state(published.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::keys::Algorithm;

    #[test]
    fn every_path_that_readers_look_at_is_served_once() {
        let mut served: Vec<_> = PRESET_KEYS.iter().map(PresetKeys::path).collect();
        let mut looked_at: Vec<_> = Preset::ALL.iter().flat_map(|preset| preset.key_paths()).copied().collect();
        served.sort_unstable();
        looked_at.sort_unstable();
        assert_eq!(served, looked_at);
    }

    #[test]
    fn only_es256_is_written_as_pem() {
        let pem = PRESET_KEYS.iter().filter(|keys| matches!(keys.form, Form::Pem));
        assert!(pem.clone().all(|keys| keys.preset.algorithm() == Some(Algorithm::Es256)) && pem.count() == 1);
    }
}
