//! Tests of [`super`], with a plain reading of whole answers as the second opinion.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn read(shape: Shape, pieces: &[&[u8]]) -> Meter {
    let mut meter = Meter::new(shape);
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let read = meter.read(rest);
            assert!((1..=rest.len()).contains(&read));
            rest = &rest[read..];
        }
    }
    meter
}

fn whole(shape: Shape, text: &str) -> Used {
    read(shape, &[text.as_bytes()]).used(true)
}

fn reported(input: u64, output: u64) -> Used {
    Used { input: Some(input), output, source: Source::Reported }
}

fn counted(output: u64) -> Used {
    Used { input: None, output, source: Source::Counted }
}

const CHAT: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt-4o-mini-2024-07-18",
 "choices":[{"index":0,"message":{"role":"assistant","content":"Hello there!","refusal":null},"finish_reason":"stop"}],
 "usage":{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,
          "prompt_tokens_details":{"cached_tokens":3,"prompt_tokens":99},"completion_tokens_details":{"reasoning_tokens":0}}}"#;

#[test]
fn every_kind_of_json_answer_says_what_it_used() {
    let chat = read(Shape::Json, &[CHAT.as_bytes()]);
    assert_eq!((chat.used(true), chat.model()), (reported(19, 10), Some("gpt-4o-mini-2024-07-18")));
    for (answer, used) in [
        // Completions.
        (json!({"choices": [{"text": "abc"}], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}), reported(5, 7)),
        // Embeddings.
        (
            json!({"data": [{"embedding": [0.1, -2e-3]}], "usage": {"prompt_tokens": 8, "total_tokens": 8}}),
            reported(8, 0),
        ),
        // Responses.
        (
            json!({"output": [{"content": [{"type": "output_text", "text": "hi"}]}],
            "usage": {"input_tokens": 36, "output_tokens": 87, "total_tokens": 123}}),
            reported(36, 87),
        ),
        // Rerankers.
        (json!({"results": [], "usage": {"total_tokens": 12}}), reported(12, 0)),
        (json!({"usage": {"completion_tokens": 2, "total_tokens": 12}}), reported(10, 2)),
    ] {
        assert_eq!(whole(Shape::Json, &answer.to_string()), used, "{answer}");
    }
}

#[test]
fn what_is_not_said_is_counted_where_the_format_has_it() {
    for (answer, bytes) in [
        (json!({"choices": [{"message": {"content": "12345678"}}, {"message": {"content": "9"}}]}), 9),
        (json!({"choices": [{"message": {"content": [{"type": "text", "text": "12345"}]}}]}), 5),
        (
            json!({"choices": [{"message": {"content": null, "tool_calls": [{"id": "no", "function": {"name": "no", "arguments": "{\"a\":1}"}}]}}]}),
            7,
        ),
        (json!({"choices": [{"message": {"reasoning_content": "1234", "refusal": "5"}}]}), 5),
        (json!({"output": [{"content": [{"text": "12345"}]}, {"arguments": "678"}]}), 8),
        (json!({"data": [{"embedding": [0.123_456, 0.1, 0.2, 0.3]}]}), 0),
        // Two for é, three for €, four for the pair of an emoji.
        (json!({"choices": [{"text": "aé€😀"}]}), 10),
    ] {
        let text = answer.to_string();
        assert_eq!(whole(Shape::Json, &text), counted(tokens_of_bytes(bytes)), "{answer}");
    }
    let escaped = r#"{"choices":[{"text":"a\u00e9\u20AC\ud83d\ude00\n\""}]}"#;
    assert_eq!(whole(Shape::Json, escaped), counted(3), "an escape counts as what it stands for");
    let other = r#"{"answer":"of another format"}"#;
    assert_eq!(whole(Shape::Json, other), counted(tokens_of_bytes(other.len() as u64)));
    assert_eq!(whole(Shape::Bytes, CHAT), counted(tokens_of_bytes(CHAT.len() as u64)));
    assert_eq!(whole(Shape::Json, ""), counted(0));
}

const STREAM: &str = concat!(
    ": a comment\r\n\r\n",
    "data: {\"id\":\"1\",\"model\":\"m-1\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}],\"usage\":null}\n\n",
    "event: message\ndata:{\"choices\":[{\"delta\":{\"content\":\"Hello\"}}],\n",
    "data: \"usage\":null}\n\n",
    "id: 5\r\ndata: {\"choices\":[{\"delta\":{\"content\":\" there\"}}]}\r\n\r\n",
);

#[test]
fn what_another_format_calls_by_the_same_names_does_not_make_it_free() {
    for answer in [
        r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"Hello"}}"#,
        r#"{"output":"Hello there, all of you"}"#,
        r#"{"output":["Hello there","all of you"]}"#,
    ] {
        let all = counted(tokens_of_bytes(answer.len() as u64));
        assert_eq!(whole(Shape::Json, answer), all, "{answer}");
        assert_eq!(whole(Shape::Events, &format!("data: {answer}\n\n")), all, "{answer}");
    }
}

