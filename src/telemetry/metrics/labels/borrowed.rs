//! Labels whose values are closed lists of `policy`'s, and those whose values are names in the configuration.

use super::super::cells::{Label, Name};
use crate::policy::{
    key_life::KeyState, lockout::Counter, overload::Class, reason::Reason, stuffing::Reach, webhook::SecurityEvent,
};

/// A list that knows its words, in the order in which they are declared.
macro_rules! lists {
    ($($type:ident: $name:literal, $all:expr;)*) => {$(
        impl Label for $type {
            const NAME: &'static str = $name;
            const ALL: &'static [Self] = $all;

            fn index(self) -> usize {
                self as usize
            }

            fn value(self) -> &'static str {
                self.as_str()
            }
        }
    )*};
}

lists! {
    Reason: "reason", Self::ALL;
    KeyState: "state", Self::ALL;
    Class: "class", Self::ALL;
    Counter: "counter", &Self::ALL;
    Reach: "reach", &Self::ALL;
    SecurityEvent: "event", Self::ALL;
}

macro_rules! names {
    ($($(#[$doc:meta])* $type:ident: $name:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $type;

        impl Name for $type {
            const NAME: &'static str = $name;
        }
    )*};
}

names! {
    /// A route's name.
    RouteName: "route";
    /// Another issuer's name.
    IssuerName: "issuer";
    /// A cluster's name.
    ClusterName: "cluster";
    /// An endpoint's `host:port`.
    EndpointName: "endpoint";
    /// A file's digest.
    FileSha256: "sha256";
    /// A webhook's name.
    WebhookName: "webhook";
    /// A quota's name.
    QuotaName: "quota";
    /// A limit's name.
    LimitName: "limit";
}
