//! Exemplars (`OpenMetrics` 1.0): for each bucket of a histogram the trace of a request that fell into it.
//!
//! Only sampled requests leave one; for the others the histogram is as any. A bucket keeps the last, behind a lock that
//! is tried and never waited for: whoever finds it taken leaves no exemplar. prometheus-client's own histogram with
//! exemplars locks at each observation and its exemplars cannot be made outside it, so they are added to the text here.

use std::{
    fmt::{self, Write},
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use prometheus_client::{encoding::MetricEncoder, metrics::MetricType};

use super::cells::{Cell, Histogram};
use crate::clock::Timestamp;

/// The request that was observed, as its trace knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traced {
    /// The whole trace.
    pub trace_id: [u8; 16],
    /// The request's span.
    pub span_id: [u8; 8],
    /// When it ended.
    pub at: Timestamp,
}

/// The last sampled request of a bucket, and how long it took.
type Place = Mutex<Option<(Duration, Traced)>>;

/// Durations, counted in buckets, each with an exemplar.
#[derive(Debug, Default)]
pub struct TracedHistogram {
    durations: Histogram,
    /// One place for each bucket, made for the first sampled request.
    exemplars: OnceLock<Box<[Place]>>,
}

impl TracedHistogram {
    /// Counts one duration, of a request that is traced or not.
    pub fn observe(&self, duration: Duration, traced: Option<Traced>) {
        let bucket = self.durations.observe(duration);
        if let Some(traced) = traced {
            let exemplars = self.exemplars.get_or_init(|| Histogram::bounds().map(|_| Mutex::default()).collect());
            if let Some(Ok(mut place)) = exemplars.get(bucket).map(Mutex::try_lock) {
                *place = Some((duration, traced));
            }
        }
    }

    /// What follows a bucket's sample: ` # {…} value timestamp`. `None` when no sampled request fell into it.
    pub(super) fn exemplar(&self, upper_bound: f64) -> Option<String> {
        let bucket = Histogram::bounds().position(|bound| bound.total_cmp(&upper_bound).is_eq())?;
        let (duration, traced) = (*self.exemplars.get()?.get(bucket)?.lock().unwrap_or_else(PoisonError::into_inner))?;
        let (trace_id, span_id) = (u128::from_be_bytes(traced.trace_id), u64::from_be_bytes(traced.span_id));
        let (seconds, micros) = (traced.at.seconds(), traced.at.micros().rem_euclid(1_000_000));
        let took = duration.as_secs_f64();
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ =
            write!(text, " # {{trace_id=\"{trace_id:032x}\",span_id=\"{span_id:016x}\"}} {took} {seconds}.{micros:06}");
        Some(text)
    }
}

impl Cell for TracedHistogram {
    const TYPE: MetricType = MetricType::Histogram;

    fn export(&self, labels: &[(&str, &str)], encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        self.durations.export(labels, encoder)
    }
}
