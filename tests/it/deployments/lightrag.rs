//! `lightrag.yaml`: a real LightRAG server behind the gateway. It is its own in all but the model it asks, a remote
//! service that `examples/peers/model.py` stands in for, and the vocabulary it counts tokens by
//! (`examples/peers/lightrag_peer.py`).

use std::net::SocketAddr;

use portcullis::app::Rim;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Example, User, sent};
use crate::harness::peer::{Peer, patiently, python};

const PYTHON: &str = "PORTCULLIS_TEST_LIGHTRAG";
const PEERS: &str = "examples/peers";
const ENDPOINT: &str = "http://127.0.0.1:9621";
const ANIMALS: &str = "Herons sleep on one leg. Otters hold hands at night. Badgers dig long tunnels.";

struct LightRag {
    server: Peer,
    address: SocketAddr,
    _model: Peer,
    _folder: TempDir,
}

impl LightRag {
    async fn start(variables: &[(&str, &str)]) -> Self {
        let (model, model_address) = Peer::on_socket(python(PYTHON, PEERS).arg("model.py"));
        let folder = TempDir::new().unwrap();
        let mut command = python(PYTHON, PEERS);
        command.args(["-m", "uvicorn", "--factory", "lightrag_peer:app", "--fd", "0"]);
        for part in ["LLM", "EMBEDDING"] {
            let variable = |name: &str| format!("{part}_{name}");
            command.env(variable("BINDING"), "openai").env(variable("MODEL"), "double");
            command.env(variable("BINDING_HOST"), format!("http://{model_address}/v1"));
            command.env(variable("BINDING_API_KEY"), "nobody asks for it");
        }
        command.env("EMBEDDING_DIM", "64").env("WORKING_DIR", folder.path().join("storage"));
        command.env("INPUT_DIR", folder.path().join("inputs")).env("HOME", folder.path());
        // It would install what it misses: then the test must fail.
        command.env("PIP_NO_INDEX", "1").envs(variables.iter().copied());
        let (server, address) = Peer::on_socket(&mut command);
        server.logged("Application startup complete").await;
        Self { server, address, _model: model, _folder: folder }
    }

    async fn gateway(&self) -> Example {
        self.gateway_with(&[]).await
    }

    async fn gateway_with(&self, more: &[(&str, &str)]) -> Example {
        let endpoint = format!("http://{}", self.address);
        let places = [&[(ENDPOINT, &*endpoint)], more].concat();
        Example::start("lightrag.yaml", &places, &[], Rim::system()).await
    }

    /// A gateway that passes the client's token on to LightRAG, on the two routes tried here.
    async fn forwarding_gateway(&self) -> Example {
        let ask = ("  - name: ask\n", "  - name: ask\n    forward_authorization: true\n");
        let progress = ("  - name: progress\n", "  - name: progress\n    forward_authorization: true\n");
        self.gateway_with(&[ask, progress]).await
    }
}

async fn text_of(request: reqwest::RequestBuilder) -> (u16, String) {
    let answer = sent(request).await;
    let status = answer.status().as_u16();
    (status, patiently("the rest of it", answer.text()).await.unwrap())
}

async fn json_of(request: reqwest::RequestBuilder) -> Value {
    let (status, text) = text_of(request).await;
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}"))
}

fn question(user: &User, path: &str, text: &str) -> reqwest::RequestBuilder {
    user.call("POST", path).json(&json!({"query": text, "mode": "naive"}))
}

/// Uploads a document and waits until LightRAG has it in its index.
async fn upload(user: &User, lightrag: &LightRag) {
    let form = format!(
        "--edge\r\nContent-Disposition: form-data; name=\"file\"; filename=\"animals.txt\"\r\n\
         Content-Type: text/plain\r\n\r\n{ANIMALS}\r\n--edge--\r\n"
    );
    let request = user.call("POST", "/documents/upload").header(CONTENT_TYPE, "multipart/form-data; boundary=edge");
    let taken = json_of(request.body(form)).await;
    assert_eq!(taken["status"], "success", "{taken}");
    lightrag.server.logged("Completed processing file").await;
    let progress = format!("/documents/track_status/{}", taken["track_id"].as_str().unwrap());
    let progress = json_of(user.call("GET", &progress)).await;
    assert_eq!(progress["documents"][0]["status"], "processed", "{progress}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lightrag_takes_documents_answers_and_streams_since_it_never_sees_the_token() {
    let lightrag = LightRag::start(&[]).await;
    let gateway = lightrag.gateway().await;
    let ann = User::registered(&gateway).await;
    let stranger = User { token: "not.a.token".to_owned(), ..ann.at(&gateway) };
    let (status, refusal) = text_of(question(&stranger, "/query", "Who sleeps?")).await;
    assert!(status == 401 && refusal.contains("urn:portcullis:"), "{refusal}");

    upload(&ann, &lightrag).await;
    let answer = json_of(question(&ann, "/query", "What do otters hold at night?")).await;
    assert_eq!(answer["response"], "Otters hold hands at night.", "{answer}");
    assert_eq!(answer["references"][0]["file_path"], "animals.txt", "{answer}");

    // A line of JSON for each piece; another question, for an answer given once is given whole from LightRAG's cache.
    let (status, lines) = text_of(question(&ann, "/query/stream", "What do badgers dig?")).await;
    assert_eq!(status, 200, "{lines}");
    let pieces: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let words: Vec<_> = pieces.iter().filter_map(|piece| piece["response"].as_str()).collect();
    assert!(words.len() > 3 && words.concat() == "Badgers dig long tunnels.", "{lines}");

    // Not in the file, so not here: this one would delete everybody's documents.
    let (status, refusal) = text_of(ann.call("DELETE", "/documents")).await;
    assert!(status == 404 && refusal.contains("urn:portcullis:"), "{refusal}");

    // What the default spares operators.
    let wrong = lightrag.forwarding_gateway().await;
    let ann = User::registered(&wrong).await;
    let (status, refusal) = text_of(question(&ann, "/query", "What do otters hold at night?")).await;
    assert_eq!((status, &*refusal), (401, "{\"detail\":\"Invalid token\"}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lightrags_api_key_passes_and_counts_only_while_the_token_does_not_pass() {
    let lightrag = LightRag::start(&[("LIGHTRAG_API_KEY", "k-1")]).await;
    let progress = |user: &User| user.call("GET", "/documents/track_status/none");
    let gateway = lightrag.gateway().await;
    let ann = User::registered(&gateway).await;
    let (status, refusal) = text_of(progress(&ann)).await;
    assert_eq!((status, &*refusal), (403, "{\"detail\":\"API Key required\"}"));
    let (status, answer) = text_of(progress(&ann).header("x-api-key", "k-1")).await;
    assert_eq!(status, 200, "{answer}");

    let wrong = lightrag.forwarding_gateway().await;
    let ann = User::registered(&wrong).await;
    let (status, refusal) = text_of(progress(&ann).header("x-api-key", "k-1")).await;
    assert_eq!((status, &*refusal), (401, "{\"detail\":\"Invalid token\"}"));
}
