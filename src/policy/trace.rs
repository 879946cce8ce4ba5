//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>, level 1): which trace a request belongs to.
//!
//! A caller's trace is continued when its `traceparent` is valid, and begun anew when it is not (§3.2.1); nothing an
//! invalid header holds is passed on, `tracestate` neither (§3.3).

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

/// `traceparent`.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// `tracestate`.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Longest `tracestate` passed on, bytes: what §3.3.1.5 asks to propagate at least.
const MAX_TRACESTATE_LEN: usize = 512;

/// Most members of a `tracestate` (§3.3.1.1).
const MAX_MEMBERS: usize = 32;

/// Members longer than this go first when a `tracestate` must be shortened, bytes.
const LONG_MEMBER: usize = 128;

/// Where in which trace a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The whole trace; never zero.
    pub trace_id: [u8; 16],
    /// The span the next one is a child of; never zero.
    pub span_id: [u8; 8],
    /// The caller may have recorded it (`sampled`, the one flag of level 1).
    pub sampled: bool,
}

impl TraceContext {
    /// A new trace from random ids. Zero is not an id (§3.2.2.3): it becomes one.
    #[must_use]
    pub fn start(trace_id: [u8; 16], span_id: [u8; 8], sampled: bool) -> Self {
        Self { trace_id: never_zero(trace_id), span_id: never_zero(span_id), sampled }
    }

    /// The same trace with a random span id of ours.
    #[must_use]
    pub fn child(&self, span_id: [u8; 8]) -> Self {
        Self { span_id: never_zero(span_id), ..*self }
    }

    /// A `traceparent` value (§3.2.2; later versions §3.2.4: read as version 00, what follows is not understood).
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (fields, rest) = value.split_first_chunk::<55>()?;
        let [version @ .., b'-'] = &fields[..3] else { return None };
        let [version] = hex(version)?;
        if version == 0xff || version == 0 && !rest.is_empty() || !matches!(rest, [] | [b'-', ..]) {
            return None;
        }
        if fields[35] != b'-' || fields[52] != b'-' {
            return None;
        }
        let (trace_id, span_id) = (hex(&fields[3..35])?, hex(&fields[36..52])?);
        let [flags] = hex(&fields[53..])?;
        if trace_id == [0; 16] || span_id == [0; 8] {
            return None;
        }
        Some(Self { trace_id, span_id, sampled: flags & 1 == 1 })
    }

    /// The caller's context: exactly one valid `traceparent`.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next()?;
        if values.next().is_some() { None } else { Self::parse(value.as_bytes()) }
    }

    /// As a header value. Written digit by digit: it is made for every request.
    #[must_use]
    pub fn header_value(&self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&mut text[3..35], &self.trace_id);
        write_hex(&mut text[36..52], &self.span_id);
        write_hex(&mut text[53..], &[u8::from(self.sampled)]);
        #[expect(clippy::expect_used, clippy::missing_panics_doc, reason = "hex digits and dashes are a header value")]
        HeaderValue::from_bytes(&text).expect("hex digits and dashes")
    }
}

/// As `traceparent`, version 00.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span) = (u128::from_be_bytes(self.trace_id), u64::from_be_bytes(self.span_id));
        write!(f, "00-{trace:032x}-{span:016x}-{:02x}", u8::from(self.sampled))
    }
}

/// Which of the traces that begin here are recorded. A caller's choice, where it made one, stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    /// Of 2^56.
    below: u64,
}

impl Sampling {
    /// So many of a million.
    #[must_use]
    pub const fn per_million(many: u32) -> Self {
        Self { below: (many as u64 * (1 << 36)) / 1_000_000 * (1 << 20) }
    }

    /// By the random 56 bits at the id's end (W3C Trace Context level 2 §3.2.2.3), so that every service with the same
    /// ratio says the same of a trace.
    #[must_use]
    pub fn samples(self, trace_id: [u8; 16]) -> bool {
        u128::from_be_bytes(trace_id) & ((1 << 56) - 1) < u128::from(self.below)
    }
}

