//! What is locked, page by page, and lifted one by one: for operators. What is counted is [`super::lockouts`]'s.

use std::net::IpAddr;

use async_trait::async_trait;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use uuid::Uuid;

use super::{
    AuditEntry, StoreFault,
    lockouts::{Attempted, Lift, Locked, Lockout, Lockouts},
};
use crate::{
    clock::Timestamp,
    policy::{
        forwarded::limit_prefix,
        ids::UserId,
        lockout::{Counter, LockoutRules},
    },
};

/// The order in which counters are listed: what concerns most people first, what there is most of last.
pub const ORDER: [Counter; 4] = [Counter::Account, Counter::Address, Counter::Device, Counter::Pair];

/// Which lockouts are asked for; `None`: whatever it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LockoutQuery {
    /// Of this counter.
    pub counter: Option<Counter>,
    /// Of this account.
    pub account: Option<Attempted>,
    /// Of this address, as failures are counted by it.
    pub address: Option<IpAddr>,
    /// Behind this place.
    pub after: Option<Place>,
}

impl LockoutQuery {
    /// Whether lockouts of this counter can be among those asked for.
    #[must_use]
    pub fn asks(&self, counter: Counter) -> bool {
        let of_account = match counter {
            Counter::Account | Counter::Pair => true,
            // A device cookie is a user's, never a mere name's.
            Counter::Device => self.account.is_some_and(|account| account.user().is_some()),
            Counter::Address => false,
        };
        let of_address = matches!(counter, Counter::Address | Counter::Pair);
        self.counter.is_none_or(|asked| asked == counter)
            && (of_account || self.account.is_none())
            && (of_address || self.address.is_none())
    }
}

/// A place in the list: that of a lockout, whether it is one still or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// What is locked.
    pub what: Locked,
    /// The last failure.
    pub last: Timestamp,
}

impl Place {
    /// As text for whoever comes back with it.
    #[must_use]
    pub fn to_cursor(&self) -> String {
        format!("{}.{}", self.last.micros(), self.what.to_id())
    }

    /// The place that such a text names.
    #[must_use]
    pub fn from_cursor(text: &str) -> Option<Self> {
        let (last, id) = text.split_once('.')?;
        Some(Self { what: Locked::from_id(id)?, last: Timestamp::kept(last.parse().ok()?)? })
    }
}

/// A page of the list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LockoutPage {
    /// By counter in the [`ORDER`] of counters, of each the latest failure first.
    pub lockouts: Vec<Lockout>,
    /// Where the next page begins; `None`: this was the last. A page may be short, or empty, and not be the last.
    pub next: Option<Place>,
}

/// Lockouts, for operators.
#[async_trait]
pub trait LockoutLists: Lockouts {
    /// What is locked at `now`, at most `most` at once.
    async fn lockout_page(
        &self,
        query: &LockoutQuery,
        rules: &LockoutRules,
        now: Timestamp,
        most: u32,
    ) -> Result<LockoutPage, StoreFault>;

    /// Forgets failures with one account from one address alone, and writes the audit row `lockout_lifted`, in one
    /// transaction. Gives whether there were any; no row when there were none.
    async fn lift_pair(&self, account: &Attempted, address: IpAddr, audit: &AuditEntry) -> Result<bool, StoreFault>;

    /// Forgets what one lockout rests on; see [`Lockouts::lift_lockout`] and [`Self::lift_pair`].
    async fn lift_locked(&self, what: &Locked, audit: &AuditEntry) -> Result<bool, StoreFault> {
        match what {
            Locked::Pair(account, address) => self.lift_pair(account, *address, audit).await,
            Locked::Account(account) => self.lift_lockout(&Lift::Account(*account), audit).await,
            Locked::Address(address) => self.lift_lockout(&Lift::Address(*address), audit).await,
            Locked::Device(_, nonce) => self.lift_lockout(&Lift::Device(*nonce), audit).await,
        }
    }
}

impl Locked {
    /// The account it concerns.
    #[must_use]
    pub const fn account(&self) -> Option<Attempted> {
        match self {
            Self::Pair(account, _) | Self::Account(account) => Some(*account),
            Self::Device(user, _) => Some(Attempted::User(*user)),
            Self::Address(_) => None,
        }
    }

