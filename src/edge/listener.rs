//! A listener, public or admin: what hyper is allowed (sizes, streams, resets), how many connections are accepted,
//! which certificates are shown now, and how all of it drains.

use std::{future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioExecutor;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::{
    Gate,
    conn::Conn,
    crowd::{Crowd, Place},
    drain::{Drain, Order},
    watch::Limits,
};
use crate::{
    config::settings,
    gate::floods::{Arriving, Floods},
    telemetry::metrics::{FloodKind, Metrics},
};

/// Connections that may wait in the kernel.
const BACKLOG: u32 = 4096;

/// How long accepting pauses when the process or the machine is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often a full listener looks for connections that could go, while a client waits.
const ROOM_AGAIN: Duration = Duration::from_millis(100);

/// hyper parses up to this many header fields on the stack; any other limit costs an allocation per request.
const HYPER_MAX_HEADERS: usize = 100;

/// What a read or write buffer may grow to: enough to fill the pipe in an upload, small enough to hold thousands.
const MAX_BUFFER: usize = 64 * 1024;

/// Streams a client may open and reset before it is thought hostile (CVE-2023-44487).
const H2_MAX_PENDING_RESETS: usize = 20;

/// Streams we may have to reset for the client's protocol errors before the connection ends (CVE-2025-8671).
const H2_MAX_LOCAL_RESETS: usize = 128;

/// Why the listener could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {cause}")]
pub struct BindFault {
    address: SocketAddr,
    #[source]
    cause: io::Error,
}

/// What new connections are shown: certificate and key of the listener, exchangeable while it accepts. Handshakes that
/// have begun and connections that stand keep what they began with.
#[derive(Clone)]
pub struct Certificates(Arc<ArcSwap<rustls::ServerConfig>>);

impl Certificates {
    fn new(tls: &settings::ServerTls) -> Self {
        Self(Arc::new(ArcSwap::new(Arc::clone(&tls.config))))
    }

    /// From the next connection on it is these.
    pub fn replace(&self, tls: &settings::ServerTls) {
        self.0.store(Arc::clone(&tls.config));
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.load_full())
    }
}

/// What the connections of one listener share.
pub(super) struct Shared {
    pub(super) tls: Option<Certificates>,
    pub(super) h2c: bool,
    pub(super) http1: http1::Builder,
    pub(super) http2: http2::Builder<TokioExecutor>,
    pub(super) max_headers: usize,
    pub(super) limits: Limits,
    pub(super) drain: Drain,
    crowd: Arc<Crowd>,
    /// `None`: nobody is refused early.
    pub(super) floods: Option<Arc<Floods>>,
    pub(super) metrics: Arc<Metrics>,
}

/// A bound listener that does not accept yet.
pub struct Edge {
    listener: TcpListener,
    shared: Arc<Shared>,
    slots: Arc<Semaphore>,
    max_connections: u32,
    drain: Duration,
}

impl Edge {
    /// Binds the listener. `drain`: how long [`Edge::serve`] waits for requests in flight before it cuts them. `floods`
    /// knows whom to refuse early. Needs a tokio runtime around it.
    pub fn bind(
        listener: &settings::Listener,
        drain: Duration,
        metrics: Arc<Metrics>,
        floods: Option<Arc<Floods>>,
    ) -> Result<Self, BindFault> {
        let socket = bind(listener.bind).map_err(|cause| BindFault { address: listener.bind, cause })?;
        // A semaphore counts in u32 when it is asked for everything; more connections than that do not exist.
        let max_connections = u32::try_from(listener.max_connections).unwrap_or(u32::MAX >> 3);
        let shared = Shared {
            tls: listener.tls.as_ref().map(Certificates::new),
            h2c: listener.h2c && listener.tls.is_none(),
            http1: http1_builder(listener),
            http2: http2_builder(listener),
            max_headers: listener.max_headers,
            limits: Limits::new(listener.timeouts),
            drain: Drain::default(),
            crowd: Arc::new(Crowd::new(listener.max_connections_per_address)),
            floods,
            metrics,
        };
        let slots = Arc::new(Semaphore::new(max_connections as usize));
        Ok(Self { listener: socket, shared: Arc::new(shared), slots, max_connections, drain })
    }

    /// Where it listens: the real port when 0 was asked for.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The listener's certificates, for whoever exchanges them; `None`: it is plaintext.
    #[must_use]
    pub fn certificates(&self) -> Option<Certificates> {
        self.shared.tls.clone()
    }

