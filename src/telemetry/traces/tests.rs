//! Tests of what bounds the spans: of one request, and of all that wait.

use super::*;
use crate::clock::{SystemClock, SystemEntropy};

fn traces() -> (Arc<Traces>, Queue, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new());
    let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(SystemEntropy));
    let (traces, queue) = Traces::new(Sampling::per_million(0), Arc::clone(&metrics), clock, entropy);
    (Arc::new(traces), queue, metrics)
}

fn request(traces: &Arc<Traces>) -> Arc<RequestTrace> {
    let context = TraceContext::start([7; 16], [8; 8], true);
    let began = (Timestamp::from_seconds(1_000), traces.clock.tick());
    Arc::new(RequestTrace::new(Arc::clone(traces), context, None, began))
}

#[test]
fn so_many_calls_of_a_request_are_told_and_no_more() {
    let (traces, mut queue, metrics) = traces();
    let trace = request(&traces);
    for _ in 0..MAX_CALLS + 5 {
        if let Some(mut span) = trace.call(CallKind::Remote, "SELECT users".to_owned(), Vec::new()) {
            span.well();
        }
    }
    let told: Vec<_> = std::iter::from_fn(|| queue.try_recv().ok()).collect();
    assert_eq!((told.len(), metrics.trace_spans.of(SpanResult::Dropped).get()), (64, 5));
    // The service's call and our own work are few, and have their place whatever the calls were.
    drop(trace.upstream("GET".to_owned(), Vec::new()));
    assert!(queue.try_recv().is_ok());
}

#[test]
fn a_full_queue_drops_spans_and_counts_them_and_holds_nobody_up() {
    let (traces, queue, metrics) = traces();
    for _ in 0..QUEUE + 3 {
        drop(request(&traces).work("password hash"));
    }
    assert_eq!((queue.len(), metrics.trace_spans.of(SpanResult::Dropped).get()), (QUEUE, 3));
    // Nobody exports any more: the same.
    drop(queue);
    drop(request(&traces).work("password hash"));
    assert_eq!(metrics.trace_spans.of(SpanResult::Dropped).get(), 4);
}

#[test]
fn a_span_that_is_dropped_before_its_end_was_given_up() {
    let (traces, mut queue, _metrics) = traces();
    let trace = request(&traces);
    drop(trace.work("password hash"));
    let span = queue.try_recv().unwrap();
    assert_eq!((&*span.parent_span_id, &*span.trace_id), (&[8; 8][..], &[7; 16][..]));
    assert_eq!(span.attributes, [text("error.type", "cancelled")]);
    let mut well = trace.work("password hash");
    let context = well.context();
    well.well();
    drop(well);
    let span = queue.try_recv().unwrap();
    assert_eq!((&*span.span_id, span.attributes.len()), (&context.span_id[..], 0));
}
