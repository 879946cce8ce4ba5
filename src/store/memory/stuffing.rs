//! What of the network tries many people's passwords ([`crate::policy::stuffing`]), as far as this gateway has seen it.
//!
//! Bounded: some 350 bytes for each address and network that logins have failed from lately; beyond so many, those that
//! were asked for least make room. Lost with the process, and no other gateway's: what all share is the store's count.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::hmac;
use ipnet::IpNet;
use quick_cache::sync::Cache;

use crate::{
    clock::{Entropy, Tick},
    policy::stuffing::{FailedPair, Found, Reach, StuffingRules, Watch},
};

/// Addresses and networks that are watched at most: 7 MiB.
const MOST: usize = 20_000;

/// See the module.
pub struct StuffingWatch {
    key: hmac::Key,
    watches: Cache<IpNet, Arc<Mutex<Watch>>>,
}

impl fmt::Debug for StuffingWatch {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StuffingWatch").field("watched", &self.watches.len()).finish_non_exhaustive()
    }
}

impl StuffingWatch {
    /// Nothing seen yet; under a key of its own.
    #[must_use]
    pub fn new(entropy: &dyn Entropy) -> Self {
        Self::holding(MOST, entropy)
    }

    fn holding(most: usize, entropy: &dyn Entropy) -> Self {
        let mut key = [0; 32];
        entropy.fill(&mut key);
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &key), watches: Cache::new(most) }
    }

    /// How long logins from this address are refused still.
    #[must_use]
    pub fn refuses(&self, address: IpAddr, now: Tick) -> Option<Duration> {
        if self.watches.is_empty() {
            return None;
        }
        let refused = |reach: Reach| self.watches.get(&reach.of(address)).and_then(|watch| locked(&watch).refuses(now));
        Reach::ALL.into_iter().filter_map(refused).max()
    }

    /// A login failed. Gives what this made plain, each once.
    pub fn failed(
        &self,
        address: IpAddr,
        (account, password): (&[u8], &[u8]),
        rules: &StuffingRules,
        now: Tick,
    ) -> Vec<(Reach, IpNet, Found)> {
        let pair = FailedPair::of(&self.key, account, password);
        let found = |reach: Reach| {
            let net = reach.of(address);
            let begin = || Ok::<_, std::convert::Infallible>(Arc::new(Mutex::new(Watch::begin(now))));
            let Ok(watch) = self.watches.get_or_insert_with(&net, begin);
            let found = locked(&watch).failed(pair, reach, rules, now)?;
            Some((reach, net, found))
        };
        Reach::ALL.into_iter().filter_map(found).collect()
    }
}

/// A watch that somebody panicked with is as good as before: it is only ever added to.
fn locked(watch: &Mutex<Watch>) -> std::sync::MutexGuard<'_, Watch> {
    watch.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::clock::SystemEntropy;

    const RULES: StuffingRules = StuffingRules {
        pairs: NonZeroU32::new(100).unwrap(),
        network_pairs: NonZeroU32::new(200).unwrap(),
        window: Duration::from_mins(15),
        refuse_for: Duration::from_mins(10),
    };
    const NOW: Tick = Tick::from_nanos(1);

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn tries(watch: &StuffingWatch, from: &str, accounts: std::ops::Range<u32>) -> Vec<(Reach, String)> {
        let failed = |account: u32| watch.failed(address(from), (&account.to_be_bytes(), b"secret"), &RULES, NOW);
        accounts.flat_map(failed).map(|(reach, net, _)| (reach, net.to_string())).collect()
    }

    #[test]
    fn an_address_is_found_out_alone_and_its_network_when_several_share_the_work() {
        let watch = StuffingWatch::new(&SystemEntropy);
        assert_eq!(watch.refuses(address("203.0.113.1"), NOW), None);
        assert_eq!(tries(&watch, "203.0.113.1", 0..130), [(Reach::Address, "203.0.113.1/32".to_owned())]);
        assert_eq!(watch.refuses(address("203.0.113.1"), NOW), Some(RULES.refuse_for));
        assert_eq!(watch.refuses(address("203.0.113.2"), NOW), None);
        let mut found = Vec::new();
        for host in 2..6 {
            found.extend(tries(&watch, &format!("203.0.113.{host}"), host * 1_000..host * 1_000 + 40));
        }
        assert_eq!(found, [(Reach::Network, "203.0.113.0/24".to_owned())]);
        assert_eq!(watch.refuses(address("203.0.113.200"), NOW), Some(RULES.refuse_for));
        assert_eq!(watch.refuses(address("203.0.114.1"), NOW), None);
    }

    #[test]
    fn what_it_holds_is_bounded() {
        let watch = StuffingWatch::holding(100, &SystemEntropy);
        for host in 0..5_000_u32 {
            let from = IpAddr::V4((0x0a00_0000 + host * 256).into());
            assert!(watch.failed(from, (b"ann", b"secret"), &RULES, NOW).is_empty());
        }
        assert!(watch.watches.len() <= 100, "{}", watch.watches.len());
    }

    #[test]
    fn it_does_not_print_its_key() {
        let watch = StuffingWatch::new(&SystemEntropy);
        assert_eq!(format!("{watch:?}"), "StuffingWatch { watched: 0, .. }");
    }
}