    /// Accepts until `shutdown` is ready, then drains and returns: no new connections, idle ones closed at once,
    /// running requests given their time, the rest cut.
    pub async fn serve<S: Gate>(self, gate: S, shutdown: impl Future<Output = ()>) {
        let Self { listener, shared, slots, max_connections, drain } = self;
        tokio::select! {
            biased;
            () = shutdown => {}
            () = accept_all(&listener, gate, &shared, &slots) => {}
        }
        drop(listener);
        shared.drain.give(Order::Drain);
        let mut all_gone = pin!(slots.acquire_many(max_connections));
        if timeout(drain, all_gone.as_mut()).await.is_err() {
            tracing::warn!(open = shared.metrics.connections_open.get(), "the drain's time is up: cutting");
            shared.drain.give(Order::Cut);
            // The semaphore is never closed; and a cut connection ends at its next poll.
            let _ = all_gone.await;
        }
    }
}

async fn accept_all<S: Gate>(listener: &TcpListener, gate: S, shared: &Arc<Shared>, slots: &Arc<Semaphore>) {
    loop {
        let (stream, peer) = accept(listener).await;
        let place = match shared.place(peer) {
            Ok(place) => place,
            Err(kind) => {
                shared.metrics.floods_refused.of(kind).inc();
                // A reset: no state of the connection stays in our kernel, and nothing is waited for.
                let _ = stream.set_zero_linger();
                continue;
            }
        };
        // When there is no slot this client waits here and the others in the kernel's queue.
        let Some(slot) = shared.slot(slots).await else { return };
        // Fails only on a socket that is already dead, which the connection will find out.
        let _ = stream.set_nodelay(true);
        tokio::spawn(Conn::new(stream, peer, gate.clone(), Arc::clone(shared), (place, slot)));
    }
}

impl Shared {
    /// Whether a client may connect, before anything is read of it.
    fn place(&self, peer: SocketAddr) -> Result<Place, FloodKind> {
        let counted = match self.floods.as_ref().map(|floods| floods.arriving(peer.ip())) {
            None | Some(Arriving::Trusted) => None,
            Some(Arriving::Welcome(address)) => Some(address),
            Some(Arriving::Refused(kind)) => return Err(kind),
        };
        self.crowd.enter(counted).ok_or(FloodKind::Held)
    }

    /// Room for one more; others may have to go. `None`: never, the semaphore is not closed.
    async fn slot(&self, slots: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        if let Ok(slot) = Arc::clone(slots).try_acquire_owned() {
            return Some(slot);
        }
        loop {
            self.drain.make_room(self.limits.now());
            if let Ok(slot) = timeout(ROOM_AGAIN, Arc::clone(slots).acquire_owned()).await {
                return slot.ok();
            }
        }
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if concerns_one_client(&error) => {}
            Err(error) => {
                // Out of descriptors or memory: trying again at once would spin.
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Errors of a connection that died in the queue, which Linux reports through `accept(2)`.
fn concerns_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkUnreachable,
        TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkUnreachable
            | TimedOut
    )
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for the old connections' TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn http1_builder(listener: &settings::Listener) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .max_header_size(listener.max_header_bytes)
        .max_buf_size(listener.max_header_bytes.max(MAX_BUFFER))
        // Answers leave at once: an SSE event must not wait for the next request.
        .pipeline_flush(false)
        // A client that closes its side has gone: the upstream call is cancelled.
        .half_close(false)
        .auto_date_header(true);
    if listener.max_headers != HYPER_MAX_HEADERS {
        builder.max_headers(listener.max_headers);
    }
    builder
}

fn http2_builder(listener: &settings::Listener) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .max_concurrent_streams(listener.h2_max_streams)
        // h2 derives its CONTINUATION limit from this one (CVE-2024-24549 and its kin).
        .max_header_list_size(u32::try_from(listener.max_header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(H2_MAX_PENDING_RESETS)
        .max_local_error_reset_streams(H2_MAX_LOCAL_RESETS)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_send_buf_size(MAX_BUFFER)
        .auto_date_header(true);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_out_of_descriptors_is_not_one_clients_fault() {
        let too_many_files = io::Error::from_raw_os_error(24);
        assert!(!concerns_one_client(&too_many_files));
        assert!(concerns_one_client(&io::ErrorKind::ConnectionAborted.into()));
    }
}
