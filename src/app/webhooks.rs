//! Delivers security events to webhooks, out of the store's outbox: at least once, whichever gateway comes first, again
//! and again for three days. Each webhook has a task of its own, so that a slow one holds up no other.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::MissedTickBehavior;

use crate::{
    app::Rim,
    config::settings::Webhook,
    policy::webhook::wait_after,
    store::{
        AuditEntry, AuditEvent, SharedStore, StoreFault,
        audit::{Actor, Detail, Particular},
        security::Message,
    },
    telemetry::metrics::{DeliveryResult, Metrics},
    upstream::webhook::deliver,
};

/// How often it is looked whether something is due.
const EVERY: Duration = Duration::from_secs(1);

/// Messages under way to one webhook from one gateway.
const AT_ONCE: u32 = 8;

/// How long a message is a gateway's own: longer than any attempt, so that it is tried twice at once only by mishap.
const CLAIM: Duration = Duration::from_secs(30);

/// How long a message is tried.
const PATIENCE: Duration = Duration::from_hours(72);

/// Messages that may wait for one webhook; of more, the oldest go.
const KEPT: u32 = 10_000;

/// How often surplus messages are dropped.
const TRIM: Duration = Duration::from_mins(1);

/// What delivers to one webhook.
pub(super) struct Delivery {
    pub(super) webhook: Arc<Webhook>,
    pub(super) store: SharedStore,
    pub(super) rim: Rim,
    pub(super) metrics: Arc<Metrics>,
}

impl Delivery {
    /// For ever.
    pub(super) async fn run(self) {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut trim = tokio::time::interval(TRIM);
        let mut failing = false;
        loop {
            let done = tokio::select! {
                _ = every.tick() => self.deliver_due().await,
                _ = trim.tick() => self.trim().await,
            };
            match done {
                Ok(()) if std::mem::take(&mut failing) => tracing::info!("webhooks' messages are read again"),
                Err(fault) if !std::mem::replace(&mut failing, true) => {
                    tracing::warn!(%fault, "webhooks' messages are not read; they wait");
                }
                Ok(()) | Err(_) => {}
            }
        }
    }

    async fn deliver_due(&self) -> Result<(), StoreFault> {
        loop {
            let now = self.rim.clock.now();
            let claimed = self.store.claim_webhook_messages(&self.webhook.name, now, now.plus(CLAIM), AT_ONCE).await?;
            if claimed.is_empty() {
                return Ok(());
            }
            for settled in join_all(claimed.iter().map(|message| self.deliver(message))).await {
                settled?;
            }
        }
    }

    async fn deliver(&self, message: &Message) -> Result<(), StoreFault> {
        let (id, now) = (message.id.to_string(), self.rim.clock.now());
        let name = &*self.webhook.name;
        let told = self.metrics.webhook_deliveries.get(name);
        let Err(fault) = deliver(&self.webhook, &id, now.seconds(), &message.body).await else {
            self.store.webhook_delivered(name, message.id).await?;
            // Counted once it is written down: whoever sees the count may stop the gateway.
            told.of(DeliveryResult::Delivered).inc();
            return Ok(());
        };
        if now.since(message.created_at) < PATIENCE {
            tracing::debug!(webhook = name, id, attempts = message.attempts, %fault, "a webhook was not delivered");
            let mut chance = [0; 4];
            self.rim.entropy.fill(&mut chance);
            let at = self.rim.clock.now().plus(wait_after(message.attempts, u32::from_be_bytes(chance)));
            self.store.retry_webhook(name, message, at).await?;
            told.of(DeliveryResult::Failed).inc();
            return Ok(());
        }
        told.of(DeliveryResult::GivenUp).inc();
        tracing::warn!(webhook = name, id, attempts = message.attempts, %fault, "a webhook is given up");
        let attempts = usize::try_from(message.attempts).unwrap_or(usize::MAX);
        let detail = Detail::default().text(Particular::Webhook, Some(name)).count(Particular::Attempts, attempts);
        let entry = AuditEntry::unasked(AuditEvent::WebhookGivenUp, now, Actor::System);
        let entry = AuditEntry { detail, ..entry };
        self.store.webhook_given_up(name, message.id, &entry).await
    }

    async fn trim(&self) -> Result<(), StoreFault> {
        let before = self.rim.clock.now().minus(PATIENCE + PATIENCE);
        let dropped = self.store.trim_webhook_messages(&self.webhook.name, KEPT, before).await?;
        if dropped > 0 {
            self.metrics.webhook_deliveries.get(&self.webhook.name).of(DeliveryResult::Dropped).add(dropped);
            tracing::warn!(webhook = &*self.webhook.name, dropped, "too many messages wait for a webhook");
        }
        Ok(())
    }
}
