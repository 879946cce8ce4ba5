//! Questions of other proxies, as each of them puts them: may this request be forwarded? Written by hand, so that a
//! test may also put them wrongly. (The invariants of answers do not hold of "yes": it tells identities.)

use std::net::SocketAddr;

use tokio::net::TcpSocket;

use crate::harness::{
    soon,
    wire::{Conn, Framing, Head},
};

/// Whom the gateways under test answer.
pub(crate) const PROXY: &str = "127.0.0.9";

/// Every proxy there is an endpoint for.
pub(crate) const PROXIES: [&str; 4] = ["nginx", "traefik", "caddy", "envoy"];

/// The host that clients ask the proxy for.
pub(crate) const HOST: &str = "rag.test";

/// The answer to a question.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) status: u16,
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

impl Decided {
    /// `code` of a problem document.
    pub(crate) fn code(&self) -> String {
        let document: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        document["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The status of the refusal, whatever its proxy is told.
    pub(crate) fn true_status(&self) -> u16 {
        self.head.header("x-gateway-status").map_or(self.status, |status| status.parse().unwrap())
    }
}

/// Start line and headers of the question whether `method uri` may be forwarded.
pub(crate) fn question(proxy: &str, method: &str, uri: &str) -> (String, Vec<(String, String)>) {
    let (line, fields) = match proxy {
        "nginx" => (
            "GET /auth/forward/nginx".to_owned(),
            vec![("Host", HOST), ("X-Original-Method", method), ("X-Original-URI", uri)],
        ),
        "traefik" | "caddy" => (
            format!("GET /auth/forward/{proxy}"),
            vec![
                ("Host", "gateway.internal"),
                ("X-Forwarded-Method", method),
                ("X-Forwarded-Uri", uri),
                ("X-Forwarded-Host", HOST),
            ],
        ),
        "envoy" => (format!("{method} /auth/forward/envoy{uri}"), vec![("Host", HOST)]),
        other => panic!("no such proxy: {other}"),
    };
    (line, fields.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// Puts it, with these headers of the client's, from that address, on a connection of its own.
pub(crate) async fn ask(
    gateway: SocketAddr,
    from: &str,
    (line, fields): &(String, Vec<(String, String)>),
    client: &[(&str, &str)],
) -> Decided {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    let mut conn = Conn::new(socket.connect(gateway).await.unwrap());
    let all = fields.iter().map(|(name, value)| (&**name, &**value)).chain(client.iter().copied());
    let lines: Vec<_> = all.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let text = format!("{line} HTTP/1.1\r\n{}\r\n", lines.concat());
    soon("the gateway to take the question", conn.write(text.as_bytes())).await.unwrap();
    let head = soon("an answer's head", conn.head()).await.expect("an answer");
    let length = if line.starts_with("HEAD ") { 0 } else { head.header("content-length").unwrap().parse().unwrap() };
    let body = soon("an answer's body", conn.body(Framing::Length(length))).await;
    Decided { status: head.word(1).parse().unwrap(), head, body: body.bytes }
}
