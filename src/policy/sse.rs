//! The end of an event stream (HTML, §9.2 "Server-sent events") that is cut: a last event that says why, wherever the
//! stream stands.
//!
//! An event that was cut in the middle must not pass for a whole one. Its last line is spoilt (a U+0000, which the
//! grammar allows, makes readers ignore a half `id` or `retry`), and it is given a type that nobody listens to.

/// Follows what has been sent of an event stream.
#[derive(Debug, Clone, Copy, Default)]
pub struct EventStream {
    /// A line has begun.
    in_line: bool,
    /// An event has begun: there was a line since the last empty one.
    in_event: bool,
    /// The last byte was a carriage return: a line feed would belong to it.
    after_return: bool,
}

impl EventStream {
    /// These bytes were sent. Only the end of them tells anything: it is looked at from there.
    pub fn came(&mut self, bytes: &[u8]) {
        let is_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
        let tail = bytes.iter().rposition(|byte| !is_end(byte)).map_or(0, |last| last + 1);
        if tail > 0 {
            *self = Self { in_line: true, in_event: true, after_return: false };
        }
        for byte in &bytes[tail..] {
            if *byte == b'\n' && self.after_return {
                self.after_return = false;
                continue;
            }
            self.after_return = *byte == b'\r';
            if self.in_line {
                self.in_line = false;
            } else {
                self.in_event = false;
            }
        }
    }

    /// What ends the stream: `reason` is a plain word.
    #[must_use]
    pub fn ending(&self, reason: &str) -> String {
        let mut text = String::new();
        if self.after_return {
            text.push('\n');
        }
        if self.in_line {
            text.push_str("\0\n");
        }
        if self.in_event {
            text.push_str("event: portcullis.cut\n\n");
        }
        text + "event: portcullis.end\ndata: {\"reason\":\"" + reason + "\"}\n\n"
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Events as a reader of the standard's dispatches them: type and data. No event without data.
    fn read(stream: &str) -> Vec<(String, String)> {
        let (mut events, mut kind, mut data) = (Vec::new(), String::new(), String::new());
        let text = stream.replace("\r\n", "\n").replace('\r', "\n");
        // What follows the last line end is no line.
        let Some((lines, _)) = text.rsplit_once('\n') else { return events };
        for line in lines.split('\n') {
            if line.is_empty() {
                if !data.is_empty() {
                    events.push((kind.clone(), data.trim_end_matches('\n').to_owned()));
                }
                kind.clear();
                data.clear();
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut kind),
                "data" => {
                    data.push_str(value);
                    data.push('\n');
                }
                _ => {}
            }
        }
        events
    }

    fn ended(sent: &[&str]) -> String {
        let mut stream = EventStream::default();
        for piece in sent {
            stream.came(piece.as_bytes());
        }
        sent.concat() + &stream.ending("session_ended")
    }

    const END: &str = "event: portcullis.end\ndata: {\"reason\":\"session_ended\"}\n\n";

    #[test]
    fn between_events_the_last_one_simply_follows() {
        for whole in ["", "data: a\n\n", "data: a\r\n\r\n", "\n\n\n", "data: a\n\n\n"] {
            assert_eq!(ended(&[whole]), format!("{whole}{END}"));
        }
        assert_eq!(ended(&["data: a\r\r"]), format!("data: a\r\r\n{END}"), "a line feed would belong to the return");
    }

    #[test]
    fn half_an_event_passes_for_no_event_of_the_service() {
        for half in
            ["data: {\"tok", "data: a\n", "data: a\r\n", "data: a\r", "id: 7\ndata", "event: x\ndata: 1\nretry: 3"]
        {
            let events = read(&ended(&["data: whole\n\n", half]));
            assert_eq!(events[0], (String::new(), "whole".to_owned()), "{half:?}");
            assert_eq!(events.last().unwrap().0, "portcullis.end", "{half:?}");
            assert!(
                events[1..events.len() - 1].iter().all(|(kind, _)| kind == "portcullis.cut"),
                "{half:?}: {events:?}"
            );
        }
        assert!(ended(&["retry: 3"]).contains("retry: 3\0\n"), "no reader takes half a number");
    }

    proptest! {
        #[test]
        fn whatever_was_sent_whole_stays_and_the_end_is_read(pieces in prop::collection::vec("(data|event|:|: |a|\r|\n|\r\n){0,6}", 0..8)) {
            let whole = pieces.concat();
            let text: Vec<_> = pieces.iter().map(String::as_str).collect();
            let (before, after) = (read(&whole), read(&ended(&text)));
            prop_assert_eq!(&after[..before.len()], &before[..]);
            let last = after.last().unwrap();
            prop_assert_eq!((last.0.as_str(), last.1.as_str()), ("portcullis.end", "{\"reason\":\"session_ended\"}"));
            for (kind, _) in &after[before.len()..after.len() - 1] {
                prop_assert_eq!(kind.as_str(), "portcullis.cut");
            }
        }
    }
}
