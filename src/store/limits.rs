//! One limit as the pipeline asks it: counted in this process alone, or by all gateways together in Redis.
//!
//! A shared limit is decided here when a lease or a refusal that still holds is at hand, and by Redis otherwise; only
//! then does a request wait, one deadline at most. While Redis, or in a cluster the key's master, is lost, or has as
//! many questions of ours as it may have at once, this process's own counter decides, by the whole limit. That counter
//! is charged all along, so that an outage does not hand everybody a fresh burst.

use std::{pin::Pin, sync::Arc};

use super::{
    memory::{
        leases::{Grant, Leases, Spend},
        limits::{CounterKey, Decision, LimitCounter},
    },
    redis::{Purpose, Quota, Redis},
};
use crate::{
    clock::Tick,
    config::settings::{self, LimitScope},
};

/// Whether a request is within a limit, now or once Redis has answered.
pub enum Charge {
    /// Decided; nothing to wait for.
    Decided(Decision),
    /// Redis must be asked. Always ends within the deadline.
    Waits(Waiting),
}

/// A decision that is waited for. Dropped, the request may still be charged.
pub type Waiting = Pin<Box<dyn Future<Output = Decision> + Send>>;

/// The counters of one configured limit.
#[derive(Debug)]
pub struct Limiter {
    local: LimitCounter,
    shared: Option<Shared>,
}

#[derive(Debug)]
struct Shared {
    redis: Arc<Redis>,
    leases: Leases,
    quota: Quota,
    prefix: String,
}

impl Shared {
    async fn ask(&self, key: &CounterKey, wanted: u32, purpose: Purpose) -> Option<Grant> {
        self.redis.ask(&self.bucket(key), &self.quota, wanted, purpose).await.ok()
    }

    fn bucket(&self, key: &CounterKey) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Whether who counts this key is there.
    fn is_up(&self, key: &CounterKey) -> bool {
        self.redis.is_up_for(|| self.bucket(key))
    }
}

impl Limiter {
    /// Counters for at most `max_keys` keys at once. Without a Redis every limit is this process's own.
    #[must_use]
    pub fn new(limit: &settings::Limit, redis: Option<&Arc<Redis>>, max_keys: usize) -> Self {
        let shared = match (limit.scope, redis) {
            (LimitScope::Shared { lease }, Some(redis)) => Some(Shared {
                redis: Arc::clone(redis),
                leases: Leases::new(limit, lease, max_keys),
                quota: Quota::of(limit),
                prefix: redis.prefix_of(&limit.name),
            }),
            _ => None,
        };
        Self { local: LimitCounter::new(limit, max_keys), shared }
    }

    /// The refusal a request would meet, as far as is known here; counts nothing and never waits. Of a shared limit
    /// what Redis last refused is known, until the next request could be admitted.
    #[must_use]
    pub fn refusal(&self, key: &CounterKey, now: Tick) -> Option<Decision> {
        if let Some(shared) = self.shared.as_ref().filter(|shared| shared.is_up(key)) {
            return shared.leases.refusal(key, now);
        }
        let peeked = self.local.peek(key, now);
        matches!(peeked, Decision::Refused { .. }).then_some(peeked)
    }

    /// Counts one request, if it is within the limit.
    pub fn charge(self: &Arc<Self>, key: &CounterKey, now: Tick) -> Charge {
        let Some(shared) = &self.shared else { return Charge::Decided(self.local.charge(key, now)) };
        if !shared.is_up(key) {
            return Charge::Decided(self.alone(shared, key, now));
        }
        match shared.leases.spend(key, now) {
            Spend::Decided { decision, take } => {
                if matches!(decision, Decision::Admitted { .. }) {
                    self.local.charge(key, now);
                }
                self.take_ahead(key, now, take);
                Charge::Decided(decision)
            }
            Spend::Ask => {
                let (this, key) = (Arc::clone(self), *key);
                Charge::Waits(Box::pin(async move { this.asked(&key, now).await }))
            }
        }
    }

    /// Counts one request whose outcome does not matter, and never waits.
    pub fn charge_unasked(self: &Arc<Self>, key: &CounterKey, now: Tick) {
        if let Charge::Waits(waiting) = self.charge(key, now) {
            tokio::spawn(waiting);
        }
    }

    /// Keys held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.local.len().max(self.shared.as_ref().map_or(0, |shared| shared.leases.len()))
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn alone(&self, shared: &Shared, key: &CounterKey, now: Tick) -> Decision {
        shared.redis.counted_alone();
        self.local.charge(key, now)
    }

    async fn asked(self: Arc<Self>, key: &CounterKey, now: Tick) -> Decision {
        let Some(shared) = &self.shared else { return self.local.charge(key, now) };
        let Some(grant) = shared.ask(key, 1, Purpose::Charge).await else { return self.alone(shared, key, now) };
        let take = shared.leases.asked(key, now, &grant);
        self.take_ahead(key, now, take);
        if grant.given == 0 {
            return Decision::Refused { retry_after: grant.retry_after, reset: grant.full_in };
        }
        self.local.charge(key, now);
        Decision::Admitted { remaining: grant.remaining, reset: grant.full_in }
    }

    /// In a task of its own: a client that hangs up must not lose what was granted to all requests of its key.
    fn take_ahead(self: &Arc<Self>, key: &CounterKey, now: Tick, take: Option<u32>) {
        if let Some(wanted) = take {
            let (this, key) = (Arc::clone(self), *key);
            tokio::spawn(async move {
                if let Some(shared) = &this.shared {
                    let grant = shared.ask(&key, wanted, Purpose::Lease).await;
                    shared.leases.granted(&key, now, grant.as_ref());
                }
            });
        }
    }
}
