//! Webhooks as the Standard Webhooks specification has them (standardwebhooks.com, 1.0): what is told, how it is
//! signed, when it is tried again.

use std::{fmt, time::Duration};

use aws_lc_rs::hmac;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretSlice};
use serde::{Deserialize, Serialize};

/// What operators may want to be woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SecurityEvent {
    /// An old refresh token came back; the session was ended.
    RefreshReuseDetected,
    /// A refresh token came that was never issued.
    RefreshAhead,
    /// A login from what this user has not had a session with.
    NewDevice,
    /// An authenticated caller lacks the role or scope that a route needs.
    PermissionDenied,
    /// Many people's passwords are tried from one part of the network.
    CredentialStuffingDetected,
    /// So many logins to an account failed in a row that no more are tried.
    AccountLocked,
    /// Logins to so many accounts failed from an address that it has to wait.
    AddressLocked,
    /// So many logins with a device cookie failed that it is worth nothing any more.
    DeviceVoided,
}

impl SecurityEvent {
    /// Every one, in the order of declaration.
    pub const ALL: &'static [Self] = &[
        Self::RefreshReuseDetected,
        Self::RefreshAhead,
        Self::NewDevice,
        Self::PermissionDenied,
        Self::CredentialStuffingDetected,
        Self::AccountLocked,
        Self::AddressLocked,
        Self::DeviceVoided,
    ];

    /// Its word, the audit's too.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RefreshReuseDetected => "refresh_reuse_detected",
            Self::RefreshAhead => "refresh_ahead",
            Self::NewDevice => "new_device",
            Self::PermissionDenied => "permission_denied",
            Self::CredentialStuffingDetected => "credential_stuffing_detected",
            Self::AccountLocked => "account_locked",
            Self::AddressLocked => "address_locked",
            Self::DeviceVoided => "device_voided",
        }
    }
}

impl fmt::Display for SecurityEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What stands before a secret.
const PREFIX: &str = "whsec_";

/// The secret that is written `whsec_` and 24 to 64 bytes in base64.
#[must_use]
pub fn secret(text: &str) -> Option<SecretSlice<u8>> {
    let bytes = BASE64_STANDARD.decode(text.strip_prefix(PREFIX)?).ok()?;
    (24..=64).contains(&bytes.len()).then(|| SecretSlice::from(bytes))
}

/// `webhook-signature` of a message.
#[must_use]
pub fn signature(secret: &SecretSlice<u8>, id: &str, timestamp: i64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret());
    let mac = hmac::sign(&key, format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", BASE64_STANDARD.encode(mac))
}

/// The first wait.
const FIRST: Duration = Duration::from_secs(5);
/// The longest.
const LONGEST: Duration = Duration::from_hours(1);

/// How long to wait after this many attempts: twice as long each time, up to an hour, less up to a half by chance, so
/// that what failed together does not come back together.
#[must_use]
pub fn wait_after(attempts: u64, chance: u32) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let full = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    full.mul_f64(1.0 - f64::from(chance) / f64::from(u32::MAX) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_one_of_the_specification() {
        // The example of the specification's own libraries.
        let secret = secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_is_prefixed_base64_of_24_to_64_bytes() {
        for (bytes, good) in [(23, false), (24, true), (64, true), (65, false)] {
            let text = format!("whsec_{}", BASE64_STANDARD.encode(vec![7; bytes]));
            assert_eq!(secret(&text).is_some(), good, "{bytes}");
            assert!(secret(text.trim_start_matches("whsec_")).is_none());
        }
        assert!(secret("whsec_not base64").is_none());
    }

    #[test]
    fn waits_double_up_to_an_hour_and_chance_takes_at_most_half() {
        assert_eq!(wait_after(1, 0), FIRST);
        assert_eq!(wait_after(2, 0), FIRST * 2);
        assert_eq!(wait_after(3, u32::MAX), FIRST * 2);
        for attempts in [11, 100, u64::MAX] {
            assert_eq!(wait_after(attempts, 0), LONGEST);
            assert_eq!(wait_after(attempts, u32::MAX), LONGEST / 2);
        }
    }
}
