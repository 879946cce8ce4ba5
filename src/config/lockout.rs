//! `lockout:` what failed logins cost, and how often anybody may register.

use std::{num::NonZeroU32, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    checks::{Checks, values},
    item::{At, Item},
    settings::{Lockout, Portal},
    units::{Int, Rate, Span},
    words::CookieName,
};
use crate::policy::lockout::{AccountRules, AddressRules, DeviceRules, LockoutRules, Pace, PairRules, Rung};

const DAY: u64 = 86_400_000;

/// What failed logins cost. Counted in the store: for all gateways, and across restarts.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Lockout")]
pub(super) struct RawLockout {
    /// Count them at all. Without it passwords can be guessed as fast as they are hashed.
    enabled: Item<bool>,
    /// Failures in a row with one account from one address (IPv4: the address, IPv6: its /64).
    account_and_address: Item<RawPair>,
    /// Failures in a row with one account, from wherever.
    account: Item<RawAccount>,
    /// Accounts that logins failed with from one address.
    address: Item<RawAddress>,
    /// The cookie that a browser gets with a good login. Logins with it are counted by it alone, so that nobody else's
    /// failures keep its owner out.
    device: Item<RawDevice>,
    /// How long a login may be under way before it counts as failed: a gateway that dies tells no end.
    attempt_timeout: Item<Span<1_000, 3_600_000>>,
    /// How often accounts may be registered.
    registration: Item<RawRegistration>,
}

/// Failures with one account from one address.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "LockoutPair")]
pub(super) struct RawPair {
    /// Failures that cost no wait.
    free: Item<Int<1, 1_000>>,
    /// The wait after the last of those, after the next failure, and so on; the last one stays.
    waits: Item<Vec<Item<Span<1_000, DAY>>>>,
}

/// Failures with one account.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "LockoutAccount")]
pub(super) struct RawAccount {
    /// Failures after which each costs a wait.
    slow_after: Item<Int<1, 1_000>>,
    /// The first such wait; each failure more adds as much.
    slow_by: Item<Span<0, 60_000>>,
    /// The longest such wait. It holds for the owner on a new device too, so keep it short.
    slow_most: Item<Span<0, 900_000>>,
    /// Failures after which no password is good any more, until somebody lifts it or a login with a device cookie succeeds.
    /// NIST SP 800-63B-4 allows at most 100.
    hard_stop: Item<Int<1, 100>>,
    /// Failures of so long ago are forgotten, unless they led to the hard stop.
    forget_after: Item<Span<DAY, { 3_650 * DAY }>>,
}

/// Accounts that logins failed with.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "LockoutAddress")]
pub(super) struct RawAddress {
    /// Failures of so long ago are forgotten; those with one account from one address, too.
    window: Item<Span<60_000, { 30 * DAY }>>,
    /// What each account more costs the address, from few to many. Empty: nothing.
    ladder: Item<Vec<Item<RawRung>>>,
}

/// A rung of the ladder.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LockoutRung")]
pub(super) struct RawRung {
    /// From so many accounts on
    accounts: Item<Int<1, 100_000>>,
    /// each more costs its address this wait.
    wait: Item<Span<1_000, { 30 * DAY }>>,
}

/// The device cookie.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "LockoutDevice")]
pub(super) struct RawDevice {
    /// Failures with one that void it.
    failures: Item<Int<1, 100>>,
    /// How long one is good for.
    life: Item<Span<3_600_000, { 400 * DAY }>>,
    /// Its name; __Secure- or __Host- makes browsers refuse it over plaintext.
    cookie_name: Item<CookieName>,
}

/// How often accounts may be registered.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "LockoutRegistration")]
pub(super) struct RawRegistration {
    /// From one address.
    per_address: Item<Rate>,
    /// With one e-mail address, whether it is taken or not.
    per_target: Item<Rate>,
}

impl Default for RawLockout {
    fn default() -> Self {
        Self {
            enabled: Item::of(true),
            account_and_address: Item::default(),
            account: Item::default(),
            address: Item::default(),
            device: Item::default(),
            attempt_timeout: Item::of(Span::secs(60)),
            registration: Item::default(),
        }
    }
}

impl Default for RawPair {
    fn default() -> Self {
        let waits = [1, 2, 4, 8, 15].map(|minutes| Item::of(Span::secs(minutes * 60)));
        Self { free: Item::of(Int(5)), waits: Item::of(waits.into()) }
    }
}

impl Default for RawAccount {
    fn default() -> Self {
        Self {
            slow_after: Item::of(Int(20)),
            slow_by: Item::of(Span::secs(1)),
            slow_most: Item::of(Span::secs(30)),
            hard_stop: Item::of(Int(100)),
            forget_after: Item::of(Span::millis(90 * DAY)),
        }
    }
}

impl Default for RawAddress {
    fn default() -> Self {
        let rungs = [(7, 60), (10, 600), (15, 900), (20, 3_600), (25, 86_400)];
        let rung = |(accounts, seconds)| {
            Item::of(RawRung { accounts: Item::of(Int(accounts)), wait: Item::of(Span::secs(seconds)) })
        };
        Self { window: Item::of(Span::millis(DAY)), ladder: Item::of(rungs.map(rung).into()) }
    }
}

