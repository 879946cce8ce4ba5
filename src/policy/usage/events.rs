//! Event streams (HTML, §9.2 "Server-sent events") in pieces: the data of each event goes to the reader of JSON as it
//! comes.

use super::json::Scanner;

/// What ends OpenAI's streams.
const DONE: &[u8] = b"[DONE]";

const DATA: &[u8] = b"data:";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Line {
    /// Nothing of it has come.
    #[default]
    Empty,
    /// So many bytes of `data:`.
    Name(usize),
    /// One space after the colon belongs to neither.
    Colon,
    Data,
    /// Another field, or a comment.
    Other,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Events {
    line: Line,
    /// The last byte was a carriage return: a line feed belongs to it.
    after_return: bool,
    /// The last thing that came was the end of an event.
    ended: bool,
    /// Bytes of [`DONE`] that the data of this event are so far; `None`: they are something else.
    of_done: Option<usize>,
    done: bool,
}

impl Default for Events {
    fn default() -> Self {
        Self { line: Line::Empty, after_return: false, ended: false, of_done: Some(0), done: false }
    }
}

impl Events {
    /// Reads to the end of an event, or all there is; gives how much, and how many bytes of it were data.
    pub(super) fn read(&mut self, bytes: &[u8], json: &mut Scanner) -> (usize, u64) {
        let (mut at, mut data) = (0, 0);
        while let Some(byte) = bytes.get(at) {
            if *byte == b'\n' && self.after_return {
                self.after_return = false;
                at += 1;
                if self.ended {
                    break;
                }
                continue;
            }
            if self.ended && at > 0 {
                break;
            }
            (self.after_return, self.ended) = (*byte == b'\r', false);
            if matches!(byte, b'\r' | b'\n') {
                at += 1;
                self.end_line(json);
                // The line feed that may follow the return is still this event's.
                if self.ended && !self.after_return {
                    break;
                }
                continue;
            }
            let rest = bytes.get(at..).unwrap_or_default();
            let (read, value) = self.inside(rest);
            json.read(value);
            data += value.len() as u64;
            at += read;
        }
        (at, data)
    }

    /// Whether the last thing that came was the end of an event.
    pub(super) const fn between(&self) -> bool {
        self.ended
    }

    /// Whether the stream said that it is over.
    pub(super) const fn done(&self) -> bool {
        self.done
    }

    /// Reads on in a line, whose end is not next; gives how far, and what of it is data.
    fn inside<'a>(&mut self, bytes: &'a [u8]) -> (usize, &'a [u8]) {
        let matched = match self.line {
            Line::Empty => 0,
            Line::Name(matched) => matched,
            Line::Colon => {
                self.line = Line::Data;
                if bytes.first() == Some(&b' ') {
                    return (1, &[]);
                }
                return self.run(bytes);
            }
            Line::Data | Line::Other => return self.run(bytes),
        };
        self.line = match (DATA.get(matched) == bytes.first(), matched + 1) {
            (true, length) if length == DATA.len() => Line::Colon,
            (true, length) => Line::Name(length),
            (false, _) => Line::Other,
        };
        (1, &[])
    }

    fn run<'a>(&mut self, bytes: &'a [u8]) -> (usize, &'a [u8]) {
        let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
        let run = bytes.get(..end).unwrap_or_default();
        if self.line == Line::Other {
            return (end, &[]);
        }
        self.of_done = self.of_done.and_then(|so_far| {
            let fits = DONE.get(so_far..).is_some_and(|rest| rest.starts_with(run));
            fits.then_some(so_far + run.len())
        });
        (end, run)
    }

    fn end_line(&mut self, json: &mut Scanner) {
        match self.line {
            Line::Empty => {
                self.done |= self.of_done == Some(DONE.len());
                (self.of_done, self.ended) = (Some(0), true);
                json.restart();
            }
            // Lines of data are joined by line feeds.
            Line::Data | Line::Colon => json.read(b"\n"),
            Line::Name(_) | Line::Other => {}
        }
        self.line = Line::Empty;
    }
}
