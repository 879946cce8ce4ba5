//! Bodies of any size pass through in a bounded amount of memory: the built program, its resident set before and after.

use crate::harness::{binary::Binary, raw::Raw, soon, upstream::Upstream};
use std::collections::HashMap;
use tempfile::TempDir;

const GIB: u64 = 1 << 30;

/// What a body of any size may cost. Sockets and hyper's buffers need far less; one buffered body needs far more.
const BOUND_KIB: u64 = 16 << 10;

async fn gateway(upstream: &Upstream) -> (Binary, TempDir) {
    let folder = TempDir::new().unwrap();
    let yaml = format!(
        "listeners: {{public: {{bind: \"127.0.0.1:0\"}}, admin: {{bind: \"127.0.0.1:0\"}}}}\n\
         tokens: {{issuer: \"https://gw.test\"}}\nclusters: {{rag: {{endpoints: [\"{}\"]}}}}\nroutes:\n  \
         - {{name: it, match: {{path: \"/{{*rest}}\"}}, auth: none, cluster: rag, body_limit: none}}\n",
        upstream.url()
    );
    std::fs::write(folder.path().join("gateway.yaml"), yaml).unwrap();
    let gateway = Binary::serve(&folder.path().join("gateway.yaml"), &HashMap::new()).await;
    // The first request of each kind allocates what all later ones share.
    let client = gateway.client();
    for _ in 0..10 {
        client.post("/warm").body("x".repeat(1 << 20)).send().await.expect(200);
    }
    (gateway, folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_up_costs_no_memory() {
    let upstream = Upstream::start().await;
    let (gateway, _folder) = gateway(&upstream).await;
    let before = gateway.resident_kib();
    let mut raw = Raw::connect(gateway.public, &gateway.invariants).await;
    raw.send(&format!("POST /up HTTP/1.1\r\nHost: a.test\r\nContent-Length: {GIB}\r\n\r\n")).await;
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..GIB >> 20 {
        raw.send_bytes(&piece).await;
    }
    assert_eq!(raw.answer().await.unwrap().status, 200);
    let received = upstream.last();
    assert_eq!((received.body.len, received.body.whole), (GIB, true));
    let grown = gateway.peak_kib().saturating_sub(before);
    assert!(grown <= BOUND_KIB, "{grown} KiB more at the peak than before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_down_costs_no_memory() {
    let upstream = Upstream::start().await;
    let (gateway, _folder) = gateway(&upstream).await;
    upstream.hold("/down");
    let before = gateway.resident_kib();
    let mut raw = Raw::connect(gateway.public, &gateway.invariants).await;
    raw.send("GET /down HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    let mut held = upstream.held().await;
    held.write(&format!("HTTP/1.1 200 OK\r\nx-test-upstream: yes\r\nContent-Length: {GIB}\r\n\r\n")).await;
    let pouring = tokio::spawn(async move { held.pour(usize::try_from(GIB).unwrap()).await });
    let answer = raw.answer().await.unwrap();
    assert_eq!((answer.body.len, answer.body.whole), (GIB, true));
    soon("the service to be done", pouring).await.unwrap().unwrap();
    let grown = gateway.peak_kib().saturating_sub(before);
    assert!(grown <= BOUND_KIB, "{grown} KiB more at the peak than before");
}