/// What is passed on of a `tracestate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tracestate {
    /// All of it, as it came.
    Whole,
    /// What of it fits.
    Shortened(HeaderValue),
    /// None of it.
    Nothing,
}

/// What of a request's `tracestate` goes on beside a valid `traceparent`. One that is malformed, or has more than 32
/// members, is dropped; one that is too long is shortened as §3.3.1.5 says: first its members of more than 128 bytes
/// go, then the last ones.
#[must_use]
pub fn tracestate(headers: &HeaderMap) -> Tracestate {
    if tracestate_ok(headers) {
        return Tracestate::Whole;
    }
    let values = headers.get_all(TRACESTATE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut members: Vec<&[u8]> = values.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty()).collect();
    if members.len() > MAX_MEMBERS || !members.iter().copied().all(is_member) {
        return Tracestate::Nothing;
    }
    members.retain(|member| member.len() <= LONG_MEMBER);
    while members.iter().map(|member| member.len() + 1).sum::<usize>() > MAX_TRACESTATE_LEN + 1 {
        members.pop();
    }
    match HeaderValue::from_bytes(&members.join(&b',')) {
        Ok(value) if !members.is_empty() => Tracestate::Shortened(value),
        _ => Tracestate::Nothing,
    }
}

/// Whether a request's `tracestate` may be passed on as it is beside a valid `traceparent`: printable ASCII, at most 32
/// members and 512 bytes in all (§3.3.1). Whose members they are is not ours to judge.
fn tracestate_ok(headers: &HeaderMap) -> bool {
    let (mut len, mut members) = (0_usize, 0_usize);
    headers.get_all(TRACESTATE).iter().all(|value| {
        let value = value.as_bytes();
        len += value.len();
        members += value.split(|byte| *byte == b',').filter(|member| !member.trim_ascii().is_empty()).count();
        let members_ok = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).all(is_member);
        members_ok && len <= MAX_TRACESTATE_LEN && members <= MAX_MEMBERS
    })
}

/// `key=value`, or the empty member the list rule allows.
fn is_member(member: &[u8]) -> bool {
    let is_key_char = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(byte);
    let Some(equals) = member.iter().position(|byte| *byte == b'=') else { return member.is_empty() };
    let (key, value) = (&member[..equals], &member[equals + 1..]);
    !key.is_empty()
        && key.iter().all(is_key_char)
        && !value.is_empty()
        && value.iter().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'='))
}

