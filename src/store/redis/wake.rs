//! Calls between gateways: that the feed of their store has grown. A message carries nothing, and may be lost; each
//! gateway reads the store once a second whether it was called or not. In a cluster any server passes a message on to
//! all others.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use redis::{RedisResult, Value, aio::MultiplexedConnection};
use tokio::time::timeout;

use super::{CONNECT, Redis, node::Node, words};

/// After so long without a call it is asked whether the connection still leads anywhere.
const QUIET: Duration = Duration::from_secs(5);

impl Redis {
    /// Calls the other gateways; to no avail while Redis is lost. Whoever does not take the message is lost from then on:
    /// else a gateway that shares no limits would never notice.
    pub async fn call_gateways(&self) {
        let map = self.map.load_full();
        for node in map.masters().iter().map(|master| &master.node) {
            let Some(connection) = node.connection() else { continue };
            let mut channel = MultiplexedConnection::clone(&connection);
            let mut publish = redis::cmd("PUBLISH");
            publish.arg(self.feed_channel()).arg("");
            match timeout(self.deadline, publish.query_async::<()>(&mut channel)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => self.lose(node, &connection, &words(&error)),
                Err(_) => self.lose(node, &connection, "no answer within the deadline"),
            }
        }
    }

    /// Lets `wake` be called by other gateways, and when it may have missed a call, until the server is lost.
    pub async fn called_by_gateways(&self, wake: &(dyn Fn() + Send + Sync)) {
        let map = self.map.load_full();
        let known = || map.masters().iter().map(|master| &master.node).chain(&self.seeds);
        // Whoever is there goes first.
        for node in known().filter(|node| node.is_up()).chain(known().filter(|node| !node.is_up())) {
            if self.called_over(node, wake).await {
                return;
            }
        }
    }

    /// Whether there was a connection, which has been lost.
    async fn called_over(&self, node: &Arc<Node>, wake: &(dyn Fn() + Send + Sync)) -> bool {
        let listening = async {
            let mut listener = node.client.get_async_pubsub().await?;
            listener.subscribe(self.feed_channel()).await?;
            RedisResult::Ok(listener)
        };
        let Ok(Ok(listener)) = timeout(CONNECT, listening).await else { return false };
        wake();
        let (mut line, mut messages) = listener.split();
        loop {
            match timeout(QUIET, messages.next()).await {
                Ok(Some(_)) => wake(),
                Ok(None) => return true,
                Err(_) if self.was_replaced(node) => return true,
                Err(_) => match timeout(CONNECT, line.ping::<Value>()).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) | Err(_) => return true,
                },
            }
        }
    }

    fn feed_channel(&self) -> String {
        format!("{}feed", self.prefix)
    }
}
