//! Where the request comes from: the client's address, through trusted proxies only.
//!
//! First among the stages, since limits and logs need it even for requests that everything after refuses.

use http::{Request, header::HeaderName};

use crate::{
    gate::{body::GateBody, exchange::Exchange, refusal::Refusal, stage::Stage},
    policy::{forwarded, reason::Reason},
};

/// `X-Forwarded-For`: what every proxy before us speaks.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Establishes the client's address.
#[derive(Debug, Clone, Copy)]
pub struct ClientAddress;

impl Stage for ClientAddress {
    fn apply(&self, request: &mut Request<GateBody>) -> Result<(), Refusal> {
        let exchange = Exchange::of(request)?;
        let values = request.headers().get_all(X_FORWARDED_FOR);
        let trusted = &exchange.snapshot().trusted_proxies;
        let client = forwarded::client_address(exchange.arrival().peer, values.iter(), trusted)
            .map_err(|fault| Refusal::because(Reason::HeaderInvalid, fault.to_string()))?;
        // Only a trusted proxy changes the address, and only such a one may say that it spoke https.
        let behind_proxy = client != exchange.arrival().peer.to_canonical();
        let https =
            behind_proxy.then(|| request.headers().get(X_FORWARDED_PROTO)).flatten().map(|proto| proto == "https");
        let exchange = Exchange::of_mut(request)?;
        exchange.set_client(client);
        if let Some(https) = https {
            exchange.set_https(https);
        }
        Ok(())
    }
}
