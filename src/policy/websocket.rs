//! WebSocket (RFC 6455) as far as whoever tunnels it must know it: which request asks for one and which answer agrees
//! (§4), where frames end (§5.2), and how to say goodbye (§5.5.1, §7.4.1).
//!
//! What lies in the frames is nobody's business here: masks, extensions and messages pass as they are.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderName, Method, Version,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE},
};

/// What a key is hashed with (§1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// `Upgrade`'s word.
const PROTOCOL: &[u8] = b"websocket";

/// Opcode of a close frame (§5.2).
const CLOSE: u8 = 8;

/// The longest header of a frame: two bytes, eight of length, four of mask.
const LONGEST_HEADER: usize = 14;

/// What the answer to a handshake must say (`Sec-WebSocket-Accept`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accept(String);

/// A request that asks for a WebSocket, and not as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeFault {
    /// §4.1: the method is GET.
    #[error("a WebSocket is asked for with GET")]
    Method,
    /// What follows the head would be two things at once: a body, and frames.
    #[error("a WebSocket handshake has no body")]
    Body,
    /// §4.1: version 13, once.
    #[error("Sec-WebSocket-Version must be 13")]
    Version,
    /// §4.1: sixteen bytes in base64, once.
    #[error("Sec-WebSocket-Key must be sixteen bytes in base64")]
    Key,
}

/// Whether a request asks for a WebSocket; then, what the answer must say. Who asks for another protocol, or for several,
/// asks for none of ours: RFC 9110 §7.8 lets us go on with HTTP.
///
/// # Errors
/// See [`HandshakeFault`].
pub fn asked(
    method: &Method,
    version: Version,
    headers: &HeaderMap,
    has_body: bool,
) -> Result<Option<Accept>, HandshakeFault> {
    if !is_asked(version, headers) {
        return Ok(None);
    }
    if method != Method::GET {
        return Err(HandshakeFault::Method);
    }
    if has_body {
        return Err(HandshakeFault::Body);
    }
    if only(headers, &SEC_WEBSOCKET_VERSION) != Some(b"13") {
        return Err(HandshakeFault::Version);
    }
    let key = only(headers, &SEC_WEBSOCKET_KEY).ok_or(HandshakeFault::Key)?;
    if STANDARD.decode(key).map(|bytes| bytes.len()) != Ok(16) {
        return Err(HandshakeFault::Key);
    }
    let hashed = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID.as_bytes()].concat());
    Ok(Some(Accept(STANDARD.encode(hashed))))
}

/// Whether a request asks for a WebSocket, in whatever way.
#[must_use]
pub fn is_asked(version: Version, headers: &HeaderMap) -> bool {
    version == Version::HTTP_11 && switches(headers)
}

/// Whether a 101 answers the very handshake: this protocol, and this key.
#[must_use]
pub fn agreed(headers: &HeaderMap, accept: &Accept) -> bool {
    switches(headers) && only(headers, &SEC_WEBSOCKET_ACCEPT) == Some(accept.0.as_bytes())
}

/// Whether a head switches to this protocol alone: `Upgrade: websocket`, nominated by `Connection` (RFC 9110 §7.8).
fn switches(headers: &HeaderMap) -> bool {
    only(headers, &UPGRADE).is_some_and(|protocol| protocol.eq_ignore_ascii_case(PROTOCOL)) && {
        let values = headers.get_all(CONNECTION).iter();
        let mut options = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    }
}

/// A header's value, if it came once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.as_bytes().trim_ascii())
}

/// Why a WebSocket is closed by us (§7.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseCode {
    /// 1001: we end, or its time is over.
    GoingAway,
    /// 1008: whoever opened it has lost the right to it.
    PolicyViolation,
}

/// A close frame as a server sends it: whole, unmasked. `reason` is cut at what a control frame holds.
#[must_use]
pub fn close_frame(code: CloseCode, reason: &str) -> Vec<u8> {
    let code: u16 = match code {
        CloseCode::GoingAway => 1001,
        CloseCode::PolicyViolation => 1008,
    };
    // A control frame's payload has 125 bytes at most (§5.5), two of them the code.
    let reason = &reason[..reason.floor_char_boundary(123)];
    // No more than 125: it fits.
    let length = u8::try_from(2 + reason.len()).unwrap_or(2);
    let mut frame = vec![0x80 | CLOSE, length];
    frame.extend_from_slice(&code.to_be_bytes());
    frame.extend_from_slice(reason.as_bytes());
    frame
}

