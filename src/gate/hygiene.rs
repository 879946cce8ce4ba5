//! One meaning only: ambiguous heads are refused, the path is made canonical, reserved names are removed.
//!
//! After this layer the request's URI *is* the canonical path: it is matched, authorised and forwarded, or forwarded as
//! the route's `rewrite` makes of it, so no other reading of the path counts. Public routes pass here like all others:
//! a spoofed identity header reaches no upstream anywhere.

use std::{borrow::Cow, sync::Arc};

use http::{Request, Uri, uri::PathAndQuery};

use crate::{
    gate::{body::GateBody, exchange::Exchange, refusal::Refusal, stage::Stage},
    policy::{head, headers, path, reason::Reason},
};

/// Refuses what could mean two things and strips what only we may say.
#[derive(Debug, Clone, Copy)]
pub struct Hygiene;

impl Stage for Hygiene {
    fn apply(&self, request: &mut Request<GateBody>) -> Result<(), Refusal> {
        head::check(request.method(), request.uri(), request.version(), request.headers())
            .map_err(|fault| Refusal::because(fault.reason(), fault.to_string()))?;
        canonicalise(request)?;
        headers::strip_reserved(request.headers_mut());
        let target = request.uri().path_and_query().cloned();
        let snapshot = Arc::clone(Exchange::of(request)?.snapshot());
        headers::strip_own(request.headers_mut(), &snapshot.identity_headers);
        let exchange = Exchange::of_mut(request)?;
        if let Some(target) = target {
            exchange.record().set_target(target);
        }
        exchange.set_hygienic();
        Ok(())
    }
}

fn canonicalise(request: &mut Request<GateBody>) -> Result<(), Refusal> {
    let bad = |text: String| Refusal::because(Reason::PathInvalid, text);
    let Cow::Owned(canonical) = path::canonical(request.uri().path()).map_err(|fault| bad(fault.to_string()))? else {
        return Ok(());
    };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    let query = parts.path_and_query.as_ref().and_then(PathAndQuery::query);
    let text = query.map_or_else(|| canonical.clone(), |query| format!("{canonical}?{query}"));
    parts.path_and_query = Some(text.parse().map_err(|_| bad("the path does not parse".to_owned()))?);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| bad("the target does not parse".to_owned()))?;
    Ok(())
}
