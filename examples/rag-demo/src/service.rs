//! The HTTP surface: `POST /ask` (server-sent events), `GET /documents`, `GET /health` and `/ready`. Decides nothing itself.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, FromRequestParts, State, rejection::JsonRejection},
    http::{StatusCode, header::RETRY_AFTER, request::Parts},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
    routing::{get, post},
};
use futures_util::Stream;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    documents::Owner,
    identity::{self, Caller, Doubt, Expected},
    jwks::{Found, Jwks},
    search::{self, Library},
};

/// A question longer than this, in characters, is not answered.
const MAX_QUESTION: usize = 2_000;
/// Events composed ahead of a client that reads slowly; composing waits when they are full.
const AHEAD: usize = 8;

/// What the handlers share.
pub struct Service {
    /// The documents.
    pub library: Library,
    /// The gateway's keys.
    pub jwks: Arc<Jwks>,
    /// What an identity must say.
    pub expected: Expected,
    /// Pause between two word groups of an answer, as a model would need.
    pub pace: Duration,
}

/// The whole surface.
pub fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/ask", post(ask))
        .route("/documents", get(documents))
        // Alive, not ready: the gateway's health check must succeed before its keys can be fetched, or neither of
        // the two would ever come up.
        .route("/health", get(|| async { Json(json!({"status": "alive"})) }))
        .route("/ready", get(ready))
        .layer(DefaultBodyLimit::max(64 * 1024))
        .with_state(service)
}

/// Why a request is not answered.
enum Fault {
    Unidentified(Doubt),
    KeysMissing,
    Question(String),
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let body = |error: &str| Json(json!({"error": error}));
        match self {
            Self::Unidentified(doubt) => {
                tracing::warn!(%doubt, "refused: no valid identity");
                // One answer for every cause: a prober learns nothing.
                (StatusCode::UNAUTHORIZED, body("no valid identity from the gateway")).into_response()
            }
            Self::KeysMissing => {
                let answer = body("the gateway's keys are not here yet");
                (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], answer).into_response()
            }
            Self::Question(why) => (StatusCode::UNPROCESSABLE_ENTITY, body(&why)).into_response(),
        }
    }
}

impl FromRequestParts<Arc<Service>> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, service: &Arc<Service>) -> Result<Self, Response> {
        identify(parts, service).await.map_err(IntoResponse::into_response)
    }
}

async fn identify(parts: &Parts, service: &Service) -> Result<Caller, Fault> {
    let token = identity::take(&parts.headers).map_err(Fault::Unidentified)?;
    let key = match service.jwks.find(&token.key_id).await {
        Found::Key(key) => key,
        Found::Unknown => return Err(Fault::Unidentified(Doubt::Key(token.key_id))),
        Found::NotYet => return Err(Fault::KeysMissing),
    };
    identity::verify(&token, &key, &service.expected).map_err(Fault::Unidentified)
}

/// Ready once somebody can be judged. For whoever starts both; not for the gateway's health check.
async fn ready(State(service): State<Arc<Service>>) -> Result<Json<serde_json::Value>, Response> {
    if service.jwks.has_keys() { Ok(Json(json!({"status": "ready"}))) } else { Err(Fault::KeysMissing.into_response()) }
}

#[derive(Serialize)]
struct Listed<'a> {
    id: &'a str,
    title: &'a str,
    owner: &'a Owner,
}

async fn documents(State(service): State<Arc<Service>>, caller: Caller) -> Response {
    let visible = service.library.visible(&caller);
    let listed: Vec<_> =
        visible.map(|document| Listed { id: &document.id, title: &document.title, owner: &document.owner }).collect();
    Json(json!({"asked_by": caller.name(), "documents": listed})).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    question: String,
}

async fn ask(
    State(service): State<Arc<Service>>,
    caller: Caller,
    body: Result<Json<Question>, JsonRejection>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Response> {
    let Json(Question { question }) = body.map_err(IntoResponse::into_response)?;
    if question.trim().is_empty() || question.chars().count() > MAX_QUESTION {
        let why = format!("a question has 1 to {MAX_QUESTION} characters");
        return Err(Fault::Question(why).into_response());
    }
    tracing::info!(asked_by = caller.name(), "a question");
    let (events, stream) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        // Fails when the client has gone: then there is nobody to answer.
        if answer(&service, &caller, &question, &events).await.is_err() {
            tracing::info!(asked_by = caller.name(), "the client went away before the end");
        }
    });
    Ok(Sse::new(ReceiverStream::new(stream)).keep_alive(KeepAlive::default()))
}

type Events = mpsc::Sender<Result<Event, Infallible>>;

async fn answer(service: &Service, caller: &Caller, question: &str, events: &Events) -> Result<(), Gone> {
    let hits = service.library.search(question, caller);
    let sources: Vec<_> = hits
        .iter()
        .map(|hit| json!({"id": hit.document.id, "title": hit.document.title, "score": hit.score}))
        .collect();
    send(events, "sources", &json!(sources)).await?;
    let mut groups = 0_u32;
    for text in search::word_groups(&search::compose(question, &hits)) {
        tokio::time::sleep(service.pace).await;
        send(events, "token", &json!({"text": text})).await?;
        groups += 1;
    }
    send(events, "done", &json!({"asked_by": caller.name(), "tokens": groups})).await
}

struct Gone;

async fn send(events: &Events, name: &str, data: &serde_json::Value) -> Result<(), Gone> {
    // JSON has no line break unless it is pretty-printed, so it is one `data:` line.
    events.send(Ok(Event::default().event(name).data(data.to_string()))).await.map_err(|_| Gone)
}
