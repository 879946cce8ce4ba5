//! The headers of another gateway's format, beside the identity: for authenticated callers of clusters that ask for it.
//!
//! Signed once per caller and half a minute, whatever `identity.bind` says: these formats have no claim that could name
//! a request. The identity beside them has.

use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    clock::Timestamp,
    gate::{keyring::Keyring, refusal::Refusal},
    policy::{
        claims::Claims,
        preset::{self, Assertion, Preset},
    },
};

/// The headers of one caller, shared by its requests.
type Headers = Arc<[(HeaderName, HeaderValue)]>;

/// Made for one audience, good until a moment.
struct Made {
    preset: Preset,
    host: Arc<str>,
    audience: Arc<str>,
    kid: Option<Arc<str>>,
    headers: Headers,
    until: Timestamp,
}

/// What was made for a caller: as many as there are clusters it reaches and hosts their routes name.
#[derive(Default)]
pub struct Presets(Mutex<Vec<Made>>);

impl std::fmt::Debug for Presets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Presets(…)")
    }
}

/// For whom headers are made.
pub(super) struct Addressee<'a> {
    pub(super) preset: Preset,
    pub(super) issuer: &'a str,
    /// One that the configuration names: clients choose none.
    pub(super) host: &'a Arc<str>,
    pub(super) audience: &'a Arc<str>,
}

impl Presets {
    /// Sets the headers: those that are kept while they are fresh, else new ones.
    pub(super) fn set(
        &self,
        headers: &mut HeaderMap,
        to: &Addressee<'_>,
        claims: &Claims,
        keyring: &Keyring,
        (now, expires, until): (Timestamp, Timestamp, Timestamp),
    ) -> Result<(), Refusal> {
        let key = to.preset.algorithm().and_then(|algorithm| keyring.of(algorithm));
        let kid = key.as_ref().map(|key| key.kid());
        let made = if let Some(made) = self.get(to, kid, now) {
            made
        } else {
            let assertion = Assertion {
                issuer: to.issuer,
                host: to.host,
                audience: to.audience,
                issued: now.seconds(),
                expires: expires.seconds(),
                claims,
            };
            let made = preset::headers(to.preset, key.as_deref(), &assertion)
                .map_err(|fault| Refusal::internal(format!("an identity's preset cannot be made: {fault}")))?;
            self.put(to, kid, made.into(), now, until)
        };
        for (name, value) in made.iter() {
            headers.insert(name.clone(), value.clone());
        }
        Ok(())
    }

    fn get(&self, to: &Addressee<'_>, kid: Option<&Arc<str>>, now: Timestamp) -> Option<Headers> {
        let made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        made.iter().find(|one| one.is_for(to, kid) && now < one.until).map(|one| Arc::clone(&one.headers))
    }

    fn put(
        &self,
        to: &Addressee<'_>,
        kid: Option<&Arc<str>>,
        headers: Headers,
        now: Timestamp,
        until: Timestamp,
    ) -> Headers {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        made.retain(|one| now < one.until && !one.is_for(to, kid));
        made.push(Made {
            preset: to.preset,
            host: Arc::clone(to.host),
            audience: Arc::clone(to.audience),
            kid: kid.cloned(),
            headers: Arc::clone(&headers),
            until,
        });
        headers
    }
}

impl Made {
    fn is_for(&self, to: &Addressee<'_>, kid: Option<&Arc<str>>) -> bool {
        self.preset == to.preset && self.host == *to.host && self.audience == *to.audience && self.kid.as_ref() == kid
    }
}
