//! Credential stuffing: does a part of the network try many people's passwords, as lists of stolen ones are tried?
//!
//! What tells it from people who mistype is not how many logins fail but how many *different* pairs of account and
//! password fail, and with how many accounts: somebody who repeats a wrong password is one pair, an office behind one
//! address a few, a guesser at one account many pairs of one account (which `lockout` counts). The different ones are
//! counted by linear counting (Whang, Vander-Zanden, Taylor 1990): 128 bytes, whatever comes, and nothing in them leads
//! back to a password: a pair sets one of 1024 bits, chosen by a MAC under a key that never leaves the process.

use std::{net::IpAddr, num::NonZeroU32, time::Duration};

use aws_lc_rs::hmac;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::clock::Tick;

const BITS: u16 = 1_024;

/// Of so many failed pairs that make it stuffing, one account for each this many: a list may hold some passwords of one
/// person.
const PAIRS_PER_ACCOUNT: u32 = 4;

/// When failed logins are taken for stuffing, and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StuffingRules {
    /// Different pairs that fail from one address (of IPv6: /64).
    pub pairs: NonZeroU32,
    /// The same from a network (/24; of IPv6 /48).
    pub network_pairs: NonZeroU32,
    /// Within this time of the first.
    pub window: Duration,
    /// For so long logins from there are refused that bring no device cookie.
    pub refuse_for: Duration,
}

/// How much of the network is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// One client: an IPv4 address, an IPv6 /64.
    Address,
    /// Its neighbourhood: /24, of IPv6 /48.
    Network,
}

impl Reach {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Address, Self::Network];

    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Network => "network",
        }
    }

    /// What of the network an address stands for.
    #[must_use]
    pub fn of(self, address: IpAddr) -> IpNet {
        let (v4, v6) = match self {
            Self::Address => (32, 64),
            Self::Network => (24, 48),
        };
        match address.to_canonical() {
            IpAddr::V4(address) => Ipv4Net::new_assert(address, v4).trunc().into(),
            IpAddr::V6(address) => Ipv6Net::new_assert(address, v6).trunc().into(),
        }
    }

    const fn threshold(self, rules: &StuffingRules) -> u32 {
        match self {
            Self::Address => rules.pairs.get(),
            Self::Network => rules.network_pairs.get(),
        }
    }
}

/// A login that failed, as it is counted: nothing leads back from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedPair {
    pair: u64,
    account: u64,
}

impl FailedPair {
    /// Of an account, by whatever names it, and a password.
    #[must_use]
    pub fn of(key: &hmac::Key, account: &[u8], password: &[u8]) -> Self {
        Self { pair: digest(key, &[b"pair", account, password]), account: digest(key, &[b"account", account]) }
    }
}

/// Each part with its length, so that no two lists of parts are one text.
fn digest(key: &hmac::Key, parts: &[&[u8]]) -> u64 {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    let tag = context.sign();
    tag.as_ref().iter().take(8).fold(0, |bits, byte| bits << 8 | u64::from(*byte))
}

/// How many different things were seen, about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sketch([u64; BITS as usize / 64]);

impl Sketch {
    /// None yet.
    pub const EMPTY: Self = Self([0; BITS as usize / 64]);

    /// Sees one, by a hash that is as good as random.
    pub fn see(&mut self, hash: u64) {
        let bit = hash % u64::from(BITS);
        if let Some(word) = usize::try_from(bit / 64).ok().and_then(|word| self.0.get_mut(word)) {
            *word |= 1 << (bit % 64);
        }
    }

    /// About how many were different: within a tenth (three standard deviations) up to 2000, and never more than seven
    /// thousand.
    #[must_use]
    pub fn estimate(&self) -> u32 {
        let ones: u32 = self.0.iter().map(|word| word.count_ones()).sum();
        let bits = f64::from(BITS);
        // Full says no more than one short of full.
        let zeros = (bits - f64::from(ones)).max(1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1024 ln 1024")]
        let estimate = (bits * (bits / zeros).ln()).round() as u32;
        estimate
    }
}

/// What was found to be stuffing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Different pairs, about.
    pub pairs: u32,
    /// Different accounts, about.
    pub accounts: u32,
}

/// What is known of one part of the network.
#[derive(Debug, Clone)]
pub struct Watch {
    since: Tick,
    refused_until: Option<Tick>,
    pairs: Sketch,
    accounts: Sketch,
}

impl Watch {
    /// Nothing yet.
    #[must_use]
    pub const fn begin(now: Tick) -> Self {
        Self { since: now, refused_until: None, pairs: Sketch::EMPTY, accounts: Sketch::EMPTY }
    }

    /// How long it is refused still.
    #[must_use]
    pub fn refuses(&self, now: Tick) -> Option<Duration> {
        self.refused_until.map(|until| until.since(now)).filter(|wait| !wait.is_zero())
    }

