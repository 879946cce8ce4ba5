//! Labels whose values are closed lists of `policy`'s, and those whose values are names in the configuration.

use super::super::cells::{Label, Name};
use crate::policy::{
    key_life::KeyState, lockout::Counter, overload::Class, reason::Reason, stuffing::Reach, webhook::SecurityEvent,
};

impl Label for Reason {
    const NAME: &'static str = "reason";
    const ALL: &'static [Self] = Self::ALL;

    fn index(self) -> usize {
        self as usize
    }

    fn value(self) -> &'static str {
        self.as_str()
    }
}

impl Label for KeyState {
    const NAME: &'static str = "state";
    const ALL: &'static [Self] = Self::ALL;

    fn index(self) -> usize {
        self as usize
    }

    fn value(self) -> &'static str {
        self.as_str()
    }
}

impl Label for Class {
    const NAME: &'static str = "class";
    const ALL: &'static [Self] = Self::ALL;

    fn index(self) -> usize {
        self as usize
    }

    fn value(self) -> &'static str {
        self.as_str()
    }
}

/// A route's name.
#[derive(Debug)]
pub struct RouteName;

impl Name for RouteName {
    const NAME: &'static str = "route";
}

/// Another issuer's name.
#[derive(Debug)]
pub struct IssuerName;

impl Name for IssuerName {
    const NAME: &'static str = "issuer";
}

/// A cluster's name.
#[derive(Debug)]
pub struct ClusterName;

impl Name for ClusterName {
    const NAME: &'static str = "cluster";
}

/// An endpoint's `host:port`.
#[derive(Debug)]
pub struct EndpointName;

impl Name for EndpointName {
    const NAME: &'static str = "endpoint";
}

/// A file's digest.
#[derive(Debug)]
pub struct FileSha256;

impl Name for FileSha256 {
    const NAME: &'static str = "sha256";
}

impl Label for Counter {
    const NAME: &'static str = "counter";
    const ALL: &'static [Self] = &Self::ALL;

    fn index(self) -> usize {
        self as usize
    }

    fn value(self) -> &'static str {
        self.as_str()
    }
}

impl Label for Reach {
    const NAME: &'static str = "reach";
    const ALL: &'static [Self] = &Self::ALL;

    fn index(self) -> usize {
        self as usize
    }

    fn value(self) -> &'static str {
        self.as_str()
    }
}

impl Label for SecurityEvent {
    const NAME: &'static str = "event";
    const ALL: &'static [Self] = Self::ALL;

    fn index(self) -> usize {
        self as usize
    }

    fn value(self) -> &'static str {
        self.as_str()
    }
}

/// A webhook's name.
#[derive(Debug)]
pub struct WebhookName;

impl Name for WebhookName {
    const NAME: &'static str = "webhook";
}

/// A quota's name.
#[derive(Debug)]
pub struct QuotaName;

impl Name for QuotaName {
    const NAME: &'static str = "quota";
}

/// A limit's name.
#[derive(Debug)]
pub struct LimitName;

impl Name for LimitName {
    const NAME: &'static str = "limit";
}
