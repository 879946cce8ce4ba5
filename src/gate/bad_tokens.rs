//! Tokens that do not verify: what is known to fail is not computed again, and who sends too many is not computed for.
//!
//! What is kept of a token is its SHA-256 and the key that its signature is not of. That key will never verify that
//! very token; another key of the same name, or one that is learned of later, is asked anew, so no change of keys is
//! held up. An entry counts for a minute at most, in bounded memory of its own: garbage pushes no verified token out.
//!
//! Failures are charged to their address, exactly (GCRA by /32 and /64, bounded). Beyond its limit a token of that
//! address that is not among the verified ones is refused before any cryptography. Who has a verified one goes on, also
//! behind the same address; a token that was just issued there is refused like the garbage until some of the limit has
//! come back, since nothing but the verification tells them apart. What is malformed or names no key costs no
//! cryptography and is charged to nobody here.

use std::{cell::RefCell, net::IpAddr, sync::Arc, time::Duration};

use quick_cache::sync::Cache;

use crate::{
    clock::Tick,
    config::settings::{Flood, KeyPart, Limit, LimitKey, LimitScope},
    gate::{
        refusal::{Detail, Refusal},
        token_cache::TokenDigest,
    },
    policy::{
        keys::VerifyingKey,
        reason::Reason,
        token::{TokenFault, Verified},
    },
    store::memory::limits::{CounterKey, Decision, LimitCounter},
    telemetry::metrics::{FloodKind, Metrics, SignatureCheck},
};

/// Tokens that are known not to verify, at most; about 100 bytes each.
const KNOWN: usize = 10_000;

/// How long.
const LONGEST: Duration = Duration::from_mins(1);

/// Addresses with failures, at most; about 100 bytes each. Beyond, those that failed least make room.
const ADDRESSES: usize = 50_000;

/// A signature that is not this key's.
#[derive(Debug, Clone)]
struct Failed {
    key: Arc<str>,
    until: Tick,
}

/// What is known of bad tokens.
pub struct BadTokens {
    known: Cache<TokenDigest, Failed>,
    failures: Option<LimitCounter>,
    metrics: Arc<Metrics>,
}

/// One token, before its signature is looked at.
pub(super) struct Attempt<'a> {
    bad: &'a BadTokens,
    digest: TokenDigest,
    client: Option<CounterKey>,
    now: Tick,
    came: RefCell<Came>,
}

/// What came of it.
#[derive(Debug)]
enum Came {
    /// No key was asked.
    Unasked,
    /// This one was.
    Asked(Arc<str>),
    /// None was, for the address has failed too often.
    Refused(Duration),
}

impl BadTokens {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(flood: &Flood, metrics: Arc<Metrics>) -> Self {
        let failures = flood.failed_tokens.map(|most| {
            let limit = Limit {
                name: "failed_tokens".into(),
                key: LimitKey::one(KeyPart::Address),
                requests: most,
                period: flood.window,
                burst: most,
                scope: LimitScope::Local,
                shadow: false,
                max_keys: ADDRESSES,
            };
            LimitCounter::new(&limit, ADDRESSES)
        });
        Self { known: Cache::new(KNOWN), failures, metrics }
    }

    /// A token that is not among the verified ones. `client`: whom a failure is charged to; `None`: nobody.
    pub(super) fn attempt(&self, digest: TokenDigest, client: Option<IpAddr>, now: Tick) -> Attempt<'_> {
        let client = client.map(CounterKey::address);
        Attempt { bad: self, digest, client, now, came: RefCell::new(Came::Unasked) }
    }
}

