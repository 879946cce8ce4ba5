//! How much of a request body is taken, how long its sender may be silent, and that it ends with its sender's right to
//! it.
//!
//! After authorisation: only an authorised request's body is read at all. A declared length above the limit is 413
//! before a byte is read; an undeclared one is counted as it flows and cut at the limit.

use std::sync::Arc;

use http::{Request, header::CONTENT_LENGTH};
use http_body::Body;

use crate::{
    config::settings::RouteTimeouts,
    gate::{
        body::GateBody,
        exchange::{Exchange, Principal},
        guard::{RequestGuard, Upload},
        refusal::Refusal,
        snapshot::Target,
        stage::Stage,
    },
    policy::reason::Reason,
};

/// Applies the route's body limit and idle time-out to the request body.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimit;

impl Stage for BodyLimit {
    fn apply(&self, request: &mut Request<GateBody>) -> Result<(), Refusal> {
        if request.body().is_end_stream() {
            // Not even an empty wrapper: most requests have no body.
            *request.body_mut() = GateBody::Empty;
            return Ok(());
        }
        let exchange = Exchange::of(request)?;
        let route = Arc::clone(exchange.route()?);
        let record = Arc::clone(exchange.record());
        let declared = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if let (Some(limit), Some(declared)) = (route.body_limit, declared)
            && declared > limit
        {
            return Err(Refusal::because(
                Reason::BodyTooLarge,
                format!("the body has {declared} bytes; {limit} are accepted here"),
            ));
        }
        let timeouts = match route.target {
            Target::Portal => route.timeouts,
            // The whole exchange is timed where it is forwarded, and is the service's to answer for.
            Target::Cluster(_) => RouteTimeouts { total: None, ..route.timeouts },
        };
        let upload = Arc::new(Upload::default());
        let body = std::mem::take(request.body_mut());
        let guard = RequestGuard::new(body, route.body_limit, timeouts, Arc::clone(&upload), record);
        let exchange = Exchange::of(request)?;
        let guard = match (exchange.principal()?, &route.target) {
            (Principal::Authenticated(caller), Target::Cluster(_)) => {
                guard.tied(Arc::clone(caller), &exchange.snapshot().open_streams)
            }
            _ => guard,
        };
        *request.body_mut() = GateBody::boxed(guard);
        Exchange::of_mut(request)?.set_upload(upload);
        Ok(())
    }
}
