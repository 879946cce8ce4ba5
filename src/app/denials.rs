//! Audits callers who lack a role or scope: the first time at once, whatever of the same caller at the same route
//! follows within a minute as one row that says how often. Whoever probes costs the store little, and nothing waits for
//! it: what does not fit is counted.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::sync::mpsc;

use crate::{
    clock::{Clock, Tick},
    gate::authorise::Denied,
    store::{
        AuditEntry, AuditEvent, SharedStore,
        audit::{Actor, Detail, Particular},
    },
    telemetry::metrics::Metrics,
};

/// Refusals that may wait to be written.
pub(super) const QUEUE: usize = 1_024;

/// Callers and routes that are kept apart.
const MOST: usize = 4_096;

/// What one row stands for.
const WINDOW: Duration = Duration::from_mins(1);

/// How often it is looked whether a window is over.
const SWEEP: Duration = Duration::from_secs(1);

/// Longest subject that is written.
const SUBJECT_CHARS: usize = 256;

struct Window {
    until: Tick,
    more: usize,
    last: Denied,
}

/// Writes them.
pub(super) struct Denials {
    pub(super) store: SharedStore,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
}

impl Denials {
    /// For ever.
    pub(super) async fn run(self, mut queue: mpsc::Receiver<Denied>) {
        let mut windows = HashMap::<(Box<str>, Arc<str>), Window>::new();
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                denied = queue.recv() => match denied {
                    Some(denied) => self.take(&mut windows, denied).await,
                    None => return,
                },
                _ = sweep.tick() => self.sweep(&mut windows).await,
            }
        }
    }

    async fn take(&self, windows: &mut HashMap<(Box<str>, Arc<str>), Window>, denied: Denied) {
        let key = (Box::from(&*denied.claims.subject), Arc::clone(&denied.route));
        if let Some(window) = windows.get_mut(&key) {
            window.more += 1;
            window.last = denied;
        } else if windows.len() < MOST {
            let until = self.clock.tick().plus(WINDOW);
            self.write(&denied, 1).await;
            windows.insert(key, Window { until, more: 0, last: denied });
        } else {
            self.metrics.permission_denials_dropped.inc();
        }
    }

    async fn sweep(&self, windows: &mut HashMap<(Box<str>, Arc<str>), Window>) {
        let now = self.clock.tick();
        for window in windows.values_mut().filter(|window| window.until <= now && window.more > 0) {
            self.write(&window.last, window.more).await;
            (window.more, window.until) = (0, now.plus(WINDOW));
        }
        windows.retain(|_, window| window.until > now);
    }

    async fn write(&self, denied: &Denied, count: usize) {
        let claims = &denied.claims;
        // Another issuer's subjects are no users of ours, whatever they look like.
        let is_ours = claims.session.is_some() || denied.api_key.is_some();
        let user = is_ours.then(|| claims.subject.parse().ok()).flatten();
        let subject = || claims.subject.chars().take(SUBJECT_CHARS).collect();
        let entry = AuditEntry {
            at: denied.at,
            event: AuditEvent::PermissionDenied,
            actor: user.map_or_else(|| Actor::Subject(subject()), Actor::User),
            user,
            session: claims.session,
            address: denied.address.map(|address| address.to_string()).unwrap_or_default(),
            request_id: denied.record.request_id().to_owned(),
            detail: Detail::default()
                .text(Particular::ApiKey, denied.api_key.map(|key| key.to_string()).as_deref())
                .text(Particular::Route, Some(&denied.route))
                .text(Particular::Reason, Some(denied.reason.as_str()))
                .count(Particular::Count, count),
        };
        if let Err(fault) = self.store.append_audit(&entry).await {
            self.metrics.permission_denials_dropped.add(u64::try_from(count).unwrap_or(u64::MAX));
            tracing::warn!(%fault, count, "refused requests could not be audited");
        }
    }
}
