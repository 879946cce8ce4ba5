//! A service that speaks OpenAI's wire format, as far as chat completions go: JSON and event streams, with and without
//! `usage`. What it does besides is in the name of the model that is asked for.
//!
//! Each token of its output is four bytes long, so that what is counted is what it reports; of its input it reports
//! [`PROMPT`].

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::upstream::{Held, Reply, Upstream};

/// Where it is asked.
pub(crate) const PATH: &str = "/v1/chat/completions";

/// Tokens of input that it reports of any request.
pub(crate) const PROMPT: u64 = 10;

/// One token of its output.
const TOKEN: &str = "tok ";

/// The service.
pub(crate) struct Model {
    pub(crate) upstream: Arc<Upstream>,
    _playing: JoinSet<()>,
}

impl Model {
    pub(crate) async fn start() -> Self {
        let upstream = Arc::new(Upstream::start().await);
        upstream.hold(PATH);
        let mut playing = JoinSet::new();
        let held = Arc::clone(&upstream);
        playing.spawn(async move {
            let mut plays = JoinSet::new();
            while let Some(one) = held.next_held().await {
                plays.spawn(play(one));
            }
        });
        Self { upstream, _playing: playing }
    }

    pub(crate) fn url(&self) -> String {
        self.upstream.url()
    }
}

/// What is asked of `model`: so many tokens; `stream`: as events.
pub(crate) fn question(model: &str, tokens: u64, stream: bool) -> Value {
    let mut question = json!({"model": model, "max_tokens": tokens, "messages": [{"role": "user", "content": "Why?"}]});
    if stream {
        question["stream"] = json!(true);
        question["stream_options"] = json!({"include_usage": true});
    }
    question
}

/// The same events that [`play`] writes for an honest stream, whole.
pub(crate) fn events(model: &str, tokens: u64) -> String {
    let all = (0..tokens).map(|_| event(&delta(model))).collect::<String>();
    all + &event(&usage(model, &honest(tokens))) + "data: [DONE]\n\n"
}

fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}

fn delta(model: &str) -> Value {
    json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": model, "usage": null,
        "choices": [{"index": 0, "delta": {"content": TOKEN}, "finish_reason": null}]})
}

fn usage(model: &str, usage: &Value) -> Value {
    json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": model, "choices": [], "usage": usage})
}

fn honest(tokens: u64) -> Value {
    json!({"prompt_tokens": PROMPT, "completion_tokens": tokens, "total_tokens": PROMPT + tokens})
}

async fn play(mut held: Held) {
    if !held.read_body().await {
        return;
    }
    let asked: Value = serde_json::from_slice(&held.request().body.bytes).expect("a question");
    let (model, tokens) = (asked["model"].as_str().unwrap_or_default(), asked["max_tokens"].as_u64().unwrap_or(1));
    let said = match model {
        "refuses" => {
            held.answer(&Reply::new(400, "{\"error\":{\"message\":\"no\"}}").with("content-type", "application/json"))
                .await;
            held.serve_on();
            return;
        }
        // It never answers.
        "ponders" => {
            held.given_up().await;
            return;
        }
        "quiet" => None,
        "liar" => Some(json!({"prompt_tokens": -4, "completion_tokens": "many", "total_tokens": 1e99})),
        "dear" => Some(json!({"prompt_tokens": 1_000, "completion_tokens": tokens})),
        _ => Some(honest(tokens)),
    };
    if asked["stream"] == json!(true) {
        stream(held, model, tokens, said).await;
    } else {
        let content = TOKEN.repeat(usize::try_from(tokens).unwrap_or_default());
        let mut answer =
            json!({"object": "chat.completion", "model": model, "choices": [{"message": {"content": content}}]});
        if let Some(said) = said {
            answer["usage"] = said;
        }
        held.answer(&Reply::new(200, &answer.to_string()).with("content-type", "application/json")).await;
        held.serve_on();
    }
}

/// Whoever hangs up ends it.
async fn stream(mut held: Held, model: &str, tokens: u64, said: Option<Value>) {
    held.begin(200, &[("content-type", "text/event-stream")]).await;
    for _ in 0..tokens {
        if held.offer_chunk(&event(&delta(model))).await.is_err() {
            return;
        }
    }
    match model {
        // The connection is closed in the middle of the answer.
        "dies" => return,
        // It thinks on until somebody hangs up.
        "thinks" => {
            held.given_up().await;
            return;
        }
        _ => {}
    }
    if let Some(said) = said
        && held.offer_chunk(&event(&usage(model, &said))).await.is_err()
    {
        return;
    }
    if held.offer_chunk("data: [DONE]\n\n").await.is_ok() {
        held.end(&[]).await;
        held.serve_on();
    }
}