impl Attempt<'_> {
    /// To be asked by the verification, once everything else is right and before the signature is computed.
    pub(super) fn may_verify(&self, key: &VerifyingKey) -> Result<(), TokenFault> {
        let known = self.bad.known.get(&self.digest).filter(|failed| {
            // Of a clock that never goes back; see `Tick`.
            failed.key == key.thumbprint && self.now < failed.until
        });
        if known.is_some() {
            self.bad.metrics.signature_checks.of(SignatureCheck::KnownBad).inc();
            return Err(TokenFault::Signature);
        }
        if let Some((failures, client)) = self.bad.failures.as_ref().zip(self.client.as_ref())
            && let Decision::Refused { retry_after, .. } = failures.peek(client, self.now)
        {
            self.came.replace(Came::Refused(retry_after));
            return Err(TokenFault::Unchecked);
        }
        self.came.replace(Came::Asked(Arc::clone(&key.thumbprint)));
        Ok(())
    }

    /// To be told how it ended.
    pub(super) fn ended(&self, outcome: &Result<Verified, TokenFault>) {
        let came = self.came.borrow();
        let Came::Asked(key) = &*came else { return };
        if !matches!(outcome, Err(TokenFault::Signature)) {
            self.bad.metrics.signature_checks.of(SignatureCheck::Good).inc();
            return;
        }
        self.bad.metrics.signature_checks.of(SignatureCheck::Bad).inc();
        self.bad.known.insert(self.digest, Failed { key: Arc::clone(key), until: self.now.plus(LONGEST) });
        if let Some((failures, client)) = self.bad.failures.as_ref().zip(self.client.as_ref()) {
            failures.charge(client, self.now);
        }
    }

    /// The refusal, if it was one of the address and not of the token.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let Came::Refused(retry_after) = self.came.replace(Came::Unasked) else { return None };
        self.bad.metrics.floods_refused.of(FloodKind::FailedTokens).inc();
        Some(Refusal::with(Reason::TokensUnchecked, Detail::RetryAfter(retry_after)))
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, num::NonZeroU32};

    use super::*;
    use crate::{
        gate::token_cache::TokenCache,
        policy::keys::{Algorithm, tests::key},
    };

    fn bad(most: u32) -> BadTokens {
        let flood = Flood {
            window: Duration::from_secs(10),
            connections: None,
            bad_requests: None,
            failed_tokens: NonZeroU32::new(most),
        };
        BadTokens::new(&flood, Arc::new(Metrics::new()))
    }

    fn at(seconds: u64) -> Tick {
        Tick::from_nanos(seconds * 1_000_000_000)
    }

    const ONE: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    const OTHER: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)));

    /// Whether the key is asked about this token; it says no.
    fn asked(bad: &BadTokens, token: &str, key: &VerifyingKey, client: Option<IpAddr>, now: Tick) -> bool {
        let attempt = bad.attempt(TokenCache::digest(token), client, now);
        let may = attempt.may_verify(key);
        attempt.ended(&Err(TokenFault::Signature));
        may.is_ok()
    }

    #[test]
    fn a_token_that_failed_with_one_key_is_asked_of_another() {
        let bad = bad(100);
        let (old, new) = (key(Algorithm::Es256).verifying(), key(Algorithm::Es256).verifying());
        // Of the same name, as an issuer may replace one.
        let new = new.named(&old.kid);
        assert!(asked(&bad, "t", &old, ONE, at(1)));
        assert!(!asked(&bad, "t", &old, ONE, at(60)));
        assert!(asked(&bad, "t", &new, ONE, at(2)));
    }

    #[test]
    fn it_is_known_for_a_minute() {
        let (bad, key) = (bad(100), key(Algorithm::Es256).verifying());
        assert!(asked(&bad, "t", &key, None, at(1)));
        assert!(!asked(&bad, "t", &key, None, at(60)));
        assert!(asked(&bad, "t", &key, None, at(61)));
    }

    #[test]
    fn a_good_token_is_charged_to_nobody_and_known_as_bad_to_nobody() {
        let (bad, key) = (bad(1), key(Algorithm::Es256).verifying());
        for _ in 0..5 {
            let attempt = bad.attempt(TokenCache::digest("t"), ONE, at(1));
            assert_eq!(attempt.may_verify(&key), Ok(()));
            // Its signature is good; what else may be wrong with it is not of its key's making.
            attempt.ended(&Err(TokenFault::Malformed));
            assert!(attempt.refusal().is_none());
        }
    }

    #[test]
    fn an_address_beyond_its_failures_is_asked_of_no_key_until_some_have_come_back() {
        let (bad, key) = (bad(2), key(Algorithm::Es256).verifying());
        assert!(asked(&bad, "a", &key, ONE, at(1)) && asked(&bad, "b", &key, ONE, at(1)));
        let attempt = bad.attempt(TokenCache::digest("c"), ONE, at(1));
        assert_eq!(attempt.may_verify(&key), Err(TokenFault::Unchecked));
        attempt.ended(&Err(TokenFault::Unchecked));
        assert_eq!(attempt.refusal().map(|refusal| refusal.reason), Some(Reason::TokensUnchecked));
        assert!(asked(&bad, "c", &key, OTHER, at(1)), "another address");
        assert!(asked(&bad, "d", &key, None, at(1)), "nobody's");
        assert!(asked(&bad, "e", &key, ONE, at(6)));
        assert!(!asked(&bad, "a", &key, ONE, at(6)), "known before it is counted");
    }

    #[test]
    fn a_flood_of_garbage_is_bounded() {
        let (bad, key) = (bad(1_000_000), key(Algorithm::Es256).verifying());
        for number in 0..3 * KNOWN {
            asked(&bad, &number.to_string(), &key, ONE, at(1));
        }
        assert!(bad.known.len() <= KNOWN);
    }
}
