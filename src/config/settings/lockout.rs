//! Settings of the counters of failed logins.

use std::{sync::Arc, time::Duration};

use crate::policy::lockout::{LockoutRules, Pace};

/// What stands between an attacker and other people's passwords.
#[derive(Debug, Clone)]
pub struct Lockout {
    /// Whether failures are counted, and calls paced, at all.
    pub enabled: bool,
    /// Every number of the counters.
    pub rules: LockoutRules,
    /// Name of the device cookie.
    pub device_cookie: Arc<str>,
    /// How long a device cookie is good for.
    pub device_life: Duration,
    /// Registrations from one address.
    pub registrations_by_address: Pace,
    /// Registrations of one e-mail address.
    pub registrations_of_target: Pace,
}