/// Follows the frames one side sends.
#[derive(Debug, Clone)]
pub struct Frames {
    header: [u8; LONGEST_HEADER],
    got: usize,
    /// Bytes left of the payload.
    left: u64,
    closed: bool,
    lost: bool,
}

impl Default for Frames {
    fn default() -> Self {
        Self { header: [0; LONGEST_HEADER], got: 0, left: 0, closed: false, lost: false }
    }
}

impl Frames {
    /// These bytes were sent.
    pub fn came(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.take(bytes);
            bytes = &bytes[taken..];
        }
    }

    /// Whether the last frame is whole, so that another may follow.
    #[must_use]
    pub const fn between(&self) -> bool {
        self.got == 0 && self.left == 0 && !self.lost
    }

    /// Whether a close frame has been sent whole: no other may follow (§5.5.1).
    #[must_use]
    pub const fn closed(&self) -> bool {
        self.closed
    }

    /// How many of `next`, which is to follow, belong to the frame that has begun; `None` when it goes on beyond them.
    #[must_use]
    pub fn rest(&self, next: &[u8]) -> Option<usize> {
        let mut ahead = self.clone();
        let mut taken = 0;
        while !ahead.between() {
            if ahead.lost || taken == next.len() {
                return None;
            }
            taken += ahead.take(&next[taken..]);
        }
        Some(taken)
    }

    /// Takes some bytes, none of them beyond the frame's end.
    fn take(&mut self, bytes: &[u8]) -> usize {
        if self.lost {
            return bytes.len();
        }
        if self.left > 0 {
            let most = usize::try_from(self.left).unwrap_or(usize::MAX);
            let taken = bytes.len().min(most);
            self.left -= taken as u64;
            self.end_if_whole();
            return taken;
        }
        let taken = bytes.len().min(self.header_length() - self.got);
        self.header[self.got..self.got + taken].copy_from_slice(&bytes[..taken]);
        self.got += taken;
        // The second byte says how many follow.
        if self.got >= 2 && self.got == self.header_length() {
            self.begin_payload();
        }
        taken
    }

    fn begin_payload(&mut self) {
        let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        self.left = match self.header[1] & 0x7f {
            126 => number(&self.header[2..4]),
            127 => number(&self.header[2..10]),
            short => u64::from(short),
        };
        // §5.2: the most significant bit is 0. What follows is no frame that we could follow.
        self.lost = self.left >> 63 == 1;
        self.end_if_whole();
    }

    fn end_if_whole(&mut self) {
        if self.left == 0 {
            self.closed |= self.header[0] & 0x0f == CLOSE;
            self.got = 0;
        }
    }

    fn header_length(&self) -> usize {
        if self.got < 2 {
            return 2;
        }
        let length = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if self.header[1] & 0x80 == 0 { 0 } else { 4 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        pairs.iter().map(pair).collect()
    }

    const ASKED: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        // The RFC's own example (§1.3).
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn ask(pairs: &[(&str, &str)]) -> Result<Option<Accept>, HandshakeFault> {
        asked(&Method::GET, Version::HTTP_11, &head(pairs), false)
    }

    fn with(name: &str, value: &str) -> Result<Option<Accept>, HandshakeFault> {
        ask(&ASKED.map(|pair| if pair.0 == name { (pair.0, value) } else { pair }))
    }

    #[test]
    fn the_answer_must_prove_that_it_has_read_the_key() {
        let accept = ask(&ASKED).unwrap().unwrap();
        let answer = |protocol, accept| {
            head(&[("connection", "upgrade"), ("upgrade", protocol), ("sec-websocket-accept", accept)])
        };
        assert!(agreed(&answer("websocket", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), &accept));
        assert!(!agreed(&answer("websocket", "t3pPLMBiTxaQ9kYGzzhZRbK+xOo="), &accept));
        assert!(!agreed(&answer("h2c", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), &accept));
        let mut without = answer("websocket", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        without.remove("connection");
        assert!(!agreed(&without, &accept));
        let mut twice = answer("websocket", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        twice.append("sec-websocket-accept", "x".parse().unwrap());
        assert!(!agreed(&twice, &accept));
    }

    #[test]
    fn whoever_asks_for_something_else_asks_for_nothing() {
        for protocol in ["h2c", "websocket, h2c", "websocket/13", ""] {
            assert_eq!(with("upgrade", protocol), Ok(None), "{protocol}");
        }
        assert_eq!(with("connection", "keep-alive"), Ok(None));
        for version in [Version::HTTP_10, Version::HTTP_2] {
            assert_eq!(asked(&Method::GET, version, &head(&ASKED), false), Ok(None));
        }
    }

    #[test]
    fn a_handshake_is_as_the_standard_has_it_or_refused() {
        assert_eq!(asked(&Method::POST, Version::HTTP_11, &head(&ASKED), false), Err(HandshakeFault::Method));
        assert_eq!(asked(&Method::GET, Version::HTTP_11, &head(&ASKED), true), Err(HandshakeFault::Body));
        for version in ["", "12", "1337", "13, 8"] {
            assert_eq!(with("sec-websocket-version", version), Err(HandshakeFault::Version), "{version}");
        }
        for key in ["", "dGhlIHNhbXBsZQ==", "dGhlIHNhbXBsZSBub25jZQ", "not base64 at all!!!!!=="] {
            assert_eq!(with("sec-websocket-key", key), Err(HandshakeFault::Key), "{key}");
        }
        let mut twice = ASKED.to_vec();
        twice.push(ASKED[3]);
        assert_eq!(ask(&twice), Err(HandshakeFault::Key));
    }

    #[test]
    fn a_goodbye_is_one_whole_control_frame() {
        let frame = close_frame(CloseCode::PolicyViolation, "session_ended");
        assert_eq!(frame[..4], [0x88, 15, 0x03, 0xf0]);
        assert_eq!(&frame[4..], b"session_ended");
        let longest = close_frame(CloseCode::GoingAway, &"é".repeat(200));
        assert_eq!((longest.len(), longest[1]), (2 + 124, 124), "cut between characters");
        let mut frames = Frames::default();
        frames.came(&longest);
        assert!(frames.between() && frames.closed());
    }

    #[test]
    fn a_length_that_no_frame_has_is_never_a_place_for_another() {
        let mut frames = Frames::default();
        frames.came(&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]);
        frames.came(&[0; 64]);
        assert!(!frames.between());
        assert_eq!(frames.rest(&[0; 64]), None);
    }

    /// A frame as either side may send it.
    fn frame(opcode: u8, masked: bool, length: usize) -> Vec<u8> {
        let mask_bit = if masked { 0x80 } else { 0 };
        let mut bytes = vec![0x80 | opcode];
        match length {
            0..126 => bytes.push(mask_bit | u8::try_from(length).unwrap()),
            126..65_536 => {
                bytes.push(mask_bit | 0x7e);
                bytes.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(mask_bit | 0x7f);
                bytes.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        bytes.extend(std::iter::repeat_n(0x88, length + if masked { 4 } else { 0 }));
        bytes
    }

    proptest! {
        #[test]
        fn frames_end_where_they_end_however_they_are_cut(
            shapes in prop::collection::vec((0..8_u8, any::<bool>(), prop_oneof![0..300_usize, 65_000..66_000_usize]), 1..6),
            cuts in prop::collection::vec(1..70_000_usize, 1..20),
        ) {
            let mut ends = vec![0];
            let mut stream = Vec::new();
            for (opcode, masked, length) in shapes {
                stream.extend(frame(opcode, masked, length));
                ends.push(stream.len());
            }
            let (mut frames, mut at) = (Frames::default(), 0);
            for cut in cuts.into_iter().cycle() {
                prop_assert_eq!(frames.between(), ends.contains(&at), "at {}", at);
                let end = ends.iter().copied().find(|end| *end >= at).unwrap();
                prop_assert_eq!(frames.rest(&stream[at..]), Some(end - at));
                if end > at {
                    prop_assert_eq!(frames.rest(&stream[at..end - 1]), None);
                }
                if at == stream.len() {
                    break;
                }
                let to = stream.len().min(at + cut);
                frames.came(&stream[at..to]);
                at = to;
            }
            prop_assert!(!frames.closed());
            frames.came(&frame(CLOSE, false, 2));
            prop_assert!(frames.closed() && frames.between());
        }

        #[test]
        fn any_bytes_are_followed_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut frames = Frames::default();
            frames.came(&bytes);
            let _ = frames.rest(&bytes);
        }
    }
}
