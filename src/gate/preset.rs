//! The headers of another gateway's format, beside the identity: for authenticated callers of clusters that ask for it.
//!
//! Signed once per caller and half a minute, whatever `identity.bind` says: these formats have no claim that could name
//! a request. The identity beside them has.

use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    clock::Timestamp,
    gate::{caller::MOST_KEPT, keyring::Keyring, refusal::Refusal},
    policy::{
        claims::Claims,
        preset::{self, Assertion, Preset},
    },
};

/// The headers of one caller, shared by its requests.
type Headers = Arc<[(HeaderName, HeaderValue)]>;

/// Made for one audience, good from one moment until another, as identities are ([`crate::gate::caller`]).
struct Made {
    preset: Preset,
    host: Arc<str>,
    audience: Arc<str>,
    kid: Option<Arc<str>>,
    headers: Headers,
    from: Timestamp,
    until: Timestamp,
}

/// What was made for a caller: as many as there are clusters it reaches and hosts their routes name, up to
/// [`MOST_KEPT`].
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
        made.iter().find(|one| one.is_for(to, kid) && one.is_good(now)).map(|one| Arc::clone(&one.headers))
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
        made.retain(|one| one.is_good(now) && !one.is_for(to, kid));
        if made.len() >= MOST_KEPT {
            made.remove(0);
        }
        made.push(Made {
            preset: to.preset,
            host: Arc::clone(to.host),
            audience: Arc::clone(to.audience),
            kid: kid.cloned(),
            headers: Arc::clone(&headers),
            from: now,
            until,
        });
        headers
    }
}

impl Made {
    fn is_good(&self, now: Timestamp) -> bool {
        self.from <= now && now < self.until
    }

    fn is_for(&self, to: &Addressee<'_>, kid: Option<&Arc<str>>) -> bool {
        self.preset == to.preset && self.host == *to.host && self.audience == *to.audience && self.kid.as_ref() == kid
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        claims::tests::claims,
        keys::{Algorithm, tests::key},
    };

    #[test]
    fn a_caller_that_asks_many_hosts_keeps_the_latest_headers_only() {
        let (presets, claims) = (Presets::default(), claims());
        let keyring = Keyring::new(Arc::new(key(Algorithm::Es256)), Vec::new(), &[]);
        let audience = Arc::from("rag");
        let set = |host: &Arc<str>| {
            let to = Addressee { preset: Preset::Pomerium, issuer: "https://gw.test", host, audience: &audience };
            let times = [1_000, 1_060, 1_030].map(Timestamp::from_seconds).into();
            let mut headers = HeaderMap::new();
            presets.set(&mut headers, &to, &claims, &keyring, times).unwrap();
            headers
        };
        let hosts: Vec<Arc<str>> = (0..100).map(|number| format!("h-{number}.test").into()).collect();
        let made: Vec<_> = hosts.iter().map(set).collect();
        assert_eq!(presets.0.lock().unwrap().len(), MOST_KEPT);
        // ES256 signs anew each time: what is the same was kept.
        let kept = |(host, made): (&Arc<str>, &HeaderMap)| set(host) == *made;
        assert!(hosts.iter().zip(&made).rev().take(MOST_KEPT).all(kept));
        assert!(!kept((&hosts[0], &made[0])));
    }
}
