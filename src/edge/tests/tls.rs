//! TLS: the handshake's time-out, ALPN, failures.

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::aws_lc_rs, pki_types::PrivatePkcs8KeyDer};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::config::settings::ServerTls;

/// A listener with a fresh certificate, and a client that trusts it.
fn tls(alpn: &[&str]) -> (Listener, TlsConnector) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("makes a certificate");
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![made.cert.der().clone()],
            PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into(),
        )
        .expect("a key that fits");
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a root");
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let mut listener = listener();
    listener.tls = Some(ServerTls { config: Arc::new(server) });
    (listener, TlsConnector::from(Arc::new(client)))
}

async fn connect(server: &Server, connector: &TlsConnector) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(server.address).await.expect("connects");
    connector.connect("localhost".try_into().expect("a name"), stream).await.expect("shakes hands")
}

#[tokio::test]
async fn a_silent_handshake_is_cut() {
    let (mut listener, _) = tls(&[]);
    listener.timeouts.tls_handshake = SHORT;
    let server = Server::start(&listener, echo());
    assert_eq!(server.connect().await.closed().await, "");
    assert_eq!(server.errors(ConnectionError::Tls), 1);
}

#[tokio::test]
async fn a_slow_handshake_is_cut() {
    let (mut listener, _) = tls(&[]);
    listener.timeouts.tls_handshake = SHORT;
    let server = Server::start(&listener, echo());
    let mut client = server.connect().await;
    // The beginning of a ClientHello of 512 bytes.
    client.send("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0").await;
    assert_eq!(client.closed().await, "");
    assert_eq!(server.errors(ConnectionError::Tls), 1);
}

#[tokio::test]
async fn plaintext_on_a_tls_port_is_refused() {
    let (listener, _) = tls(&[]);
    let server = Server::start(&listener, echo());
    let mut client = server.connect().await;
    client.send(GET).await;
    client.closed().await;
    until(|| server.errors(ConnectionError::Tls) == 1).await;
}

#[tokio::test]
async fn silence_after_the_handshake_is_cut() {
    for alpn in ["h2", "http/1.1"] {
        let (mut listener, connector) = tls(&[alpn]);
        listener.timeouts.first_byte = SHORT;
        let server = Server::start(&listener, echo());
        let mut client = connect(&server, &connector).await;
        let _ = patiently(client.read_to_end(&mut Vec::new())).await;
        assert_eq!(server.errors(ConnectionError::Timeout), 1, "{alpn}");
    }
}

#[tokio::test]
async fn http1_is_served_and_the_request_knows_of_tls() {
    for alpn in [&["http/1.1"][..], &[]] {
        let (listener, connector) = tls(alpn);
        let server = Server::start(&listener, echo());
        let mut client = connect(&server, &connector).await;
        client.write_all(b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("writes");
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("closes with close_notify");
        assert!(answer.ends_with("GET /a 0 tls=true"), "{answer}");
    }
}

#[tokio::test]
async fn a_parked_tls_connection_serves_again() {
    let (mut listener, connector) = tls(&["http/1.1"]);
    listener.timeouts.idle = SHORT * 40;
    let server = Server::start(&listener, echo());
    let mut client = connect(&server, &connector).await;
    for _ in 0..2 {
        client.write_all(GET.as_bytes()).await.expect("writes");
        let mut answer = vec![];
        while !answer.ends_with(b"tls=true") {
            answer.push(client.read_u8().await.expect("an answer"));
        }
        until(|| server.metrics.connections_parked.get() == 1).await;
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_order() {
    let (mut listener, connector) = tls(&["http/1.1"]);
    listener.timeouts.idle = SHORT;
    let server = Server::start(&listener, echo());
    let mut client = connect(&server, &connector).await;
    client.write_all(GET.as_bytes()).await.expect("writes");
    patiently(client.read_to_end(&mut Vec::new())).await.expect("a close_notify");
    assert_eq!(server.drained().await.connections.of(ConnectionResult::Retired).get(), 1);
}

#[tokio::test]
async fn an_answer_that_is_cut_does_not_look_whole() {
    use futures_util::{StreamExt, stream};
    let (listener, connector) = tls(&["http/1.1"]);
    // The upstream falls silent, so the socket is free to take an alert.
    let silent = service_fn(|_: Request<GateBody>| async {
        let first = stream::once(async { Ok(http_body::Frame::data(bytes::Bytes::from_static(b"first"))) });
        let body = http_body_util::StreamBody::new(first.chain(stream::pending()));
        Ok::<_, Infallible>(Response::new(GateBody::boxed(body)))
    });
    let server = Server::with_drain(&listener, SHORT, silent);
    let mut client = connect(&server, &connector).await;
    client.write_all(GET.as_bytes()).await.expect("writes");
    client.read_u8().await.expect("the answer begins");
    let metrics = server.drained().await;
    assert_eq!(metrics.connections.of(ConnectionResult::Cut).get(), 1);
    patiently(client.read_to_end(&mut Vec::new())).await.expect_err("truncated");
}

#[tokio::test]
async fn http2_is_chosen_by_alpn() {
    let (listener, connector) = tls(&["h2", "http/1.1"]);
    let server = Server::start(&listener, echo());
    let stream = connect(&server, &connector).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("shakes hands");
    let driven = tokio::spawn(connection);
    let request = Request::get("https://localhost/a").body(Empty::<bytes::Bytes>::new()).expect("a request");
    let body = sender.send_request(request).await.expect("an answer").into_body().collect().await.expect("a body");
    assert_eq!(body.to_bytes(), "GET /a 0 tls=true");
    driven.abort();
}
