//! The bytes of one connection, plain or TLS, and what they tell the watch.

use std::{
    io,
    io::IoSlice,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use super::{frames::Frames, vitals::Vitals};

/// A client's socket. One type for both kinds, so that hyper's connection is compiled once.
#[derive(Debug)]
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// Ready when the socket has bytes (true) or its end (false). Peeks, since a readiness event alone may be stale.
    /// Valid for TLS only while rustls holds no decrypted bytes, which is so after a read that was pending.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let stream = match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_mut().0,
        };
        stream.poll_peek(cx, &mut ReadBuf::new(&mut [0])).map_ok(|peeked| peeked > 0)
    }
}

impl Transport {
    /// Ends our side of the socket without TLS's word for a proper end (RFC 8446 §6.1): what was cut must not look whole.
    fn cut(&mut self, cx: &mut Context<'_>) {
        let stream = match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_mut().0,
        };
        // At once, whatever the socket still has to send.
        let _ = Pin::new(stream).poll_shutdown(cx);
    }
}

/// A transport that reports to its connection's vitals.
#[derive(Debug)]
pub(super) struct Wire {
    transport: Transport,
    vitals: Arc<Vitals>,
    /// Bytes already read that belong to the next request; none on HTTP/2, which is not parked.
    kept: Bytes,
    /// On HTTP/2 only.
    frames: Option<Frames>,
}

impl Wire {
    pub(super) fn new(transport: Transport, kept: Bytes, vitals: Arc<Vitals>) -> Self {
        Self { transport, vitals, kept, frames: None }
    }

    /// One that carries HTTP/2.
    pub(super) fn http2(transport: Transport, vitals: Arc<Vitals>) -> Self {
        Self { transport, vitals, kept: Bytes::new(), frames: Some(Frames::default()) }
    }

    /// The transport, and bytes that nobody has read yet.
    pub(super) fn into_parts(self) -> (Transport, Bytes) {
        (self.transport, self.kept)
    }

    /// Ends our side of the socket in the middle of an answer.
    pub(super) fn cut(&mut self, cx: &mut Context<'_>) {
        self.transport.cut(cx);
    }

    fn note_write(&self, polled: &Poll<io::Result<usize>>) {
        match polled {
            Poll::Ready(Ok(_)) => self.vitals.wrote(),
            Poll::Ready(Err(_)) => self.vitals.gone(),
            Poll::Pending => self.vitals.blocked(),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.kept.has_remaining() {
            let room = self.kept.len().min(buf.remaining());
            let part = self.kept.split_to(room);
            buf.put_slice(&part);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        match &polled {
            Poll::Ready(Ok(())) if buf.filled().len() > before => {
                let this = &mut *self;
                this.vitals.read();
                if let Some(frames) = &mut this.frames {
                    frames.came(&buf.filled()[before..]);
                    this.vitals.under_way(frames.under_way());
                    this.vitals.came(frames.tally());
                }
            }
            Poll::Ready(_) => self.vitals.gone(),
            Poll::Pending => {}
        }
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        self.note_write(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        self.note_write(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        // TLS may accept bytes that the socket then does not take.
        if polled.is_pending() {
            self.vitals.blocked();
        }
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
