//! What a request counts under: its address, who calls, its route, what a trusted proxy says of it, and pairs of these.
//!
//! No key is allocated for. What a caller counts under was hashed when the token was verified, the route's when the
//! configuration was read; a header or a pair is hashed here, for limits that count by one.

use http::{HeaderMap, HeaderName, Request};

use crate::{
    config::settings::{KeyPart, LimitKey},
    gate::{
        body::GateBody,
        caller::CallerKeys,
        exchange::{Exchange, Principal},
        refusal::Refusal,
    },
    policy::{forwarded::is_trusted, reason::Reason},
    store::memory::limits::CounterKey,
};

/// What is known of a request that limits may count by.
pub(in crate::gate) struct Known<'r> {
    address: CounterKey,
    route: CounterKey,
    /// `None`: not authenticated, or not yet.
    caller: Option<CallerKeys>,
    headers: &'r HeaderMap,
    /// Whether the peer is a proxy whose headers are believed.
    believed: bool,
}

impl<'r> Known<'r> {
    /// Before authentication, or of a request that failed it.
    pub(in crate::gate) fn of_stranger(exchange: &Exchange, headers: &'r HeaderMap) -> Result<Self, Refusal> {
        let trusted = &exchange.snapshot().trusted_proxies;
        Ok(Self {
            address: CounterKey::address(exchange.client()?),
            route: *exchange.route()?.limits.route(),
            caller: None,
            headers,
            believed: !trusted.is_empty() && is_trusted(exchange.arrival().peer.to_canonical(), trusted),
        })
    }

    /// After authentication.
    pub(in crate::gate) fn of(exchange: &Exchange, request: &'r Request<GateBody>) -> Result<Self, Refusal> {
        let caller = match exchange.principal()? {
            Principal::Authenticated(caller) => Some(*caller.limit_keys()),
            Principal::Anonymous => None,
        };
        Ok(Self { caller, ..Self::of_stranger(exchange, request.headers())? })
    }

    /// `None`: the request lacks what is counted by, and is not held to the limit.
    pub(in crate::gate) fn key(&self, by: &LimitKey) -> Option<CounterKey> {
        let narrow = self.part(by.narrow())?;
        match by.wide() {
            None => Some(narrow),
            Some(wide) => Some(CounterKey::pair(&narrow, &self.part(wide)?)),
        }
    }

    /// Whether the address pays under this key for a request that nobody else answers for. One bucket for many must
    /// not be used up by strangers.
    pub(in crate::gate) fn is_addresss(&self, by: &LimitKey) -> bool {
        let is = |part: &KeyPart| match part {
            KeyPart::Address => true,
            KeyPart::Header(name) => self.said(name).is_none(),
            _ => false,
        };
        is(by.narrow()) || by.wide().is_some_and(is)
    }

    fn part(&self, part: &KeyPart) -> Option<CounterKey> {
        match part {
            KeyPart::Address => Some(self.address),
            KeyPart::Route => Some(self.route),
            KeyPart::Subject => Some(self.caller?.subject),
            KeyPart::Session => self.caller?.session,
            KeyPart::ApiKey => self.caller?.api_key,
            KeyPart::Client => self.caller?.client,
            KeyPart::Org => self.caller?.org,
            // Whoever gets past the proxy, or is not spoken for by it, must not get past the limit.
            KeyPart::Header(name) => Some(self.said(name).map_or(self.address, CounterKey::header)),
        }
    }

    /// What a proxy that is believed says, once. Twice: one of them may be the client's.
    fn said(&self, name: &HeaderName) -> Option<&'r [u8]> {
        if !self.believed {
            return None;
        }
        let mut values = self.headers.get_all(name).iter();
        let first = values.next()?;
        values.next().is_none().then_some(first.as_bytes())
    }
}

/// How a refusal by a limit of this key is told.
pub(in crate::gate) fn reason(by: &LimitKey) -> Reason {
    match by.narrow() {
        KeyPart::Session | KeyPart::ApiKey | KeyPart::Subject | KeyPart::Client | KeyPart::Org => {
            Reason::SubjectLimited
        }
        KeyPart::Address => Reason::AddressLimited,
        KeyPart::Header(_) | KeyPart::Route => Reason::RouteLimited,
    }
}
