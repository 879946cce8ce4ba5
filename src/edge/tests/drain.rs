//! Draining, and how many connections may be open.

use tokio::sync::{Notify, mpsc};

use super::*;

/// Says when it is called and answers when it is told to.
fn held() -> (impl Gate, mpsc::UnboundedReceiver<()>, Arc<Notify>) {
    let (called, calls) = mpsc::unbounded_channel();
    let release = Arc::new(Notify::new());
    let held = Arc::clone(&release);
    let gate = service_fn(move |_: Request<GateBody>| {
        let (called, held) = (called.clone(), Arc::clone(&held));
        async move {
            let _ = called.send(());
            held.notified().await;
            Ok::<_, Infallible>(Response::new(GateBody::full("done")))
        }
    });
    (gate, calls, release)
}

#[tokio::test]
async fn a_drain_closes_idle_connections_and_lets_running_requests_finish() {
    let (gate, mut calls, release) = held();
    let server = Server::start(&listener(), gate);
    let (mut silent, mut idle, mut running) = (server.connect().await, server.connect().await, server.connect().await);
    idle.send(GET).await;
    calls.recv().await.expect("called");
    release.notify_one();
    idle.answer().await;
    running.send(GET).await;
    calls.recv().await.expect("called");

    let address = server.address;
    let drained = tokio::spawn(server.drained());
    assert_eq!(silent.closed().await, "");
    assert_eq!(idle.closed().await, "");
    assert!(TcpStream::connect(address).await.is_err(), "nothing is accepted any more");
    assert!(!drained.is_finished());

    release.notify_one();
    let answer = running.closed().await;
    assert!(answer.contains("connection: close") && answer.ends_with("done"), "{answer}");
    drop(running);
    assert_eq!(drained.await.expect("ends").connections.of(ConnectionResult::Retired).get(), 3);
}

#[tokio::test]
async fn a_drain_cuts_what_does_not_finish() {
    let (gate, mut calls, _release) = held();
    let server = Server::with_drain(&listener(), SHORT, gate);
    let mut running = server.connect().await;
    running.send(GET).await;
    calls.recv().await.expect("called");
    let metrics = server.drained().await;
    assert_eq!(running.closed().await, "");
    assert_eq!(metrics.connections.of(ConnectionResult::Cut).get(), 1);
}

#[tokio::test]
async fn a_full_listener_lets_clients_wait() {
    let (gate, mut calls, release) = held();
    let mut listener = listener();
    listener.max_connections = 1;
    let server = Server::start(&listener, gate);
    let mut first = server.connect().await;
    first.send(GET).await;
    calls.recv().await.expect("called");
    let mut second = server.connect().await;
    second.send(GET).await;
    // Each round gives the listener its turn.
    for _ in 0..10 {
        release.notify_one();
        first.answer().await;
        first.send(GET).await;
        calls.recv().await.expect("called");
        assert_eq!(server.metrics.connections_open.get(), 1, "the second waits in the kernel");
    }

    release.notify_one();
    first.answer().await;
    drop(first);
    calls.recv().await.expect("the second is served once the first has gone");
    release.notify_one();
    assert!(second.answer().await.ends_with("done"));
}

#[tokio::test]
async fn a_panicking_gate_costs_one_connection_only() {
    let server = Server::start(
        &listener(),
        service_fn(|request: Request<GateBody>| async move {
            assert_ne!(request.uri().path(), "/panic", "a test's panic");
            Ok::<_, Infallible>(Response::new(GateBody::full("fine")))
        }),
    );
    let mut unlucky = server.connect().await;
    unlucky.send("GET /panic HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(unlucky.closed().await, "");
    let mut lucky = server.connect().await;
    lucky.send(GET).await;
    assert!(lucky.answer().await.ends_with("fine"));
    server.drained().await;
}

#[tokio::test]
async fn a_taken_port_is_a_fault_that_names_the_address() {
    let server = Server::start(&listener(), echo());
    let mut taken = listener();
    taken.bind = server.address;
    let fault = Edge::bind(&taken, LONG, Arc::new(Metrics::new()), None).err().expect("taken");
    assert!(fault.to_string().contains(&server.address.to_string()), "{fault}");
}
