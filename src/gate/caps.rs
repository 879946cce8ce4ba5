//! Caps on what is under way at once: a place is taken, and held until the answer has ended.
//!
//! A request takes its places when it is admitted. Whether it is a stream is told by its answer's head
//! ([`crate::policy::streams`]; a tunnel is one), so that is when it takes the places of a stream: before the head is
//! passed on. If there is none, the client is refused and the service's answer dropped, whose connection is closed: the
//! service learns that nobody listens. What can become nothing but a stream (a WebSocket's handshake, an `Accept` of
//! nothing else) takes its places before it is sent on, so that a service is not asked in vain, and gives them back with
//! the head of an answer that is none.

use std::sync::Arc;

use http::{Request, Response};
use http_body::Body;

use crate::{
    config::settings::UnderWay,
    gate::{
        body::GateBody,
        limit_keys::Known,
        refusal::{Detail, Refusal},
        route_limits::{Met, RouteCap},
        snapshot::RouteEntry,
    },
    policy::{reason::Reason, streams, websocket},
    store::memory::{
        in_flight::{Full, Slot},
        limits::CounterKey,
    },
    telemetry::{metrics::LimitResult, record::Record},
};

/// What a request holds until its answer has ended. Cloneable only because extensions must be.
#[derive(Debug, Clone)]
pub(in crate::gate) struct Holds {
    _slots: Arc<[Slot]>,
}

impl Holds {
    /// These, until dropped; `None`: nothing.
    pub(super) fn of(slots: Vec<Slot>) -> Option<Self> {
        (!slots.is_empty()).then(|| Self { _slots: slots.into() })
    }
}

/// The caps of a route that count `of`, with their places.
fn caps(route: &RouteEntry, of: UnderWay) -> impl Iterator<Item = (usize, &RouteCap)> {
    route.limits.caps().iter().enumerate().filter(move |(_, cap)| cap.of == of)
}

/// Takes a request's places.
pub(super) fn enter(
    route: &RouteEntry,
    known: &Known<'_>,
    (record, met): (&Record, &mut Vec<Met>),
) -> Result<Vec<Slot>, Refusal> {
    let mut slots = Vec::with_capacity(route.limits.caps().len());
    for (at, cap) in caps(route, UnderWay::Requests) {
        let Some(key) = known.key(&cap.key) else { continue };
        let (slot, under_way) = take((at, cap), &key, met)?;
        count((at, cap), under_way, (record, met));
        slots.push(slot);
    }
    Ok(slots)
}

/// Takes one place; and how many are taken with it.
fn take((at, cap): (usize, &RouteCap), key: &CounterKey, met: &mut Vec<Met>) -> Result<(Slot, u32), Refusal> {
    let most = if cap.shadow { u32::MAX } else { cap.most };
    cap.in_flight.enter(key, most).map_err(|Full| {
        cap.metrics.decisions.of(LimitResult::Refused).inc();
        met.push(Met::Cap { at, remaining: 0 });
        let reason = match cap.of {
            UnderWay::Requests => Reason::ConcurrencyLimited,
            UnderWay::Streams => Reason::StreamsLimited,
        };
        Refusal::with(reason, Detail::Full(Arc::clone(&cap.name)))
    })
}

/// Counts and tells that one was let in.
fn count((at, cap): (usize, &RouteCap), under_way: u32, (record, met): (&Record, &mut Vec<Met>)) {
    let result = if under_way <= cap.most {
        LimitResult::Admitted
    } else {
        record.set_shadow_refused(&cap.name);
        LimitResult::ShadowRefused
    };
    cap.metrics.decisions.of(result).inc();
    met.push(Met::Cap { at, remaining: cap.most.saturating_sub(under_way) });
}

/// The caps on streams that a request is held to if it turns out to be one.
pub(super) struct Streams {
    caps: Vec<(usize, CounterKey)>,
    /// Taken before the request is sent on: one for each cap, or none at all.
    taken: Vec<(Slot, u32)>,
}

impl Streams {
    /// `None`: it is held to none. Takes the places of a request that can become nothing else.
    pub(super) fn begin(
        route: &RouteEntry,
        known: &Known<'_>,
        request: &Request<GateBody>,
        met: &mut Vec<Met>,
    ) -> Result<Option<Self>, Refusal> {
        let caps = caps(route, UnderWay::Streams);
        let caps: Vec<_> = caps.filter_map(|(at, cap)| Some((at, known.key(&cap.key)?))).collect();
        if caps.is_empty() {
            return Ok(None);
        }
        let mut streams = Self { caps, taken: Vec::new() };
        if can_only_be_a_stream(request, route) {
            streams.taken = streams.take(route, met)?;
        }
        Ok(Some(streams))
    }

    fn take(&self, route: &RouteEntry, met: &mut Vec<Met>) -> Result<Vec<(Slot, u32)>, Refusal> {
        self.of(route).map(|(at, cap, key)| take((at, cap), key, met)).collect()
    }

    fn of<'a>(&'a self, route: &'a RouteEntry) -> impl Iterator<Item = (usize, &'a RouteCap, &'a CounterKey)> {
        self.caps.iter().filter_map(|(at, key)| Some((*at, route.limits.caps().get(*at)?, key)))
    }

    /// The answer has a head: what it holds if it is a stream. What was taken for one that is none is given back.
    pub(super) fn settle(
        mut self,
        answer: &Response<GateBody>,
        route: &RouteEntry,
        (record, met): (&Record, &mut Vec<Met>),
    ) -> Result<Vec<Slot>, Refusal> {
        if !is_stream(answer) {
            return Ok(Vec::new());
        }
        let mut taken = std::mem::take(&mut self.taken);
        if taken.is_empty() {
            taken = self.take(route, met)?;
        }
        for ((at, cap, _), (_, under_way)) in self.of(route).zip(&taken) {
            count((at, cap), *under_way, (record, met));
        }
        Ok(taken.into_iter().map(|(slot, _)| slot).collect())
    }
}

fn is_stream(answer: &Response<GateBody>) -> bool {
    match answer.body() {
        GateBody::Tunnel(_) => true,
        body => !body.is_end_stream() && streams::is_stream(answer.headers()),
    }
}

/// Whether a request that is answered as it asks to be is answered with a stream.
fn can_only_be_a_stream(request: &Request<GateBody>, route: &RouteEntry) -> bool {
    let headers = request.headers();
    streams::asks_for_nothing_else(headers) || (route.websocket && websocket::is_asked(request.version(), headers))
}
