//! Looking after the servers: who is asked, whether they are there, and whether they are back. No request waits for any
//! of it.

use std::sync::{Arc, atomic::Ordering};

use futures_util::future::{join_all, select_ok};
use redis::RedisError;
use tokio::time::{sleep, timeout};

use super::{
    CallResult, LOOK, Purpose, Question, Quota, Redis,
    node::Node,
    sentinel::Sentinels,
    slots::{Map, Master},
    words,
};

impl Redis {
    /// Looks after lost servers and an old map, for ever.
    pub async fn maintain(&self) {
        loop {
            if self.is_up() && !self.outdated.load(Ordering::Acquire) {
                match &self.sentinels {
                    None => self.trouble.notified().await,
                    Some(_) => {
                        if timeout(LOOK, self.trouble.notified()).await.is_err() {
                            let _ = self.check().await;
                            continue;
                        }
                    }
                }
            }
            // A map is read at once: what has moved is counted alone until then. But not again and again.
            if self.outdated.load(Ordering::Acquire) {
                let _ = self.check().await;
            }
            sleep(self.retry).await;
            if !self.is_up() {
                let _ = self.check().await;
            }
        }
    }

    /// Whether it answers now, every master of a cluster; connects to whoever was lost. The error is for the operator.
    ///
    /// # Errors
    /// What stands in the way, in words without a secret.
    pub async fn check(&self) -> Result<(), String> {
        let checked = self.check_all().await;
        if checked.is_err() {
            self.tell_lost();
            return checked;
        }
        if self.told_lost.swap(false, Ordering::Relaxed) {
            tracing::info!("Redis answers: shared limits are counted by all gateways together");
        }
        self.observer.lost(false);
        Ok(())
    }

    async fn check_all(&self) -> Result<(), String> {
        let is_old = self.is_cluster && (self.outdated.load(Ordering::Acquire) || !self.is_up());
        let read = match &self.sentinels {
            Some(sentinels) => self.find_master(sentinels).await,
            None if is_old => self.read_map().await,
            None => Ok(()),
        };
        let map = self.map.load_full();
        let checks = map.masters().iter().map(|master| self.check_one(master));
        let outcomes = join_all(checks).await;
        // A master that answers goes on counting while no sentinel does.
        if self.sentinels.is_none() || map.masters().is_empty() {
            read?;
        }
        outcomes.into_iter().collect()
    }

    async fn check_one(&self, master: &Master) -> Result<(), String> {
        let node = &master.node;
        let connection = match node.connection() {
            Some(connection) => connection,
            None => match node.connect().await {
                Ok(connection) => Arc::new(connection),
                Err(error) => {
                    self.observer.called(Purpose::Probe, CallResult::Failed);
                    return Err(words(&error));
                }
            },
        };
        // Full again at once, so that every probe writes.
        let quota = Quota { each_micros: 1.0, burst: 1 };
        let probe = Question { key: &master.probe, quota: &quota, wanted: 1, purpose: Purpose::Probe };
        let mut limit = Box::pin(sleep(self.deadline));
        match self.run(node, &connection, &probe, None, limit.as_mut()).await {
            Ok(_) => {
                node.found(connection);
                Ok(())
            }
            Err(why) => Err(why.words(self.deadline)),
        }
    }

    async fn find_master(&self, sentinels: &Sentinels) -> Result<(), String> {
        let (host, port) = sentinels.master().await?;
        if self.map.load().masters().iter().any(|master| master.node.is_at(&host, port)) {
            return Ok(());
        }
        tracing::info!(server = %host, port, "sentinels name a master of Redis");
        let node = sentinels.server(&(host, port)).map_err(|error| words(&error))?;
        self.map.store(Arc::new(Map::single(Arc::new(node), &self.prefix)));
        Ok(())
    }

    /// Whether this server is asked no more.
    pub(super) fn was_replaced(&self, node: &Arc<Node>) -> bool {
        self.sentinels.is_some() && !self.map.load().masters().iter().any(|master| Arc::ptr_eq(&master.node, node))
    }

    /// Asks everybody who may know for the map; the first answer counts. A wrong one is found out by those it sends wrong.
    async fn read_map(&self) -> Result<(), String> {
        self.outdated.store(false, Ordering::Release);
        let old = self.map.load_full();
        let known = old.masters().iter().map(|master| &master.node).chain(&self.seeds);
        let asked = known.map(|node| Box::pin(async move { Ok((node, node.slots().await?)) }));
        let asked = select_ok(asked).await;
        let outcome = asked
            .map_err(|error: RedisError| words(&error))
            .and_then(|((from, slots), _)| old.next(&slots, from, &self.prefix).map_err(|error| words(&error)));
        match outcome {
            Ok(map) => {
                self.map.store(Arc::new(map));
                Ok(())
            }
            Err(why) => {
                self.outdated.store(true, Ordering::Release);
                Err(format!("nobody tells the cluster's map: {why}"))
            }
        }
    }
}
