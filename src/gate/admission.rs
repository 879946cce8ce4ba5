//! Sends requests away while there is too much to do: 503, and nothing dear is done for them.
//!
//! A request takes a place here and gives it back when its answer begins ([`crate::gate::finish`]) or it ends without
//! one; what flows after that is no longer work that waits, and no place is taken for it, nor is it ever ended from
//! here. Who may take one of the last places, or comes in while memory is short, is [`crate::policy::overload`]'s to
//! say. A place is an addition to one counter; two requests at the same instant may both see the last one free, so for
//! a moment there may be as many more as there are worker threads.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU8, Ordering::Relaxed},
    },
    time::Duration,
};

use http::Request;

use crate::{
    gate::{
        body::GateBody,
        exchange::Exchange,
        refusal::{Detail, Refusal},
        stage::Stage,
    },
    policy::{
        overload::{Class, Pressure},
        reason::Reason,
    },
    telemetry::metrics::{Metrics, ShedCause},
};

/// When to come again: places become free as fast as answers begin.
const PLACES_AGAIN: Duration = Duration::from_secs(1);

/// The same of memory, which comes back slowly.
const MEMORY_AGAIN: Duration = Duration::from_secs(5);

/// How much there is to do, and how much there may be.
#[derive(Debug)]
pub struct Load {
    /// Places that may be taken, by class.
    places: [AtomicI64; Class::ALL.len()],
    /// See [`Pressure::level`].
    pressure: AtomicU8,
    metrics: Arc<Metrics>,
}

impl Load {
    /// With places for `most` requests. Those taken are counted in the metrics.
    #[must_use]
    pub fn new(most: u64, metrics: Arc<Metrics>) -> Self {
        let load = Self { places: std::array::from_fn(|_| AtomicI64::new(0)), pressure: AtomicU8::new(0), metrics };
        load.allow(most);
        load
    }

    /// From now on there are places for `most` requests.
    pub fn allow(&self, most: u64) {
        for class in Class::ALL {
            let places = i64::try_from(class.places(most)).unwrap_or(i64::MAX);
            self.places[class.index()].store(places, Relaxed);
        }
        self.metrics.requests_unanswered_limit.set(i64::try_from(most).unwrap_or(i64::MAX));
    }

    /// From now on memory is as short as this.
    pub fn press(&self, pressure: Pressure) {
        self.pressure.store(pressure.level(), Relaxed);
        self.metrics.memory_pressure.set(pressure.level().into());
    }

    /// How short memory is.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        Pressure::from_level(self.pressure.load(Relaxed))
    }

    fn shed(&self, class: Class, cause: ShedCause, again: Duration) -> Refusal {
        self.metrics.requests_shed.of(class).of(cause).inc();
        Refusal::with(Reason::Overloaded, Detail::RetryAfter(again))
    }

    fn admit(&self, class: Class) -> Result<(), Refusal> {
        if self.pressure().sheds(class) {
            return Err(self.shed(class, ShedCause::Memory, MEMORY_AGAIN));
        }
        if self.metrics.requests_unanswered.get() >= self.places[class.index()].load(Relaxed) {
            return Err(self.shed(class, ShedCause::Requests, PLACES_AGAIN));
        }
        Ok(())
    }
}

/// Admits, or sends away.
#[derive(Debug, Clone)]
pub struct Admission(pub Arc<Load>);

impl Stage for Admission {
    fn apply(&self, request: &mut Request<GateBody>) -> Result<(), Refusal> {
        let exchange = Exchange::of(request)?;
        let authenticated = exchange.principal()?.claims().is_some();
        if let Some(class) = exchange.route()?.calls.class(authenticated) {
            self.0.admit(class)?;
            exchange.record().take_place(&self.0.metrics.requests_unanswered);
        }
        Ok(())
    }
}
