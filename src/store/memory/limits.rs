//! Rate limits counted in this process: GCRA by `governor`, over bounded state of our own.
//!
//! A limit can be *charged* (the request counts) or *peeked* (it does not). What is peeked and charged when, and to
//! whom, is the gate's to say: `gate/limits.rs` before authentication, `gate/charge.rs` after it.

use std::{fmt, net::IpAddr, num::NonZeroU32, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use governor::{Quota, RateLimiter, clock::Clock, middleware::StateInformationMiddleware};

use super::gcra_state::{Buckets, Slot};
use crate::{
    clock::Tick,
    config::settings,
    policy::{
        forwarded::limit_prefix,
        ids::{ApiKeyId, SessionId},
    },
};

/// What a counter belongs to: fixed in size, whatever the client sends.
///
/// What is not an address is hashed, and cryptographically: a collision would let one drain another's limit. The half of
/// SHA-256 that is kept is enough, since nobody gains by two of his own keys being one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CounterKey {
    /// A client address, cut to what one client can hold: IPv4 /32, IPv6 /64. See [`Self::address`].
    Address(IpAddr),
    /// A subject of an issuer, hashed. See [`Self::subject`].
    Subject(u128),
    /// A session of ours: its id.
    Session(u128),
    /// An API key: its id.
    ApiKey(u128),
    /// A client of an issuer, hashed. See [`Self::client`].
    Client(u128),
    /// An organisation as an issuer names it, hashed. See [`Self::org`].
    Org(u128),
    /// A header's value, hashed.
    Header(u128),
    /// A route, hashed.
    Route(u128),
    /// Two of these, hashed. See [`Self::pair`].
    Pair(u128),
}

impl CounterKey {
    /// The key of an address: IPv6 is cut to its /64, an IPv4-mapped address is its IPv4 address.
    #[must_use]
    pub fn address(address: IpAddr) -> Self {
        Self::Address(limit_prefix(address))
    }

    /// The key of a subject. The issuer counts too: two issuers' equal subjects are two people.
    #[must_use]
    pub fn subject(issuer: &str, subject: &str) -> Self {
        Self::Subject(of_issuer(issuer, subject))
    }

    /// The key of a session of ours.
    #[must_use]
    pub const fn session(id: SessionId) -> Self {
        Self::Session(id.0.as_u128())
    }

    /// The key of an API key.
    #[must_use]
    pub const fn api_key(id: ApiKeyId) -> Self {
        Self::ApiKey(id.0.as_u128())
    }

    /// The key of the client that an issuer gave a token to.
    #[must_use]
    pub fn client(issuer: &str, client: &str) -> Self {
        Self::Client(of_issuer(issuer, client))
    }

    /// The key of an organisation. The issuer counts too: one issuer cannot use up what another's organisation has.
    #[must_use]
    pub fn org(issuer: &str, org: &str) -> Self {
        Self::Org(of_issuer(issuer, org))
    }

    /// The key of a header's value.
    #[must_use]
    pub fn header(value: &[u8]) -> Self {
        Self::Header(hash(value))
    }

    /// The key of a route.
    #[must_use]
    pub fn route(name: &str) -> Self {
        Self::Route(hash(name.as_bytes()))
    }

    /// The key of two things together.
    #[must_use]
    pub fn pair(one: &Self, other: &Self) -> Self {
        let mut both = [0; 34];
        let (first, second) = both.split_at_mut(17);
        one.write(first);
        other.write(second);
        Self::Pair(hash(&both))
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Address(_) => b'a',
            Self::Subject(_) => b's',
            Self::Session(_) => b'n',
            Self::ApiKey(_) => b'k',
            Self::Client(_) => b'c',
            Self::Org(_) => b'o',
            Self::Header(_) => b'h',
            Self::Route(_) => b'r',
            Self::Pair(_) => b'p',
        }
    }

    const fn bits(&self) -> u128 {
        match self {
            Self::Address(IpAddr::V4(address)) => address.to_ipv6_mapped().to_bits(),
            Self::Address(IpAddr::V6(address)) => address.to_bits(),
            Self::Subject(bits)
            | Self::Session(bits)
            | Self::ApiKey(bits)
            | Self::Client(bits)
            | Self::Org(bits)
            | Self::Header(bits)
            | Self::Route(bits)
            | Self::Pair(bits) => *bits,
        }
    }

    fn write(&self, out: &mut [u8]) {
        if let Some((kind, bits)) = out.split_first_mut() {
            *kind = self.kind();
            bits.copy_from_slice(&self.bits().to_be_bytes());
        }
    }
}

