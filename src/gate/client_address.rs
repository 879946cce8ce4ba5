//! Who is on the line: the client's address, through trusted proxies only (design §7).
//!
//! First among the stages, since limits and logs need it even for requests that everything after refuses.

use http::{Request, header::HeaderName};

use crate::{
    gate::{body::GateBody, exchange::Exchange, refusal::Refusal, stage::Stage},
    policy::{forwarded, reason::Reason},
};

/// `X-Forwarded-For`: what every proxy before us speaks.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

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
        Exchange::of_mut(request)?.set_client(client);
        Ok(())
    }
}