    /// A login from there failed. Gives what was found, once: from then on it is refused, and when that is over it starts
    /// anew.
    pub fn failed(&mut self, what: FailedPair, reach: Reach, rules: &StuffingRules, now: Tick) -> Option<Found> {
        if self.refuses(now).is_some() {
            return None;
        }
        if self.refused_until.is_some() || now.since(self.since) >= rules.window {
            *self = Self::begin(now);
        }
        self.pairs.see(what.pair);
        self.accounts.see(what.account);
        let found = Found { pairs: self.pairs.estimate(), accounts: self.accounts.estimate() };
        let threshold = reach.threshold(rules);
        let many = found.pairs >= threshold && found.accounts >= threshold.div_ceil(PAIRS_PER_ACCOUNT);
        if many {
            self.refused_until = Some(now.plus(rules.refuse_for));
        }
        many.then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: StuffingRules = StuffingRules {
        pairs: NonZeroU32::new(100).unwrap(),
        network_pairs: NonZeroU32::new(500).unwrap(),
        window: Duration::from_mins(15),
        refuse_for: Duration::from_mins(10),
    };

    fn key(seed: u8) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &[seed; 32])
    }

    fn tick(seconds: u64) -> Tick {
        Tick::from_nanos(seconds * 1_000_000_000)
    }

    fn pair(account: usize, password: usize) -> FailedPair {
        FailedPair::of(
            &key(7),
            format!("user-{account}@example.org").as_bytes(),
            format!("secret-{password}").as_bytes(),
        )
    }

    /// How many of these it takes until something is found, one a second.
    fn found_after(pairs: impl Iterator<Item = FailedPair>, reach: Reach) -> Option<usize> {
        let mut watch = Watch::begin(tick(0));
        pairs.enumerate().find_map(|(at, pair)| {
            watch.failed(pair, reach, &RULES, tick(0).plus(Duration::from_millis(at as u64))).map(|_| at + 1)
        })
    }

    #[test]
    fn one_pair_a_few_people_and_one_account_are_none() {
        assert_eq!(found_after((0..10_000).map(|_| pair(0, 0)), Reach::Address), None, "one who repeats");
        assert_eq!(found_after((0..10_000).map(|n| pair(n % 12, n % 24)), Reach::Address), None, "an office");
        assert_eq!(found_after((0..10_000).map(|n| pair(0, n)), Reach::Address), None, "a guesser at one account");
    }

    #[test]
    fn lists_are_found_about_where_the_rules_say() {
        let near = |found: Option<usize>, of: usize| found.is_some_and(|found| found.abs_diff(of) <= of / 10 + 1);
        let list = found_after((0..300).map(|n| pair(n, n)), Reach::Address);
        assert!(near(list, 100), "{list:?}");
        let spray = found_after((0..300).map(|n| pair(n, 0)), Reach::Address);
        assert!(near(spray, 100), "one password for everybody: {spray:?}");
        let three_each = found_after((0..300).map(|n| pair(n / 3, n)), Reach::Address);
        assert!(near(three_each, 100), "{three_each:?}");
        let network = found_after((0..900).map(|n| pair(n, n)), Reach::Network);
        assert!(near(network, 500), "{network:?}");
    }

    #[test]
    fn what_is_found_is_told_once_refused_for_its_time_and_then_starts_anew() {
        let mut watch = Watch::begin(tick(0));
        let at = (0..300).find(|n| watch.failed(pair(*n, *n), Reach::Address, &RULES, tick(1)).is_some()).unwrap();
        assert_eq!(watch.refuses(tick(1)), Some(RULES.refuse_for));
        assert!((at..300).all(|n| watch.failed(pair(n, n), Reach::Address, &RULES, tick(2)).is_none()));
        assert_eq!(watch.refuses(tick(600)), Some(Duration::from_secs(1)));
        assert_eq!(watch.refuses(tick(601)), None);
        assert_eq!(watch.failed(pair(900, 900), Reach::Address, &RULES, tick(601)), None, "all that was seen is gone");
    }

    #[test]
    fn a_window_that_is_over_takes_what_it_saw_with_it() {
        let mut watch = Watch::begin(tick(0));
        for hour in 0..10 {
            let seen = |n: usize| pair(hour * 100 + n, n);
            let now = tick(hour as u64 * 900);
            assert!((0..60).all(|n| watch.failed(seen(n), Reach::Address, &RULES, now).is_none()));
        }
    }

    #[test]
    fn neighbours_share_a_network_and_not_an_address() {
        let of = |reach: Reach, address: &str| reach.of(address.parse().unwrap()).to_string();
        assert_eq!(of(Reach::Address, "203.0.113.9"), "203.0.113.9/32");
        assert_eq!(of(Reach::Network, "203.0.113.9"), "203.0.113.0/24");
        assert_eq!(of(Reach::Address, "2001:db8:1:2:3::4"), "2001:db8:1:2::/64");
        assert_eq!(of(Reach::Network, "2001:db8:1:2:3::4"), "2001:db8:1::/48");
        assert_eq!(of(Reach::Address, "::ffff:203.0.113.9"), "203.0.113.9/32");
    }

    #[test]
    fn nothing_of_a_pair_is_told_without_the_key_and_no_two_are_mixed_up() {
        let of =
            |seed, account: &str, password: &str| FailedPair::of(&key(seed), account.as_bytes(), password.as_bytes());
        assert_eq!(of(1, "ann", "secret"), of(1, "ann", "secret"));
        assert_ne!(of(1, "ann", "secret"), of(2, "ann", "secret"));
        assert_ne!(of(1, "ann", "secret").pair, of(1, "anns", "ecret").pair);
        assert_eq!(of(1, "ann", "a").account, of(1, "ann", "b").account);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn an_estimate_is_within_its_bound(different in 20_u32..2_000, repeats in 1_u32..4, seed: u8) {
            let (key, mut sketch) = (key(seed), Sketch::EMPTY);
            for n in 0..different * repeats {
                sketch.see(digest(&key, &[&(n % different).to_be_bytes()]));
            }
            let (estimate, bound) = (sketch.estimate(), different / 8 + 6);
            prop_assert!(estimate.abs_diff(different) <= bound, "{estimate} for {different}");
        }

        #[test]
        fn more_never_looks_like_less(hashes in prop::collection::vec(any::<u64>(), 0..4_000)) {
            let (mut sketch, mut before) = (Sketch::EMPTY, 0);
            for hash in hashes {
                sketch.see(hash);
                prop_assert!(sketch.estimate() >= before);
                before = sketch.estimate();
            }
            prop_assert!(before <= 7_098);
        }
    }
}