impl Default for RawDevice {
    fn default() -> Self {
        Self {
            failures: Item::of(Int(10)),
            life: Item::of(Span::millis(180 * DAY)),
            cookie_name: Item::of(CookieName("__Secure-portcullis-device".to_owned())),
        }
    }
}

impl Default for RawRegistration {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_hours(1);
        let hourly = |more| Item::of(Rate { requests: NonZeroU32::MIN.saturating_add(more), period: HOUR });
        Self { per_address: hourly(99), per_target: hourly(9) }
    }
}

pub(super) fn check(item: Item<RawLockout>, portal: Option<&Portal>, checks: &mut Checks) -> Option<Lockout> {
    let at = item.at.or(&At::root(), "lockout");
    let raw = item.value?;
    let window = raw.address.value.as_ref().and_then(|address| address.window.value);
    let pair = check_pair(raw.account_and_address, &at, window, checks);
    let account = check_account(raw.account, &at, checks);
    let address = check_address(raw.address, checks);
    let device = raw.device.value?;
    let cookie_at = device.cookie_name.at.or(&raw.device.at.or(&at, "device"), "cookie_name");
    if let (Some(name), Some(portal)) = (&device.cookie_name.value, portal)
        && [&portal.cookie_name, &portal.access_cookie_name].iter().any(|other| name.0.eq_ignore_ascii_case(other))
    {
        checks.error(&cookie_at, "the name of another cookie of the portal's; each needs its own");
    }
    let registration = raw.registration.value?;
    let pace = |rate: Rate| Pace { calls: rate.requests, period: rate.period };
    Some(Lockout {
        enabled: raw.enabled.value?,
        rules: LockoutRules {
            pair: pair?,
            account: account?,
            address: address?,
            device: DeviceRules { failures: count(device.failures.value?)? },
            hold: raw.attempt_timeout.value?.0,
        },
        device_cookie: device.cookie_name.value?.0.into(),
        device_life: device.life.value?.0,
        registrations_by_address: pace(registration.per_address.value?),
        registrations_of_target: pace(registration.per_target.value?),
    })
}

fn check_pair<const MIN: u64, const MAX: u64>(
    item: Item<RawPair>,
    parent: &At,
    window: Option<Span<MIN, MAX>>,
    checks: &mut Checks,
) -> Option<PairRules> {
    let at = item.at.or(parent, "account_and_address");
    let raw = item.value?;
    let waits_at = raw.waits.at.or(&at, "waits");
    let waits: Vec<_> = values(raw.waits.value?)?.into_iter().map(|wait| wait.0).collect();
    if window.is_some_and(|window| waits.iter().any(|wait| *wait > window.0)) {
        checks.error(&waits_at, "longer than lockout.address.window, after which failures are forgotten");
    }
    Some(PairRules { free: count(raw.free.value?)?, waits })
}

fn check_account(item: Item<RawAccount>, parent: &At, checks: &mut Checks) -> Option<AccountRules> {
    let at = item.at.or(parent, "account");
    let raw = item.value?;
    if let (Some(slow), Some(stop)) = (raw.slow_after.value, raw.hard_stop.value)
        && slow.0 > stop.0
    {
        checks.error(&raw.slow_after.at.or(&at, "slow_after"), "beyond the hard stop; nothing would be slowed down");
    }
    Some(AccountRules {
        slow_after: count(raw.slow_after.value?)?,
        slow_by: raw.slow_by.value?.0,
        slow_most: raw.slow_most.value?.0,
        hard_stop: count(raw.hard_stop.value?)?,
        forget_after: raw.forget_after.value?.0,
    })
}

fn check_address(item: Item<RawAddress>, checks: &mut Checks) -> Option<AddressRules> {
    let raw = item.value?;
    let mut ladder: Vec<Rung> = Vec::new();
    for rung in raw.ladder.value? {
        let (written, at) = (rung.is_written(), rung.at);
        let rung = rung.value?;
        if written && !rung.accounts.is_written() {
            checks.error(&at.child("accounts"), "missing; from how many accounts on");
        }
        if written && !rung.wait.is_written() {
            checks.error(&at.child("wait"), "missing; what each account more costs");
        }
        let rung = Rung { accounts: count(rung.accounts.value?)?, wait: rung.wait.value?.0 };
        if ladder.last().is_some_and(|last| last.accounts >= rung.accounts || last.wait > rung.wait) {
            checks.error(&at, "a ladder goes up: more accounts than the rung before, and no shorter a wait");
        }
        ladder.push(rung);
    }
    Some(AddressRules { window: raw.window.value?.0, ladder })
}

/// Its range begins at 1.
fn count<const MIN: u64, const MAX: u64>(int: Int<MIN, MAX>) -> Option<NonZeroU32> {
    int.get().and_then(NonZeroU32::new)
}
