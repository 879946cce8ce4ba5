//! How far the frames of an HTTP/2 client have come (RFC 9113 §3.4, §4.1, §4.3), for the watch: since when a head has
//! been on its way.
//!
//! hyper reads the frames, and has no time-out for one that never ends; a header block without its end, or a frame that
//! comes byte by byte, would wait for the idle time-out, and on a connection with a stream open for ever. Here they are
//! only measured: nothing is changed, kept or refused, so there is no second reader who could disagree.
//!
//! Counted besides is what asks for nothing (PING, SETTINGS, priorities, frames of unknown kinds, empty DATA) and how
//! many requests are taken back (CVE-2023-44487, done with patience). The HTTP library answers each in bounded memory,
//! for as long as they come.

/// "PRI * HTTP/2.0", "SM" and the line ends between them.
const PREFACE: u32 = 24;

const HEADER: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;

const END_HEADERS: u8 = 4;

/// Frames so far; each wraps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Those that ask for nothing.
    pub idle: u32,
    /// Those of requests.
    pub useful: u32,
    /// Requests taken back.
    pub taken_back: u32,
}

/// Measures what one client sends.
#[derive(Debug)]
pub struct Frames {
    /// The frame's header, as far as it has come.
    header: [u8; HEADER],
    got: usize,
    /// Bytes left of the preface or of the frame's payload.
    left: u32,
    /// The payload is of a body, whose pace its route minds.
    body: bool,
    /// A header block goes on in the next frame.
    block: bool,
    tally: Tally,
    /// Stretches so far: the preface, then each frame or header block; wraps.
    begun: u32,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            header: [0; HEADER],
            got: 0,
            left: PREFACE,
            body: false,
            block: false,
            tally: Tally::default(),
            begun: 0,
        }
    }
}

impl Frames {
    /// These bytes came.
    pub fn came(&mut self, mut bytes: &[u8]) {
        if self.begun == 0 && !bytes.is_empty() {
            self.begun = 1;
        }
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken = bytes.len().min(self.left as usize);
                bytes = &bytes[taken..];
                // No more than was left.
                self.left -= u32::try_from(taken).unwrap_or(self.left);
                continue;
            }
            if self.got == 0 && !self.block {
                self.begun = self.begun.wrapping_add(1);
            }
            let taken = bytes.len().min(HEADER - self.got);
            self.header[self.got..self.got + taken].copy_from_slice(&bytes[..taken]);
            (self.got, bytes) = (self.got + taken, &bytes[taken..]);
            if self.got == HEADER {
                self.begin_payload();
            }
        }
    }

    fn begin_payload(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.header;
        self.left = u32::from_be_bytes([0, high, middle, low]);
        self.got = 0;
        self.body = kind == DATA;
        if matches!(kind, HEADERS | CONTINUATION) {
            self.block = flags & END_HEADERS == 0;
        }
        let Tally { idle, useful, taken_back } = &mut self.tally;
        let count = match kind {
            DATA if self.left == 0 && flags & END_STREAM == 0 => idle,
            DATA | HEADERS => useful,
            RST_STREAM => taken_back,
            // Those belong to another frame. Whoever reads grants window; whoever does without reading gains nothing.
            CONTINUATION | WINDOW_UPDATE => return,
            _ => idle,
        };
        *count = count.wrapping_add(1);
    }

    /// What has come so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Which stretch is on its way: something has come of the preface, of a frame or of a header block, and not all of
    /// it. `None` between them, and within the payload of a body.
    #[must_use]
    pub fn under_way(&self) -> Option<u32> {
        let half = self.got > 0 || self.left > 0 && !self.body;
        (self.begun > 0 && (self.block || half)).then_some(self.begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: u8 = 4;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], &vec![0; payload]].concat()
    }

    fn after(pieces: &[&[u8]]) -> Frames {
        let mut frames = Frames::default();
        for piece in pieces {
            frames.came(piece);
        }
        frames
    }

    #[test]
    fn before_the_first_byte_nothing_is_under_way() {
        assert_eq!(Frames::default().under_way(), None);
        assert_eq!(after(&[b""]).under_way(), None);
    }

    #[test]
    fn every_byte_of_preface_and_settings_but_their_last_leaves_something_to_come() {
        let hello = [HELLO, &frame(SETTINGS, 0, 6)].concat();
        for cut in 1..hello.len() {
            assert_eq!(after(&[&hello[..cut]]).under_way().is_none(), cut == HELLO.len(), "{cut}");
        }
        assert_eq!(after(&[&hello]).under_way(), None);
    }

    #[test]
    fn a_header_block_is_one_stretch_however_many_frames_it_takes() {
        let mut frames = after(&[HELLO, &frame(SETTINGS, 0, 0), &frame(HEADERS, 0, 5)]);
        let begun = frames.under_way();
        assert!(begun.is_some());
        for _ in 0..3 {
            for byte in frame(CONTINUATION, 0, 2) {
                frames.came(&[byte]);
                assert_eq!(frames.under_way(), begun);
            }
        }
        frames.came(&frame(CONTINUATION, END_HEADERS, 0));
        assert_eq!(frames.under_way(), None);
    }

    #[test]
    fn a_new_head_is_a_new_stretch_although_the_old_one_ended_in_the_same_piece() {
        let mut frames = after(&[HELLO, &frame(HEADERS, 0, 5)]);
        let first = frames.under_way();
        let both = [frame(CONTINUATION, END_HEADERS, 1), frame(HEADERS, END_HEADERS, 9)[..12].to_vec()].concat();
        frames.came(&both);
        assert!(frames.under_way().is_some() && frames.under_way() != first);
    }

    #[test]
    fn what_asks_for_nothing_is_counted_and_requests_and_bodies_are_not() {
        let tally = |pieces: &[&[u8]]| {
            let Tally { idle, useful, taken_back } = after(&[&[HELLO], pieces].concat()).tally();
            [idle, useful, taken_back]
        };
        assert_eq!(tally(&[&frame(HEADERS, 0, 5), &frame(CONTINUATION, END_HEADERS, 5)]), [0, 1, 0]);
        assert_eq!(tally(&[&frame(DATA, 0, 5), &frame(DATA, END_STREAM, 0), &frame(WINDOW_UPDATE, 0, 4)]), [0, 2, 0]);
        for (kind, size) in [(SETTINGS, 0), (2, 5), (6, 8), (16, 9), (99, 0), (DATA, 0)] {
            assert_eq!(tally(&[&frame(kind, 0, size), &frame(kind, 0, size)]), [2, 0, 0], "{kind}");
        }
        assert_eq!(tally(&[&frame(RST_STREAM, 0, 4)]), [0, 0, 1]);
    }

    #[test]
    fn the_payload_of_a_body_is_not_watched_here() {
        let mut frames = after(&[HELLO, &frame(HEADERS, END_HEADERS, 5), &frame(DATA, 0, 100)[..50]]);
        assert_eq!(frames.under_way(), None);
        frames.came(&[0; 59]);
        assert_eq!(frames.under_way(), None);
        frames.came(&[0]);
        assert!(frames.under_way().is_some(), "the next frame has begun");
    }
}