/// An issuer is a URL and holds no NUL.
fn of_issuer(issuer: &str, name: &str) -> u128 {
    hash(&[issuer.as_bytes(), &[0], name.as_bytes()].concat())
}

fn hash(of: &[u8]) -> u128 {
    let hash = digest(&SHA256, of);
    let (half, _) = hash.as_ref().split_at(16);
    half.iter().fold(0, |bits, byte| bits << 8 | u128::from(*byte))
}

impl fmt::Display for CounterKey {
    /// As it stands in Redis: short, without a sign that means something there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "a:{address}"),
            hashed => write!(f, "{}:{:032x}", char::from(hashed.kind()), hashed.bits()),
        }
    }
}

/// Whether a request is within a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is.
    Admitted {
        /// Requests that may come at once after this one; a peek has spent nothing, so its own is still among them.
        remaining: u32,
        /// When the whole burst will be there again.
        reset: Duration,
    },
    /// It is not; nothing was charged.
    Refused {
        /// When the next request would be admitted.
        retry_after: Duration,
        /// When the whole burst will be there again.
        reset: Duration,
    },
}

/// The counters of one configured limit.
#[derive(Debug)]
pub struct LimitCounter {
    quota: Quota,
    buckets: Buckets,
}

impl LimitCounter {
    /// Counters for at most `max_keys` keys at once (at least one); some 70 bytes a key.
    #[must_use]
    pub fn new(limit: &settings::Limit, max_keys: usize) -> Self {
        Self { quota: quota(limit), buckets: Buckets::new(max_keys) }
    }

    /// Counts one request, if it is within the limit.
    pub fn charge(&self, key: &CounterKey, now: Tick) -> Decision {
        self.ask(key, now, true)
    }

    /// Looks whether one request would be within the limit; counts nothing.
    #[must_use]
    pub fn peek(&self, key: &CounterKey, now: Tick) -> Decision {
        self.ask(key, now, false)
    }

    /// Keys held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn ask(&self, key: &CounterKey, now: Tick, charge: bool) -> Decision {
        // A limiter is four words around the slot: making one a call costs nothing and carries `now`.
        let slot = Slot::new(&self.buckets, now, charge);
        let limiter = RateLimiter::<_, _, _, StateInformationMiddleware>::new(self.quota, slot, Standstill);
        let outcome = limiter.check_key(key);
        let reset = Duration::from_nanos(limiter.into_state_store().full_in());
        match outcome {
            Ok(after) => {
                let remaining = after.remaining_burst_capacity() + u32::from(!charge);
                Decision::Admitted { remaining, reset }
            }
            Err(until) => Decision::Refused { retry_after: until.wait_time_from(Duration::ZERO), reset },
        }
    }
}

/// Governor's clock, at zero for ever: [`Slot`] counts from the moment of the question instead.
struct Standstill;