#[test]
fn a_stream_says_it_last_or_is_counted() {
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":2,\"total_tokens\":6}}\n\n";
    assert_eq!(whole(Shape::Events, &format!("{STREAM}{usage}data: [DONE]\n\n")), reported(4, 2));
    assert_eq!(whole(Shape::Events, &format!("{STREAM}data: [DONE]\n\n")), counted(3));
    let responses = concat!(
        "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"model\":\"m-2\",\"usage\":null,\"instructions\":\"long\"}}\n\n",
        "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"Hello\"}\n\n",
        "event: response.output_text.done\ndata: {\"type\":\"response.output_text.done\",\"text\":\"Hello\"}\n\n",
    );
    let stream = read(Shape::Events, &[responses.as_bytes()]);
    assert_eq!((stream.used(false), stream.model()), (counted(2), Some("m-2")));
    let completed = "event: response.completed\ndata: {\"response\":{\"output\":[{\"content\":[{\"text\":\"Hello\"}]}],\"usage\":{\"input_tokens\":7,\"output_tokens\":1}}}\n\n";
    let stream = read(Shape::Events, &[responses.as_bytes(), completed.as_bytes()]);
    assert_eq!(stream.used(false), reported(7, 1), "nothing comes after it, whoever hangs up");
}

#[test]
fn what_was_said_before_a_stream_broke_off_is_not_the_last_word() {
    let first = "data: {\"choices\":[{\"delta\":{\"content\":\"1\"}}],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":1}}\n\n";
    let more = "data: {\"choices\":[{\"delta\":{\"content\":\"23456789\"}}]}\n\n";
    let stream = read(Shape::Events, &[first.as_bytes(), more.as_bytes()]);
    assert_eq!(stream.used(false), Used { input: Some(4), output: 3, source: Source::Counted });
    assert_eq!(stream.used(true), reported(4, 1));
    let stream = read(Shape::Events, &[first.as_bytes(), more.as_bytes(), b"data: [DONE]\n\n"]);
    assert_eq!(stream.used(false), reported(4, 1), "who has read the end may hang up");
}

#[test]
fn a_stream_can_be_cut_where_reading_stopped() {
    let mut meter = Meter::new(Shape::Events);
    let mut rest = STREAM.as_bytes();
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let read = meter.read(rest);
        pieces.push(std::str::from_utf8(&rest[..read]).unwrap());
        assert!(meter.between_events());
        rest = &rest[read..];
    }
    assert_eq!(pieces.concat(), STREAM);
    assert_eq!(pieces.len(), 4);
    assert!(pieces.iter().all(|piece| piece.ends_with("\n\n") || piece.ends_with("\r\n\r\n")), "{pieces:?}");
    meter.read(b"data: {");
    assert!(!meter.between_events());
}

