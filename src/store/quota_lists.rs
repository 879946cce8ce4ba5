//! How accounts of quotas stand, page by page, and set to nothing: for operators. What is counted is
//! [`super::quotas`]'s.
//!
//! The store knows an account by a hash of whose it is: [`QuotaParts`] makes that of a user, an address and so on;
//! nobody makes these of that.

use std::{fmt::Write, net::IpAddr};

use async_trait::async_trait;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::{
    AuditEntry, StoreFault,
    memory::limits::CounterKey,
    quotas::{QuotaUsage, Quotas, hashed},
};
use crate::{
    clock::Timestamp,
    config::settings::{KeyPart, LimitKey, is_name},
    policy::ids::{ApiKeyId, UserId},
};

/// Which accounts are asked for; `None`: whatever it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuotaQuery {
    /// Of this quota.
    pub quota: Option<String>,
    /// Of this key.
    pub key: Option<[u8; 16]>,
    /// Behind this place.
    pub after: Option<QuotaPlace>,
}

/// A place in the list: that of an account, whether it is still there or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaPlace {
    /// Units used.
    pub used: u64,
    /// The quota's name.
    pub quota: String,
    /// What it counts and for how long.
    pub kind: String,
    /// See [`hashed`].
    pub key: Vec<u8>,
    /// The period's first moment, microseconds.
    pub start: i64,
}

impl QuotaPlace {
    /// Of this account.
    #[must_use]
    pub fn of(usage: &QuotaUsage) -> Self {
        Self {
            used: usage.used,
            quota: usage.quota.clone(),
            kind: usage.kind.clone(),
            key: usage.key.clone(),
            start: usage.window.start.micros(),
        }
    }

    /// As text for whoever comes back with it.
    #[must_use]
    pub fn to_cursor(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// The place that such a text names.
    #[must_use]
    pub fn from_cursor(text: &str) -> Option<Self> {
        let place: Self = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let (unit, period) = place.kind.split_once('/')?;
        let named = [&*place.quota, unit, period].into_iter().all(is_name);
        // Anybody may make one up: what no account can have is not asked for.
        (named && place.key.len() == 16 && Timestamp::kept(place.start).is_some()).then_some(place)
    }
}

/// A page of the list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuotaPage {
    /// The most used first.
    pub accounts: Vec<QuotaUsage>,
    /// Where the next page begins; `None`: this was the last.
    pub next: Option<QuotaPlace>,
}

/// Accounts that are set to nothing, in the periods that are not over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaReset {
    /// The quota's name.
    pub quota: String,
    /// Of one key; `None`: of all.
    pub key: Option<[u8; 16]>,
}

/// Accounts of quotas, for operators.
#[async_trait]
pub trait QuotaLists: Quotas {
    /// Accounts of periods that are not over at `now`, at most `most` at once.
    async fn quota_page(&self, query: &QuotaQuery, now: Timestamp, most: u32) -> Result<QuotaPage, StoreFault>;

    /// Sets accounts to nothing, writes the audit row and tells every gateway, in one transaction; all accounts of a quota a
    /// thousand at a time, each part with a row and news of its own: after a fault some may be reset, and the rest are by the
    /// next try. What gateways hold ahead of them is worth nothing from then on. Gives how many of which anything was used;
    /// when there were none, nothing is written.
    async fn reset_quota(&self, what: &QuotaReset, audit: &AuditEntry) -> Result<u64, StoreFault>;
}

/// Whose an account is, as far as it is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuotaParts {
    /// A user of ours.
    pub user: Option<UserId>,
    /// An API key.
    pub api_key: Option<ApiKeyId>,
    /// An organisation of ours.
    pub org: Option<String>,
    /// A client address.
    pub address: Option<IpAddr>,
    /// A route's name.
    pub route: Option<String>,
}

impl QuotaParts {
    /// The account of a quota that counts by this; `None`: something else is said than it counts by. `issuer`: ours.
    #[must_use]
    pub fn key(&self, by: &LimitKey, issuer: &str) -> Option<[u8; 16]> {
        let narrow = self.part(by.narrow(), issuer)?;
        let (key, needed) = match by.wide() {
            None => (narrow, 1),
            Some(wide) => (CounterKey::pair(&narrow, &self.part(wide, issuer)?), 2),
        };
        (self.said() == needed).then(|| hashed(&key))
    }

