//! `chroma.yaml`: a real Chroma server behind the gateway, Chroma's own client before it.

use portcullis::app::Rim;
use tempfile::TempDir;

use super::{Example, User, satisfied, sent};
use crate::harness::{
    peer::{Peer, python},
    upstream::Upstream,
};

const PYTHON: &str = "PORTCULLIS_TEST_CHROMA";
const PEERS: &str = "examples/peers";

async fn gateway(service: &str) -> Example {
    Example::start("chroma.yaml", &[("http://127.0.0.1:8000", service)], &[], Rim::system()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chromas_own_client_works_through_the_gateway_with_a_token_and_not_without() {
    let folder = TempDir::new().unwrap();
    let run = "import sys; from chromadb.cli.cli import app; sys.argv[0] = 'chroma'; app()";
    let mut command = python(PYTHON, PEERS);
    command.args(["-c", run, "run", "--host", "127.0.0.1", "--port", "0", "--path"]).arg(folder.path());
    let chroma = Peer::start(&mut command);
    let gateway = gateway(&format!("http://{}", chroma.listens_at().await)).await;

    let mut client = python(PYTHON, PEERS);
    client.arg("client_chroma.py").arg(format!("http://{}", gateway.running.public_addr()));
    client.env("HOME", folder.path());
    satisfied(client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chromas_own_token_passes_and_the_gateways_does_not() {
    let service = Upstream::start().await;
    let gateway = gateway(&service.url()).await;
    let ann = User::registered(&gateway).await;
    let request = ann.call("GET", "/api/v2/auth/identity").header("x-chroma-token", "ck-1");
    assert_eq!(sent(request).await.status(), 200);
    let seen = service.received().into_iter().find(|one| one.target() == "/api/v2/auth/identity").unwrap();
    assert_eq!(seen.head.header("x-chroma-token"), Some("ck-1"));
    assert_eq!(seen.head.header("authorization"), None);

    assert_eq!(sent(ann.call("POST", "/api/v2/reset")).await.status(), 403);
    assert!(service.received().iter().all(|one| one.target() != "/api/v2/reset"));
}