    /// The address it concerns.
    #[must_use]
    pub const fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Pair(_, address) | Self::Address(address) => Some(*address),
            Self::Account(_) | Self::Device(..) => None,
        }
    }

    /// The address as it is shown: of IPv6 the /64.
    #[must_use]
    pub fn shown_address(&self) -> Option<String> {
        self.address().map(|address| if address.is_ipv6() { format!("{address}/64") } else { address.to_string() })
    }

    /// What its number is of.
    #[must_use]
    pub const fn counted(&self) -> &'static str {
        match self {
            Self::Address(_) => "accounts",
            Self::Account(_) | Self::Device(..) | Self::Pair(..) => "failures",
        }
    }

    /// As text that names it in a path: base64url of a letter for the counter and what it counts by.
    #[must_use]
    pub fn to_id(&self) -> String {
        let octets = |address: &IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let bytes = match self {
            Self::Account(account) => [b"a", account.as_bytes()].concat(),
            Self::Address(address) => [b"i".as_slice(), &octets(address)].concat(),
            Self::Device(user, nonce) => [b"d", user.0.as_bytes().as_slice(), nonce.as_bytes()].concat(),
            Self::Pair(account @ Attempted::User(_), address) => [b"p", account.as_bytes(), &octets(address)].concat(),
            Self::Pair(account, address) => [b"q", account.as_bytes(), &octets(address)].concat(),
        };
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What such a text names.
    #[must_use]
    pub fn from_id(text: &str) -> Option<Self> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        let (letter, rest) = bytes.split_first()?;
        match letter {
            b'a' => Some(Self::Account(Attempted::from_bytes(rest)?)),
            b'i' => Some(Self::Address(address(rest)?)),
            b'd' => {
                let (user, nonce) = rest.split_at_checked(16)?;
                Some(Self::Device(UserId(Uuid::from_slice(user).ok()?), Uuid::from_slice(nonce).ok()?))
            }
            b'p' | b'q' => {
                let (account, from) = rest.split_at_checked(if *letter == b'p' { 16 } else { 32 })?;
                Some(Self::Pair(Attempted::from_bytes(account)?, address(from)?))
            }
            _ => None,
        }
    }
}

/// One that failures are counted by: there is one text for each lockout.
fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = || Some(IpAddr::from(<[u8; 4]>::try_from(octets).ok()?));
    let address = v4().or_else(|| Some(IpAddr::from(<[u8; 16]>::try_from(octets).ok()?)))?;
    (limit_prefix(address) == address).then_some(address)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_account() -> impl Strategy<Value = Attempted> {
        prop_oneof![
            any::<u128>().prop_map(|id| Attempted::User(UserId(Uuid::from_u128(id)))),
            any::<[u8; 32]>().prop_map(Attempted::Unknown),
        ]
    }

    fn any_locked() -> impl Strategy<Value = Locked> {
        let prefix = any::<IpAddr>().prop_map(limit_prefix).boxed();
        prop_oneof![
            any_account().prop_map(Locked::Account),
            prefix.clone().prop_map(Locked::Address),
            (any_account(), prefix).prop_map(|(account, address)| Locked::Pair(account, address)),
            any::<(u128, u128)>()
                .prop_map(|(user, nonce)| Locked::Device(UserId(Uuid::from_u128(user)), Uuid::from_u128(nonce))),
        ]
    }

    proptest! {
        #[test]
        fn what_has_a_name_is_found_by_it(what in any_locked(), micros in -62_135_596_800_000_000..253_402_300_800_000_000_i64) {
            prop_assert_eq!(Locked::from_id(&what.to_id()), Some(what));
            let place = Place { what, last: Timestamp::from_micros(micros) };
            prop_assert_eq!(Place::from_cursor(&place.to_cursor()), Some(place));
            prop_assert!(what.to_id().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
        }

        #[test]
        fn a_place_at_a_time_that_no_store_keeps_is_none(what in any_locked(), beyond in 253_402_300_800_000_000..i64::MAX) {
            for micros in [beyond, -beyond] {
                let place = Place { what, last: Timestamp::from_micros(micros) };
                prop_assert_eq!(Place::from_cursor(&place.to_cursor()), None);
            }
        }

        #[test]
        fn a_text_that_names_something_is_its_only_name(text in "[A-Za-z0-9_-]{0,90}") {
            if let Some(what) = Locked::from_id(&text) {
                prop_assert_eq!(what.to_id(), text);
            }
        }
    }
}
