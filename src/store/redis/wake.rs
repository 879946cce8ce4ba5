//! Calls between gateways: that the feed of their store has grown. A message carries nothing, and may be lost; each
//! gateway reads the store once a second whether it was called or not.

use futures_util::StreamExt;
use redis::{RedisResult, aio::MultiplexedConnection};
use tokio::time::timeout;

use super::{CONNECT, Redis};

impl Redis {
    /// Calls the other gateways; to no avail while Redis is lost.
    pub async fn call_gateways(&self) {
        let Some(connection) = self.connection.load_full() else { return };
        let mut channel = MultiplexedConnection::clone(&connection);
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(self.feed_channel()).arg("");
        // Whether Redis is lost is told by those who ask it something.
        let _ = timeout(self.deadline, publish.query_async::<()>(&mut channel)).await;
    }

    /// Lets `wake` be called by other gateways, and when it may have missed a call, until Redis is lost.
    pub async fn called_by_gateways(&self, wake: &(dyn Fn() + Send + Sync)) {
        let listening = async {
            let mut listener = self.client.get_async_pubsub().await?;
            listener.subscribe(self.feed_channel()).await?;
            RedisResult::Ok(listener)
        };
        let Ok(Ok(mut listener)) = timeout(CONNECT, listening).await else { return };
        wake();
        let mut messages = listener.on_message();
        while messages.next().await.is_some() {
            wake();
        }
    }

    fn feed_channel(&self) -> String {
        format!("{}feed", self.prefix)
    }
}
