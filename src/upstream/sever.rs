//! Severs the connection an upload goes over when the exchange is given up.
//!
//! A call that is dropped makes hyper close its connection, but only after everything written has been taken: a service
//! that has stopped reading would keep that connection, the rest of the body and the client's connection behind it for
//! as long as it likes. So each connection has a switch that makes its next write fail that would block, and a request
//! with a body carries an [`Uploading`] that throws it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use http::{Extensions, Request};
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};

use crate::gate::{body::GateBody, guard::Upload};

/// The switch of one connection.
#[derive(Debug, Clone, Default)]
pub struct Switch(Arc<State>);

#[derive(Debug, Default)]
struct State {
    thrown: AtomicBool,
    writer: AtomicWaker,
}

impl Switch {
    fn throw(&self) {
        self.0.thrown.store(true, Ordering::Release);
        self.0.writer.wake();
    }

    /// To be asked with the outcome of a write: that outcome, or an error once the switch is thrown.
    pub(super) fn check<T>(&self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            return polled;
        }
        self.0.writer.register(cx.waker());
        if self.0.thrown.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Poll::Pending
    }
}

/// A request's body on its way to a service. Dropped before the exchange is over, it severs the connection.
#[derive(Debug)]
pub struct Uploading {
    connection: CaptureConnection,
    upload: Arc<Upload>,
    answered: bool,
}

impl Uploading {
    /// Watches a request that is about to be sent.
    #[must_use]
    pub fn begin(request: &mut Request<GateBody>, upload: &Arc<Upload>) -> Self {
        Self { connection: capture_connection(request), upload: Arc::clone(upload), answered: false }
    }

    /// The whole answer has been read.
    pub fn answered(&mut self) {
        self.answered = true;
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        if self.answered && self.upload.done() {
            return;
        }
        // None: it was never sent.
        if let Some(connected) = &*self.connection.connection_metadata() {
            let mut extras = Extensions::new();
            connected.get_extras(&mut extras);
            if let Some(switch) = extras.get::<Switch>() {
                switch.throw();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn pending(switch: &Switch) -> Poll<io::Result<usize>> {
        switch.check(Poll::Pending, &mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_write_waits_until_the_switch_is_thrown() {
        let switch = Switch::default();
        assert!(pending(&switch).is_pending());
        switch.throw();
        assert!(
            matches!(pending(&switch), Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted)
        );
    }

    #[test]
    fn what_was_written_was_written() {
        let switch = Switch::default();
        switch.throw();
        let polled = switch.check(Poll::Ready(Ok(3)), &mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Ok(3))));
    }
}
