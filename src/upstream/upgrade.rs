//! A WebSocket's handshake with an endpoint (RFC 6455 §4) and the connection that is left of it. What flows over it
//! then is [`crate::gate::tunnel`]'s.
//!
//! hyper's own `upgrade::on` would box both sides and need a task to wait on each; a [`Line`] keeps its finished
//! connection instead and is taken apart.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http::{
    HeaderMap, HeaderValue, Request, Response,
    header::{CONNECTION, UPGRADE},
};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use crate::{
    gate::{
        body::GateBody,
        exchange::Exchange,
        refusal::Refusal,
        snapshot::RouteEntry,
        stage::Outcome,
        tunnel::{Lasts, Tunnel},
    },
    policy::{
        headers,
        reason::Reason,
        websocket::{self, Accept},
    },
    telemetry::traces::ChildSpan,
    upstream::{connect::Stream, endpoint::EndpointUse, line::Line},
};

/// Whether a request is a handshake that its route lets through, before its hop-by-hop headers are taken off.
pub(super) fn asked(request: &Request<GateBody>, route: &RouteEntry) -> Result<Option<Accept>, Refusal> {
    if !route.websocket {
        return Ok(None);
    }
    let has_body = !matches!(request.body(), GateBody::Empty);
    websocket::asked(request.method(), request.version(), request.headers(), has_body)
        .map_err(|fault| Refusal::because(Reason::HeaderInvalid, fault.to_string()))
}

/// Says again what was taken off.
pub(super) fn ask(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// The answer that turns the client's connection into a tunnel over `line`, which has just switched.
pub(super) fn tunnel(
    response: Response<Incoming>,
    line: Line,
    endpoint: EndpointUse,
    exchange: Exchange,
    (span, total): (Option<Box<ChildSpan>>, Option<Pin<Box<Sleep>>>),
) -> Outcome {
    let (stream, unread) = line.into_switched().ok_or_else(|| Refusal::internal("a line switched and goes on"))?;
    let service = Service { io: TokioIo::new(stream), unread, _endpoint: endpoint, _span: span };
    let lasts = Lasts { idle: exchange.route()?.timeouts.tunnel_idle, total };
    let (snapshot, record) = (Arc::clone(exchange.snapshot()), Arc::clone(exchange.record()));
    let (mut head, _) = response.into_parts();
    headers::strip_hop_by_hop(&mut head.headers);
    headers::strip_reserved_response(&mut head.headers, &snapshot.own_cookies);
    headers::strip_own(&mut head.headers, &snapshot.identity_headers);
    ask(&mut head.headers);
    let tunnel = Tunnel::new(Box::new(service), lasts, exchange.into_caller(), &snapshot.open_streams, record);
    let mut answer = Response::new(GateBody::Tunnel(Box::new(tunnel)));
    *answer.status_mut() = head.status;
    *answer.headers_mut() = head.headers;
    Ok(answer)
}

/// The connection, and what came over it behind the head. Counts as a request in flight.
struct Service {
    io: TokioIo<Stream>,
    unread: Bytes,
    _endpoint: EndpointUse,
    _span: Option<Box<ChildSpan>>,
}

impl AsyncRead for Service {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unread.has_remaining() {
            let part = self.unread.len().min(buf.remaining());
            buf.put_slice(&self.unread.split_to(part));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Service {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
