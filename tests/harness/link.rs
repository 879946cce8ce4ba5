//! A link between a gateway and a store that can fail in the ways networks do: cut, frozen, slow. The gateway connects
//! to a TCP port, the server is behind a UNIX socket.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    task::JoinHandle,
};

/// What the link does to whatever goes over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Whole,
    /// Connections are reset, new ones too.
    Cut,
    /// Connections stay open, new ones are taken, and nothing passes.
    Frozen,
    /// Passes in so many bytes at a time, with a pause before each.
    Slow(usize, Duration),
}

/// See the module.
pub(crate) struct Link {
    address: SocketAddr,
    state: watch::Sender<State>,
    accepting: JoinHandle<()>,
}

impl Link {
    pub(crate) async fn to(server: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, seen) = watch::channel(State::Whole);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server.clone(), seen.clone()));
            }
        });
        Self { address, state, accepting }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    pub(crate) fn freeze(&self) {
        self.state.send_replace(State::Frozen);
    }

    pub(crate) fn slow(&self, bytes: usize, pause: Duration) {
        self.state.send_replace(State::Slow(bytes, pause));
    }

    pub(crate) fn heal(&self) {
        self.state.send_replace(State::Whole);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(client: TcpStream, server: PathBuf, seen: watch::Receiver<State>) {
    // Whenever it is closed by us it is closed as a broken link is: without a goodbye.
    client.set_zero_linger().unwrap();
    let mut cut = seen.clone();
    let carried = async {
        let (from_client, to_client) = tokio::io::split(client);
        let Ok(server) = UnixStream::connect(server).await else { return };
        let (from_server, to_server) = tokio::io::split(server);
        // Whichever side ends first ends both: neither protocol closes one direction alone.
        tokio::select! {
            () = pump(from_client, to_server, seen.clone()) => {}
            () = pump(from_server, to_client, seen) => {}
        }
    };
    tokio::select! {
        () = carried => {}
        _ = cut.wait_for(|state| *state == State::Cut) => {}
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut state: watch::Receiver<State>) {
    let mut buffer = [0; 16_384];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        // What was under way when the link froze arrives after it.
        let Ok(now) = state.wait_for(|state| *state != State::Frozen).await.map(|state| *state) else { return };
        let (chunk, pause) = if let State::Slow(bytes, pause) = now { (bytes, pause) } else { (count, Duration::ZERO) };
        for piece in buffer[..count].chunks(chunk) {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            if to.write_all(piece).await.is_err() {
                return;
            }
        }
    }
    // A goodbye does not pass a frozen link either.
    let _ = state.wait_for(|state| *state != State::Frozen).await;
}
