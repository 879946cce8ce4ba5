//! Which answers are streams: what flows until somebody has had enough, rather than until it has all been sent. So caps
//! on streams know what to count.
//!
//! By the answer's head alone: a media type whose pieces are meant to be read one by one, and no length told beforehand.
//! These are server-sent events and sequences of JSON texts, as models and what is built around them write their answers
//! (RFC 7464, NDJSON, JSON Lines); Amazon's event stream; parts that replace each other. What is merely large, or of
//! unknown length, is none: a file that is made as it is sent is chunked too. Calls by gRPC-Web are not told apart, short
//! or long: their type says nothing of it.

use http::{
    HeaderMap,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE},
};

/// Media types of streams.
const TYPES: [&[u8]; 9] = [
    b"text/event-stream",
    b"application/x-ndjson",
    b"application/ndjson",
    b"application/jsonl",
    b"application/x-jsonlines",
    b"application/json-seq",
    b"application/stream+json",
    b"application/vnd.amazon.eventstream",
    b"multipart/x-mixed-replace",
];

/// Whether an answer with these headers is a stream.
#[must_use]
pub fn is_stream(answer: &HeaderMap) -> bool {
    !answer.contains_key(CONTENT_LENGTH) && answer.get(CONTENT_TYPE).is_some_and(|kind| is_of_streams(kind.as_bytes()))
}

/// Whether a request takes nothing but a stream for an answer, as a browser's `EventSource` does. Whoever would take
/// something else too may be answered with it.
#[must_use]
pub fn asks_for_nothing_else(request: &HeaderMap) -> bool {
    let mut values = request.get_all(ACCEPT).iter().peekable();
    let all_are = |value: &[u8]| value.split(|byte| *byte == b',').all(is_of_streams);
    values.peek().is_some() && values.all(|value| all_are(value.as_bytes()))
}

/// Of a media type (RFC 9110 §8.3.1), or a media range, whatever its parameters.
fn is_of_streams(kind: &[u8]) -> bool {
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    TYPES.iter().any(|known| kind.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(all: &[(HeaderName, &'static str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn events_and_sequences_of_json_are_streams_and_what_is_merely_long_is_not() {
        for (kind, stream) in [
            ("text/event-stream", true),
            ("Text/Event-Stream ; charset=utf-8", true),
            ("application/x-ndjson", true),
            ("application/jsonl;charset=utf-8", true),
            ("application/json-seq", true),
            ("application/vnd.amazon.eventstream", true),
            ("multipart/x-mixed-replace; boundary=frame", true),
            ("multipart/mixed; boundary=part", false),
            ("application/json", false),
            ("text/html", false),
            ("text/event-streams", false),
            ("application/octet-stream", false),
            ("", false),
        ] {
            assert_eq!(is_stream(&headers(&[(CONTENT_TYPE, kind)])), stream, "{kind}");
        }
        assert!(!is_stream(&headers(&[])));
        let whole = [(CONTENT_TYPE, "text/event-stream"), (CONTENT_LENGTH, "12")];
        assert!(!is_stream(&headers(&whole)), "all of it is there already");
    }

    #[test]
    fn only_who_takes_nothing_else_is_known_to_get_a_stream() {
        for (accept, nothing_else) in [
            (&["text/event-stream"][..], true),
            (&["TEXT/event-stream;q=1"], true),
            (&["text/event-stream, application/x-ndjson"], true),
            (&["text/event-stream", "application/x-ndjson"], true),
            (&["application/json, text/event-stream"], false),
            (&["text/event-stream", "application/json"], false),
            (&["text/event-stream, */*;q=0.1"], false),
            (&["text/*"], false),
            (&["text/event-stream;x=\"a,b\""], false),
            (&[""], false),
            (&[], false),
        ] {
            let all: Vec<_> = accept.iter().map(|value| (ACCEPT, *value)).collect();
            assert_eq!(asks_for_nothing_else(&headers(&all)), nothing_else, "{accept:?}");
        }
    }
}
