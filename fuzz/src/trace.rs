//! `policy::trace`: a trace that is continued is one valid trace; what is passed on can be read by everybody.

use portcullis::policy::trace::{TRACEPARENT, TRACESTATE, TraceContext, Tracestate, tracestate};

use super::lines;

/// The bytes as header lines, `traceparent` and `tracestate` among them.
pub fn check(data: &[u8]) -> bool {
    let headers = lines::headers(data);
    let passed_on: Vec<_> = match tracestate(&headers) {
        Tracestate::Whole => headers.get_all(TRACESTATE).iter().map(|value| value.as_bytes().to_vec()).collect(),
        Tracestate::Shortened(value) => vec![value.as_bytes().to_vec()],
        Tracestate::Nothing => Vec::new(),
    };
    let whole = passed_on.join(&b',');
    assert!(passed_on.iter().map(Vec::len).sum::<usize>() <= 512);
    assert!(whole.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t')), "{whole:?}");
    let members = whole.split(|byte| *byte == b',').filter(|member| !member.trim_ascii().is_empty());
    assert!(members.clone().count() <= 32);
    assert!(members.clone().all(|member| member.split(|byte| *byte == b'=').count() == 2));
    let Some(context) = TraceContext::of(&headers) else { return false };
    let sent: Vec<_> = headers.get_all(TRACEPARENT).iter().collect();
    assert_eq!(sent.len(), 1);
    assert!(context.trace_id != [0; 16] && context.span_id != [0; 8]);
    let text = context.header_value();
    assert_eq!(TraceContext::parse(text.as_bytes()), Some(context));
    assert_eq!(text.to_str().expect("text"), context.to_string());
    assert_eq!(sent[0].as_bytes()[3..52], text.as_bytes()[3..52], "the ids are those that were sent");
    let child = context.child([7; 8]);
    assert_eq!((child.trace_id, child.sampled, child.span_id), (context.trace_id, context.sampled, [7; 8]));
    true
}