impl Clock for Standstill {
    type Instant = Duration;

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

/// One request every `period / requests`, `burst` of them at once.
fn quota(limit: &settings::Limit) -> Quota {
    let each = (limit.period / limit.requests.get()).max(Duration::from_nanos(1));
    // Governor multiplies the two in 64 bits of nanoseconds; half of them are 292 years.
    let most = (u64::MAX / 2) / u64::try_from(each.as_nanos()).unwrap_or(u64::MAX / 2).clamp(1, u64::MAX / 2);
    let most = NonZeroU32::new(u32::try_from(most).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
    Quota::with_period(each).unwrap_or(Quota::per_second(NonZeroU32::MIN)).allow_burst(limit.burst.min(most))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn limit(requests: u32, period: Duration, burst: u32) -> settings::Limit {
        settings::Limit {
            name: Arc::from("test"),
            key: settings::LimitKey::one(settings::KeyPart::Address),
            requests: NonZeroU32::new(requests).unwrap(),
            period,
            burst: NonZeroU32::new(burst).unwrap(),
            scope: settings::LimitScope::Local,
            shadow: false,
            max_keys: 100,
        }
    }

    /// Ten a second, three at once.
    fn counter(max_keys: usize) -> LimitCounter {
        LimitCounter::new(&limit(10, Duration::from_secs(1), 3), max_keys)
    }

    fn tick(nanos: u64) -> Tick {
        Tick::from_nanos(nanos)
    }

    fn ip(text: &str) -> CounterKey {
        CounterKey::address(text.parse().unwrap())
    }

    fn admitted(decision: Decision) -> bool {
        matches!(decision, Decision::Admitted { .. })
    }

    #[test]
    fn a_burst_is_admitted_then_refused_with_the_exact_wait() {
        let counter = counter(100);
        let key = ip("192.0.2.1");
        let remaining: Vec<_> = (0..3).map(|_| counter.charge(&key, tick(SECOND))).collect();
        for (at, decision) in remaining.iter().enumerate() {
            let left = u32::try_from(2 - at).unwrap();
            let reset = Duration::from_millis(100) * (3 - left);
            assert_eq!(*decision, Decision::Admitted { remaining: left, reset });
        }
        let expected = Decision::Refused { retry_after: Duration::from_millis(100), reset: Duration::from_millis(300) };
        assert_eq!(counter.charge(&key, tick(SECOND)), expected);
    }

    #[test]
    fn who_waits_as_told_is_admitted_and_a_nanosecond_earlier_is_not() {
        let counter = counter(100);
        let key = ip("192.0.2.1");
        while admitted(counter.charge(&key, tick(0))) {}
        let Decision::Refused { retry_after, .. } = counter.charge(&key, tick(0)) else { panic!("refused") };
        let then = u64::try_from(retry_after.as_nanos()).unwrap();
        assert!(!admitted(counter.charge(&key, tick(then - 1))));
        assert!(admitted(counter.charge(&key, tick(then))));
    }

    #[test]
    fn a_refused_request_costs_nothing() {
        let counter = counter(100);
        let key = ip("192.0.2.1");
        for _ in 0..100 {
            let _ = counter.charge(&key, tick(0));
        }
        assert!(admitted(counter.charge(&key, tick(SECOND / 10))));
    }

    #[test]
    fn a_peek_spends_nothing_and_sees_what_a_charge_would() {
        let counter = counter(100);
        let key = ip("192.0.2.1");
        for _ in 0..10 {
            assert_eq!(counter.peek(&key, tick(0)), Decision::Admitted { remaining: 3, reset: Duration::ZERO });
        }
        assert!(counter.is_empty());
        while admitted(counter.charge(&key, tick(0))) {}
        assert_eq!(counter.peek(&key, tick(0)), counter.charge(&key, tick(0)));
    }

    #[test]
    fn keys_do_not_share_a_bucket() {
        let counter = counter(100);
        while admitted(counter.charge(&ip("192.0.2.1"), tick(0))) {}
        assert!(admitted(counter.charge(&ip("192.0.2.2"), tick(0))));
    }

    #[test]
    fn one_ipv6_customer_is_one_key_and_a_mapped_address_is_ipv4() {
        assert_eq!(ip("2001:db8:1:2::1"), ip("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(ip("2001:db8:1:2::1"), ip("2001:db8:1:3::1"));
        assert_eq!(ip("::ffff:192.0.2.1"), ip("192.0.2.1"));
        assert_ne!(ip("192.0.2.1"), ip("192.0.2.2"));
    }

    #[test]
    fn another_issuers_equal_subject_is_another_key() {
        assert_eq!(CounterKey::subject("https://a", "u"), CounterKey::subject("https://a", "u"));
        assert_ne!(CounterKey::subject("https://a", "u"), CounterKey::subject("https://b", "u"));
        assert_ne!(CounterKey::subject("https://a", "bu"), CounterKey::subject("https://ab", "u"));
    }

    #[test]
    fn a_pair_is_neither_of_its_parts_and_no_other_pair() {
        let (ann, bob) = (CounterKey::subject("https://a", "ann"), CounterKey::subject("https://a", "bob"));
        let (ask, tell) = (CounterKey::route("ask"), CounterKey::route("tell"));
        let all = [
            ann,
            ask,
            CounterKey::pair(&ann, &ask),
            CounterKey::pair(&ann, &tell),
            CounterKey::pair(&bob, &ask),
            CounterKey::pair(&ask, &ann),
            CounterKey::pair(&ip("192.0.2.1"), &ask),
            CounterKey::header(b"ask"),
            CounterKey::client("https://a", "ann"),
            CounterKey::org("https://a", "ann"),
        ];
        let written: std::collections::HashSet<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(written.len(), all.len(), "{written:?}");
        assert_eq!(CounterKey::pair(&ann, &ask), CounterKey::pair(&ann, &ask));
    }

    #[test]
    fn a_flood_of_fresh_addresses_neither_grows_memory_nor_frees_a_used_up_key() {
        let counter = counter(256);
        let busy = ip("192.0.2.1");
        while admitted(counter.charge(&busy, tick(0))) {}
        for number in 0_u32..20_000 {
            let _ = counter.charge(&CounterKey::Address(IpAddr::from(number.to_be_bytes())), tick(0));
        }
        assert!(counter.len() <= 256);
        assert!(!admitted(counter.peek(&busy, tick(0))), "the flood wiped the busy key");
    }

    #[test]
    fn absurd_settings_neither_overflow_nor_admit_all() {
        let year = Duration::from_hours(366 * 24);
        for (requests, period, burst) in
            [(1, year * 100, u32::MAX), (u32::MAX, Duration::from_nanos(1), u32::MAX), (1, Duration::ZERO, 1)]
        {
            let counter = LimitCounter::new(&limit(requests, period, burst), 10);
            assert!(admitted(counter.charge(&ip("192.0.2.1"), tick(u64::MAX / 4))));
        }
        let once = LimitCounter::new(&limit(1, year, 1), 10);
        assert!(admitted(once.charge(&ip("192.0.2.1"), tick(0))));
        assert!(!admitted(once.charge(&ip("192.0.2.1"), tick(365 * 86_400 * SECOND))));
    }

    #[test]
    fn many_threads_together_get_no_more_than_the_burst() {
        let counter = LimitCounter::new(&limit(1, Duration::from_mins(1), 50), 100);
        let key = ip("192.0.2.1");
        let admitted: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..100).filter(|_| admitted(counter.charge(&key, tick(0)))).count()))
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(admitted, 50);
    }

    proptest! {
        /// GCRA's promise, against a count made by hand: in any window, no more than burst + rate × window.
        #[test]
        fn no_window_admits_more_than_the_burst_and_what_flowed_in(
            requests in 1u32..50,
            burst in 1u32..20,
            gaps in proptest::collection::vec(0u64..400_000_000, 1..200),
        ) {
            let counter = LimitCounter::new(&limit(requests, Duration::from_secs(1), burst), 10);
            let key = ip("192.0.2.1");
            let mut now = 7 * SECOND;
            let mut admitted_at = Vec::new();
            for gap in gaps {
                now += gap;
                let peeked = counter.peek(&key, tick(now));
                let charged = counter.charge(&key, tick(now));
                prop_assert_eq!(admitted(peeked), admitted(charged));
                if admitted(charged) {
                    admitted_at.push(now);
                }
            }
            let each = SECOND / u64::from(requests);
            for (first, start) in admitted_at.iter().enumerate() {
                for (last, end) in admitted_at.iter().enumerate().skip(first) {
                    let count = u64::try_from(last - first + 1).unwrap();
                    prop_assert!(count <= u64::from(burst) + (end - start) / each);
                }
            }
        }
    }
}