    /// How many parts are said.
    #[must_use]
    pub fn said(&self) -> usize {
        let Self { user, api_key, org, address, route } = self;
        [user.is_some(), api_key.is_some(), org.is_some(), address.is_some(), route.is_some()]
            .into_iter()
            .filter(|said| *said)
            .count()
    }

    fn part(&self, part: &KeyPart, issuer: &str) -> Option<CounterKey> {
        match part {
            KeyPart::Subject => self.user.map(|user| CounterKey::subject(issuer, &user.to_string())),
            KeyPart::ApiKey => self.api_key.map(CounterKey::api_key),
            KeyPart::Org => self.org.as_deref().map(|org| CounterKey::org(issuer, org)),
            KeyPart::Address => self.address.map(CounterKey::address),
            KeyPart::Route => self.route.as_deref().map(CounterKey::route),
            // Sessions end, and other issuers' clients and what headers say are named by their hash alone.
            KeyPart::Session | KeyPart::Client | KeyPart::Header(_) => None,
        }
    }
}

/// A key as text.
#[must_use]
pub fn key_text(key: &[u8]) -> String {
    key.iter().fold(String::with_capacity(2 * key.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The key that such a text names.
#[must_use]
pub fn key_of_text(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_by_its_text() {
        let key = hashed(&CounterKey::Subject(7));
        assert_eq!(key_of_text(&key_text(&key)), Some(key));
        for text in ["", "00", "+0000000000000000000000000000000", "000000000000000000000000000000g0"] {
            assert_eq!(key_of_text(text), None, "{text}");
        }
    }

    #[test]
    fn an_account_is_found_by_what_its_quota_counts_by_and_nothing_else() {
        let (user, address) = (UserId(uuid::Uuid::from_u128(1)), IpAddr::from([192, 0, 2, 1]));
        let subject = CounterKey::subject("https://gw.test", &user.to_string());
        let of_user = QuotaParts { user: Some(user), ..QuotaParts::default() };
        let by_user = LimitKey::one(KeyPart::Subject);
        assert_eq!(of_user.key(&by_user, "https://gw.test"), Some(hashed(&subject)));
        assert_ne!(of_user.key(&by_user, "https://other.test"), Some(hashed(&subject)));
        assert_eq!(of_user.key(&LimitKey::one(KeyPart::Address), "https://gw.test"), None);
        let both = LimitKey::pair(KeyPart::Address, KeyPart::Subject);
        assert_eq!(of_user.key(&both, "https://gw.test"), None);
        let of_both = QuotaParts { address: Some(address), ..of_user };
        let pair = CounterKey::pair(&subject, &CounterKey::address(address));
        assert_eq!(of_both.key(&both, "https://gw.test"), Some(hashed(&pair)));
        assert_eq!(of_both.key(&by_user, "https://gw.test"), None, "that is somebody else's");
        assert_eq!(QuotaParts::default().key(&by_user, "https://gw.test"), None);
    }

    #[test]
    fn a_place_reads_back_and_nothing_else_does() {
        let place = QuotaPlace { used: 7, quota: "a.b".into(), kind: "cost/day".into(), key: vec![1; 16], start: -5 };
        assert_eq!(QuotaPlace::from_cursor(&place.to_cursor()), Some(place.clone()));
        for text in ["", "x", "e30"] {
            assert_eq!(QuotaPlace::from_cursor(text), None, "{text}");
        }
        for made_up in [
            QuotaPlace { quota: "a\0".into(), ..place.clone() },
            QuotaPlace { kind: "cost\0/day".into(), ..place.clone() },
            QuotaPlace { kind: "cost".into(), ..place.clone() },
            QuotaPlace { key: vec![1; 15], ..place.clone() },
            QuotaPlace { start: i64::MAX, ..place.clone() },
            QuotaPlace { start: i64::MIN, ..place },
        ] {
            assert_eq!(QuotaPlace::from_cursor(&made_up.to_cursor()), None, "{made_up:?}");
        }
    }
}
