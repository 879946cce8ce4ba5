//! What an answer of a language model cost in tokens: read as it flows, at any speed, without keeping it.
//!
//! The wire format is OpenAI's, which most servers of models speak: `usage` in a JSON answer (chat completions,
//! completions, embeddings: `prompt_tokens`, `completion_tokens`; responses: `input_tokens`, `output_tokens`), or in
//! the last chunks of an event stream (`data: {…}`, with `stream_options.include_usage`; responses:
//! `response.completed`).
//!
//! Where nothing is said, output is counted: the bytes of the text as UTF-8, four a token, rounded up. That is an
//! approximation (English text is near it). Text is what stands where the format has it; in an answer of another format
//! all bytes count. Nothing here allocates or grows with the answer, and where it is cut into pieces changes nothing.
//! Keys are found as far as a path of the format leads; what lies elsewhere is passed over, however deep.

mod events;
mod json;
pub mod prices;
mod spots;

use self::{events::Events, json::Scanner};

/// A number of tokens above this is not believed, as one that is no number.
const MOST: u64 = 1_000_000_000_000;

/// Bytes of text that are taken for a token.
const BYTES_A_TOKEN: u64 = 4;

/// How many tokens a text of this many bytes is taken for.
#[must_use]
pub const fn tokens_of_bytes(bytes: u64) -> u64 {
    bytes.div_ceil(BYTES_A_TOKEN)
}

/// How an answer is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One JSON text, or several one after the other.
    Json,
    /// Server-sent events whose data are JSON.
    Events,
    /// Nothing that can be read, such as something compressed: only its bytes count.
    Bytes,
}

impl Shape {
    /// By `Content-Type` and `Content-Encoding`.
    #[must_use]
    pub fn of(content_type: Option<&[u8]>, content_encoding: Option<&[u8]>) -> Self {
        if content_encoding.is_some_and(|coding| !coding.trim_ascii().eq_ignore_ascii_case(b"identity")) {
            return Self::Bytes;
        }
        let kind = content_type.unwrap_or_default().split(|byte| *byte == b';').next().unwrap_or_default();
        let kind = kind.trim_ascii().to_ascii_lowercase();
        match kind.as_slice() {
            b"text/event-stream" => Self::Events,
            b"application/json" | b"application/x-ndjson" | b"application/jsonl" => Self::Json,
            other if other.ends_with(b"+json") => Self::Json,
            _ => Self::Bytes,
        }
    }
}

/// Tokens of input and output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tokens {
    /// What the model read.
    pub input: u64,
    /// What it wrote.
    pub output: u64,
}

impl Tokens {
    /// Both.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.input.saturating_add(self.output)
    }
}

/// Whose word a number of tokens is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The service's `usage`.
    Reported,
    /// Counted here: an approximation.
    Counted,
}

/// What an answer is known to have used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Tokens read; `None`: the service did not say, and the answer cannot tell.
    pub input: Option<u64>,
    /// Tokens written.
    pub output: u64,
    /// Whose word the output is.
    pub source: Source,
}

/// Reads one answer.
#[derive(Debug, Clone)]
pub struct Meter {
    shape: Shape,
    events: Events,
    json: Scanner,
    bytes: u64,
    has_begun: bool,
}

impl Meter {
    /// For an answer of this shape.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        Self { shape, events: Events::default(), json: Scanner::default(), bytes: 0, has_begun: false }
    }

    /// Reads on, of an event stream to the end of an event at most; gives how many bytes were read.
    pub fn read(&mut self, bytes: &[u8]) -> usize {
        self.has_begun |= !bytes.is_empty();
        match self.shape {
            Shape::Events => {
                let (read, data) = self.events.read(bytes, &mut self.json);
                self.bytes = self.bytes.saturating_add(data);
                read
            }
            Shape::Json | Shape::Bytes => {
                if self.shape == Shape::Json {
                    self.json.read(bytes);
                }
                self.bytes = self.bytes.saturating_add(bytes.len() as u64);
                bytes.len()
            }
        }
    }

    /// Whether anything was read.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether the last piece read was the end of an event.
    #[must_use]
    pub fn between_events(&self) -> bool {
        self.shape == Shape::Events && self.events.between()
    }

    /// The model that the answer names; `None`: none so far, or no name that could be one.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.json.found.model.text()
    }

    /// Output counted so far, tokens.
    #[must_use]
    pub fn counted(&self) -> u64 {
        let found = &self.json.found;
        tokens_of_bytes(if found.is_known { found.text } else { self.bytes })
    }

    /// What was used. What the service says stands, but for the output of an answer that broke off (`whole`: it did not)
    /// before what it says can have been its last word: then the larger of both.
    #[must_use]
    pub fn used(&self, whole: bool) -> Used {
        let found = &self.json.found;
        let counted = self.counted();
        let (input, output) = match (found.input, found.output, found.total) {
            (Some(input), None, Some(total)) => (Some(input), Some(total.saturating_sub(input))),
            (None, Some(output), Some(total)) => (Some(total.saturating_sub(output)), Some(output)),
            (None, None, Some(total)) => (Some(total), Some(0)),
            (input, output, _) => (input, output),
        };
        match output {
            Some(output) if whole || found.is_last || self.events.done() => {
                Used { input, output, source: Source::Reported }
            }
            Some(output) if output >= counted => Used { input, output, source: Source::Reported },
            Some(_) | None => Used { input, output: counted, source: Source::Counted },
        }
    }
}

#[cfg(test)]
mod tests;