/// Lower-case hex only: upper case is invalid (§3.2.2.1).
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let mut bytes = [0; N];
    if pairs.len() != N {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

fn write_hex(digits: &mut [u8], bytes: &[u8]) {
    const HEX: [u8; 16] = *b"0123456789abcdef";
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
}

fn never_zero<const N: usize>(mut id: [u8; N]) -> [u8; N] {
    if id == [0; N]
        && let Some(last) = id.last_mut()
    {
        *last = 1;
    }
    id
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn head(name: &HeaderName, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_example_of_the_recommendation_is_read_and_written_alike() {
        let context = TraceContext::parse(GOOD.as_bytes()).unwrap();
        assert!(context.sampled);
        assert_eq!(context.header_value(), GOOD);
    }

    #[test]
    fn a_child_keeps_the_trace_and_has_its_own_span() {
        let child = TraceContext::parse(GOOD.as_bytes()).unwrap().child([0xab; 8]);
        assert_eq!(child.to_string(), "00-0af7651916cd43dd8448eb211c80319c-abababababababab-01");
    }

    #[test]
    fn a_ratio_of_new_traces_is_sampled() {
        let id = |share: u8| [0, 0, 0, 0, 0, 0, 0, 0, 0, share, 0, 0, 0, 0, 0, 0];
        let (none, quarter, all) =
            (Sampling::per_million(0), Sampling::per_million(250_000), Sampling::per_million(1_000_000));
        assert!(!none.samples([0; 16]) && all.samples([0xff; 16]));
        assert!(quarter.samples(id(0x3f)) && !quarter.samples(id(0x41)));
    }

    #[test]
    fn an_id_is_never_zero() {
        let context = TraceContext::start([0; 16], [0; 8], false).child([0; 8]);
        assert_eq!(TraceContext::parse(context.to_string().as_bytes()), Some(context));
    }

    #[test]
    fn what_is_invalid_begins_a_new_trace() {
        for odd in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-extra",
            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331_01",
            "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
            " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
        ] {
            assert_eq!(TraceContext::parse(odd.as_bytes()), None, "{odd}");
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        for later in ["cc", "01"] {
            let value = format!("{later}{}-what-the-future-holds", &GOOD[2..]);
            assert_eq!(TraceContext::parse(value.as_bytes()), TraceContext::parse(GOOD.as_bytes()));
        }
    }

    #[test]
    fn flags_we_do_not_know_are_not_passed_on() {
        let value = format!("{}fe", &GOOD[..53]);
        assert!(TraceContext::parse(value.as_bytes()).unwrap().to_string().ends_with("-00"));
    }

    #[test]
    fn two_traceparents_are_none() {
        assert!(TraceContext::of(&head(&TRACEPARENT, &[GOOD])).is_some());
        assert!(TraceContext::of(&head(&TRACEPARENT, &[GOOD, GOOD])).is_none());
        assert!(TraceContext::of(&HeaderMap::new()).is_none());
    }

    #[test]
    fn tracestate_is_passed_on_only_when_well_formed_and_bounded() {
        for good in [&[][..], &["a=1"], &["a=1,b@x=2", "c=3"], &["a=1, ,b=2"], &["rojo=00f067aa0ba902b7"]] {
            assert!(tracestate_ok(&head(&TRACESTATE, good)), "{good:?}");
        }
        let many = ["a=1,"; 33].concat();
        let long = format!("a={}", "x".repeat(511));
        for odd in ["a", "=1", "A=1", "a=1=2", "a=", "a=é", &many, &long] {
            let value = HeaderValue::from_bytes(odd.as_bytes()).unwrap();
            assert!(!tracestate_ok(&std::iter::once((TRACESTATE, value)).collect()), "{odd}");
        }
        assert!(!tracestate_ok(&head(&TRACESTATE, &[&long[..300], &long[..300]])));
    }

    #[test]
    fn a_tracestate_that_is_too_long_is_shortened_by_its_long_members_and_then_from_its_end() {
        let of = |values: &[&str]| tracestate(&head(&TRACESTATE, values));
        assert_eq!(of(&["a=1", "b=2"]), Tracestate::Whole);
        let long = format!("long={}", "x".repeat(200));
        let hundred = |key: &str| format!("{key}={}", "x".repeat(98));
        let many = ["a", "b", "c", "d", "e", "f"].map(hundred);
        let shortened = |expected: &[&str]| Tracestate::Shortened(expected.join(",").parse().unwrap());
        let (first, last) = (format!("{long}, {},,{}", many[0], many[1]), many[2..].join(","));
        // Five of 100 bytes with four commas are 504.
        assert_eq!(of(&[&first, &last]), shortened(&many[..5].iter().map(String::as_str).collect::<Vec<_>>()));
        assert_eq!(of(&[&long, &long, &long]), Tracestate::Nothing);
        assert_eq!(of(&[&["a=1,"; 33].concat()]), Tracestate::Nothing);
        assert_eq!(of(&[&many.join(","), "A=1"]), Tracestate::Nothing);
    }

    proptest! {
        #[test]
        fn what_is_passed_on_of_any_tracestate_may_be(values in prop::collection::vec("[a-z=, ]{0,300}", 0..4)) {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            if let Tracestate::Shortened(value) = tracestate(&head(&TRACESTATE, &values)) {
                let value = value.to_str().unwrap();
                prop_assert!(tracestate_ok(&head(&TRACESTATE, &[value])));
            }
        }

        #[test]
        fn every_context_comes_back(trace in any::<[u8; 16]>(), span in any::<[u8; 8]>(), sampled: bool) {
            let context = TraceContext::start(trace, span, sampled);
            prop_assert_eq!(TraceContext::parse(context.to_string().as_bytes()), Some(context));
        }

        #[test]
        fn any_bytes_are_read_without_panic(value in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = TraceContext::parse(&value);
        }
    }
}
