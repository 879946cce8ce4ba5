//! Forward-auth: another proxy asks whether it may forward a request, and as whom (`/auth/forward/…`).
//!
//! The question's head is made the head of the request that it is about, and that request then goes the way of every
//! other: hygiene, routing, limits, credentials, roles and scopes, identity. Only the end differs: [`allowed`] answers
//! what the service would have been told, and nothing is forwarded. A refusal is the same as ever, but for the status
//! where the proxy knows few ([`refused`]).
//!
//! Only peers of `forward_auth.trusted` are answered, and what is below these paths is never anybody else's: whoever
//! asks for a decision in a wrong way must not be told "yes" by a service that a catch-all leads to. Which header says
//! what is [`crate::policy::forward_auth`]'s. A body that comes along is not read.

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri,
    header::{AUTHORIZATION, CACHE_CONTROL, COOKIE, HOST},
    uri::PathAndQuery,
};

use crate::{
    config::settings,
    gate::{
        api_keys::X_API_KEY,
        body::GateBody,
        exchange::Exchange,
        identity::X_GATEWAY_IDENTITY,
        refusal::Refusal,
        stage::{Outcome, Stage},
    },
    policy::{
        forward_auth::{self, Form, Original},
        forwarded, headers,
        preset::Preset,
        reason::Reason,
    },
    upstream::cluster::Cluster,
};

/// The true status of a refusal, for a proxy that is told another.
const X_GATEWAY_STATUS: HeaderName = HeaderName::from_static("x-gateway-status");

/// Envoy takes these headers off the request that it forwards.
const X_ENVOY_AUTH_HEADERS_TO_REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

/// Puts the request that is asked about in the place of the question.
#[derive(Debug, Clone, Copy)]
pub struct Decision;

impl Stage for Decision {
    fn apply(&self, request: &mut Request<GateBody>) -> Result<(), Refusal> {
        let exchange = Exchange::of(request)?;
        let rules = &exchange.snapshot().forward_auth;
        let Some(rest) = forward_auth::below(request.uri().path(), &rules.bases) else { return Ok(()) };
        if !forwarded::is_trusted(exchange.arrival().peer.to_canonical(), &rules.trusted) {
            return Err(Reason::ForwardAuthPeer.into());
        }
        let Some((form, behind)) = Form::of(rest) else {
            return Err(Refusal::because(Reason::NoRoute, "no decision is asked for like this"));
        };
        let asked = (request.method(), behind, request.uri().query());
        let original = forward_auth::original(form, asked, request.headers());
        let method = original.as_ref().map_or(request.method(), |original| &original.method);
        exchange.record().set_decision(form, method.clone());
        let original = original.map_err(|fault| Refusal::because(fault.reason(), fault.to_string()))?;
        Exchange::of_mut(request)?.set_decision(form);
        become_original(request, original)
    }
}

fn become_original(request: &mut Request<GateBody>, original: Original) -> Result<(), Refusal> {
    *request.method_mut() = original.method;
    *request.body_mut() = GateBody::Empty;
    *request.uri_mut() = match original.host {
        Some(host) => {
            request.headers_mut().insert(HOST, host);
            Uri::from(original.target)
        }
        None => with_target(std::mem::take(request.uri_mut()), original.target)?,
    };
    Ok(())
}

/// The same URI with another path: the authority, where there is one, is for hygiene to compare with `Host`.
fn with_target(uri: Uri, target: PathAndQuery) -> Result<Uri, Refusal> {
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(target);
    Uri::from_parts(parts).map_err(|_| Refusal::because(Reason::PathInvalid, "the target does not parse"))
}

/// "Yes", with what the service would have been told of the caller: hygiene has taken off whatever came under these names,
/// so what is there now is ours. Beside it the cookies without ours, and `Authorization` where the route passes it on:
/// so a proxy that copies them hands on what we would.
pub(in crate::gate) fn allowed(request: &Request<GateBody>, form: Form, cluster: &Cluster) -> Outcome {
    let own = &Exchange::of(request)?.snapshot().identity_headers;
    let mut answer = Response::new(GateBody::Empty);
    let told = answer.headers_mut();
    for (name, value) in request.headers() {
        if headers::is_reserved(name) || own.contains(name) || *name == AUTHORIZATION {
            told.append(name.clone(), value.clone());
        }
    }
    if let Some(cookies) = cookies(request.headers())? {
        told.insert(COOKIE, cookies);
    }
    if form == Form::Envoy {
        let mut absent = absent(told, &cluster.settings().identity);
        if Exchange::of(request)?.route()?.credentials.api_key {
            absent = format!("{absent},{X_API_KEY}");
        }
        let absent =
            HeaderValue::try_from(absent).map_err(|_| Refusal::internal("header names are no header value"))?;
        told.insert(X_ENVOY_AUTH_HEADERS_TO_REMOVE, absent);
    }
    told.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

/// All cookies in one header: over HTTP/2 they may come in several (RFC 9113 §8.2.3).
fn cookies(headers: &HeaderMap) -> Result<Option<HeaderValue>, Refusal> {
    let mut values = headers.get_all(COOKIE).iter();
    let (first, second) = (values.next(), values.next());
    if second.is_none() {
        return Ok(first.cloned());
    }
    let all: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let mut all =
        HeaderValue::from_bytes(&all.join(&b"; "[..])).map_err(|_| Refusal::internal("cookies do not join"))?;
    all.set_sensitive(true);
    Ok(Some(all))
}

/// The names under which the service of this cluster may be told who calls, and is not: what a client sent under them
/// must go.
fn absent(told: &HeaderMap, rules: &settings::Identity) -> String {
    let of_preset = rules.preset.map_or(&[][..], Preset::headers);
    let all = [X_GATEWAY_IDENTITY, AUTHORIZATION, COOKIE];
    let names = all.iter().chain(rules.headers.all()).chain(of_preset).filter(|name| !told.contains_key(*name));
    names.map(HeaderName::as_str).collect::<Vec<_>>().join(",")
}

/// "No", in words that the proxy knows: with a status that it passes on, and the true one beside it.
pub(in crate::gate) fn refused(mut answer: Response<GateBody>, form: Form) -> Response<GateBody> {
    let status = answer.status();
    if form == Form::Nginx && !matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        answer.headers_mut().insert(X_GATEWAY_STATUS, HeaderValue::from(status.as_u16()));
    }
    if let Some(told) = form.status(status) {
        *answer.status_mut() = told;
    }
    answer
}
