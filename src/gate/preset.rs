//! The headers of another gateway's format, beside the identity: for authenticated callers of clusters that ask for it.
//!
//! Signed once per caller and half a minute, whatever `identity.bind` says: these formats have no claim that could name
//! a request. The identity beside them has.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    clock::Timestamp,
    gate::{kept::Kept, keyring::Keyring, refusal::Refusal},
    policy::{
        claims::Claims,
        preset::{self, Assertion, Preset},
    },
};

/// The headers of one caller, shared by its requests.
type Headers = Arc<[(HeaderName, HeaderValue)]>;

/// What they were made for.
#[derive(PartialEq)]
struct Made {
    preset: Preset,
    host: Arc<str>,
    audience: Arc<str>,
    kid: Option<Arc<str>>,
}

/// What was made for a caller: as many as there are clusters it reaches and hosts their routes name, within what is kept
/// of a kind.
#[derive(Debug, Default)]
pub struct Presets(Kept<Made, Headers>);

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
        let is_it = |made: &Made| {
            made.preset == to.preset
                && made.host == *to.host
                && made.audience == *to.audience
                && made.kid.as_ref() == kid
        };
        let made = if let Some(made) = self.0.get(is_it, now) {
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
            let made: Headers = preset::headers(to.preset, key.as_deref(), &assertion)
                .map_err(|fault| Refusal::internal(format!("an identity's preset cannot be made: {fault}")))?
                .into();
            let (host, audience) = (Arc::clone(to.host), Arc::clone(to.audience));
            self.0.put(Made { preset: to.preset, host, audience, kid: kid.cloned() }, Arc::clone(&made), now, until);
            made
        };
        for (name, value) in made.iter() {
            headers.insert(name.clone(), value.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gate::kept::MOST,
        policy::{
            claims::tests::claims,
            keys::{Algorithm, tests::key},
        },
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
        assert_eq!(presets.0.len(), MOST);
        // ES256 signs anew each time: what is the same was kept.
        let kept = |(host, made): (&Arc<str>, &HeaderMap)| set(host) == *made;
        assert!(hosts.iter().zip(&made).rev().take(MOST).all(kept));
        assert!(!kept((&hosts[0], &made[0])));
    }
}