#[test]
fn nonsense_is_not_believed() {
    for figures in [
        r#""prompt_tokens":-5,"completion_tokens":-1"#,
        r#""prompt_tokens":"5","completion_tokens":[7]"#,
        r#""prompt_tokens":1e9,"completion_tokens":9999999999999999999999999"#,
        r#""prompt_tokens":1000000000001,"completion_tokens":nonsense"#,
        r#""prompt_tokens":{"completion_tokens":5},"x":{"completion_tokens":5}"#,
        r#""prompt_tokens":12"#,
        "",
    ] {
        let closed = if figures.ends_with("12") { "" } else { "}}" };
        let text = format!(r#"{{"choices":[{{"text":"12345"}}],"usage":{{{figures}{closed}"#);
        assert_eq!(whole(Shape::Json, &text), counted(2), "{text}");
    }
    // Names inside text are text.
    let said = json!({"choices": [{"text": "\"usage\":{\"completion_tokens\":1}"}], "note": {"usage": {"completion_tokens": 1}}});
    assert_eq!(whole(Shape::Json, &said.to_string()).source, Source::Counted);
    let long = json!({"model": "m".repeat(97), "x".repeat(97): 1, "usage": {"completion_tokens": 1}});
    let long = read(Shape::Json, &[long.to_string().as_bytes()]);
    assert_eq!((long.model(), long.used(true).output), (None, 1));
}

#[test]
fn a_deep_answer_costs_no_memory_and_hides_nothing_after_it() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let text = format!(r#"{{"x":{deep},"choices":[{{"y":{deep},"text":"1234"}}],"usage":{{"completion_tokens":3}}}}"#);
    assert_eq!(whole(Shape::Json, &text).output, 3);
}

#[test]
fn several_texts_in_a_row_are_read_each() {
    let lines = "{\"choices\":[{\"text\":\"1234\"}]}\n{\"choices\":[{\"text\":\"5\"}]}\n";
    assert_eq!(whole(Shape::Json, lines), counted(2));
}

#[test]
fn a_shape_is_what_the_head_says() {
    for (kind, coding, shape) in [
        (Some("application/json; charset=utf-8"), None, Shape::Json),
        (Some("Application/Problem+JSON"), Some("identity"), Shape::Json),
        (Some("text/event-stream;charset=utf-8"), None, Shape::Events),
        (Some("text/event-stream"), Some("gzip"), Shape::Bytes),
        (Some("text/plain"), None, Shape::Bytes),
        (None, None, Shape::Bytes),
    ] {
        assert_eq!(Shape::of(kind.map(str::as_bytes), coding.map(str::as_bytes)), shape, "{kind:?}");
    }
}

/// What a plain reading of a whole answer gives: bytes of text, and output tokens.
fn plainly(answer: &Value) -> (u64, Option<u64>) {
    let text = |value: &Value| value.as_str().map_or(0, |text| text.len() as u64);
    let mut bytes = 0;
    for choice in answer["choices"].as_array().into_iter().flatten() {
        bytes += text(&choice["text"]) + text(&choice["delta"]["content"]) + text(&choice["message"]["content"]);
    }
    (bytes, answer["usage"]["completion_tokens"].as_u64())
}

/// JSON of keys that mean something, in places where they do and where they do not.
fn answer() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..MOST).prop_map(Value::from),
        "[a-zé\"\\\\{}\\[\\],:\n\u{1}😀 ]{0,12}".prop_map(Value::from),
    ];
    let any_value = leaf.prop_recursive(5, 64, 6, |inner| {
        let key = prop::sample::select(vec![
            "choices",
            "usage",
            "delta",
            "text",
            "message",
            "content",
            "completion_tokens",
            "é",
            "x",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.prop_map(str::to_owned), inner, 0..5)
                .prop_map(|map| map.into_iter().collect()),
        ]
    });
    let member = |keys: &'static [&'static str], value: BoxedStrategy<Value>| {
        prop::collection::btree_map(prop::sample::select(keys), value, 0..4)
            .prop_map(|map| map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Value>())
    };
    let any_value = any_value.boxed();
    let message = member(&["content", "role", "x"], any_value.clone()).boxed();
    let choice = member(&["delta", "message"], prop_oneof![message.clone(), any_value.clone()].boxed()).boxed();
    let texts = member(&["text", "index"], any_value.clone()).boxed();
    let choices = prop::collection::vec(prop_oneof![choice, texts], 0..4).prop_map(Value::from).boxed();
    let usage = member(&["completion_tokens", "y"], any_value.clone()).boxed();
    (choices, usage, any_value, any::<bool>()).prop_map(|(choices, usage, other, first)| {
        let mut answer = serde_json::Map::new();
        let (one, two) = if first { ("a", "z") } else { ("z", "a") };
        answer.insert(one.to_owned(), other.clone());
        answer.insert("choices".to_owned(), choices);
        answer.insert("usage".to_owned(), usage);
        answer.insert(two.to_owned(), other);
        Value::Object(answer)
    })
}

fn split<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
    at.sort_unstable();
    at.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect()
}

fn told(meter: &Meter) -> (Used, Used, Option<String>, bool) {
    (meter.used(true), meter.used(false), meter.model().map(str::to_owned), meter.between_events())
}

proptest! {
    #[test]
    fn what_is_found_is_what_a_plain_reading_finds(answer in answer(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&answer).unwrap() } else { answer.to_string() };
        let meter = read(Shape::Json, &[text.as_bytes()]);
        // A list of parts is more than the plain reading knows.
        let has_parts = text.contains("\"content\": [") || text.contains("\"content\":[");
        let (bytes, output) = plainly(&answer);
        if !has_parts {
            prop_assert_eq!(meter.counted(), tokens_of_bytes(bytes), "{}", text);
        }
        let used = meter.used(true);
        prop_assert_eq!((used.source == Source::Reported).then_some(used.output), output, "{}", text);
    }

    #[test]
    fn where_it_is_cut_changes_nothing(answer in answer(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12), shape in 0..3) {
        let (shape, text) = match shape {
            0 => (Shape::Json, answer.to_string()),
            1 => (Shape::Events, format!("data: {answer}\n\ndata:{answer}\r\n\r\n: x\revent: y\r\rdata: [DONE]\n\n")),
            _ => (Shape::Bytes, answer.to_string()),
        };
        let whole = read(shape, &[text.as_bytes()]);
        prop_assert_eq!(told(&whole), told(&read(shape, &split(text.as_bytes(), &cuts))));
    }

    #[test]
    fn any_bytes_are_survived_and_counted(
        pieces in prop::collection::vec("(data:|event:| |\r|\n|\\{|\\}|\\[|\\]|\"|\\\\|\\\\u00|usage|choices|text|prompt_tokens|:|,|1|-|\\.|é){0,8}", 0..16),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8), events in any::<bool>(),
    ) {
        let shape = if events { Shape::Events } else { Shape::Json };
        let text = pieces.concat();
        let whole = read(shape, &[text.as_bytes()]);
        prop_assert_eq!(told(&whole), told(&read(shape, &split(text.as_bytes(), &cuts))));
        prop_assert!(whole.counted() <= tokens_of_bytes(text.len() as u64));
    }
}
