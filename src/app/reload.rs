//! From one configuration to the next, while requests flow: taken whole or not at all.
//!
//! Whatever is new is made, looked up and checked first. Then certificates, the snapshot and what is in force are
//! exchanged, one after the other; requests see the snapshot only, and each keeps the one it began with. One thing
//! outlives a reload that fails later: a signing key that was missing has been made and published by then. A
//! configuration that is broken, or that changes what only a restart can change, leaves the last good one in force.
//! What is logged are key paths, never values.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;

use crate::{
    app::{
        force::Force,
        keys::{self, KeysFault},
        routes,
        shared::{Shared, UNROUTED},
    },
    config::{
        ConfigErrors,
        settings::{Compat, Settings},
        written::Differences,
    },
    edge::Certificates,
    gate::snapshot::{Accounts, Snapshot},
    portal::{Published, border::Portal, hash_pool::HashPool},
    telemetry::metrics::ReloadResult,
};

/// Mistakes of a broken configuration that are logged, a line each.
const LOGGED: usize = 20;

/// What came of reading a configuration.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Applied(Differences),
    Unchanged,
    NeedsRestart(Differences),
    Mistakes(ConfigErrors),
    /// The checks let through what cannot be built: a fault of ours.
    Fault(String),
}

impl Verdict {
    const fn result(&self) -> ReloadResult {
        match self {
            Self::Applied(_) => ReloadResult::Applied,
            Self::Unchanged => ReloadResult::Unchanged,
            Self::NeedsRestart(_) => ReloadResult::NeedsRestart,
            Self::Mistakes(_) | Self::Fault(_) => ReloadResult::Broken,
        }
    }

    const fn is_good(&self) -> bool {
        matches!(self, Self::Applied(_) | Self::Unchanged)
    }

    /// Whether `last` has said it already: a file may be read more often than it changes.
    fn is_news_after(&self, last: Option<&Self>) -> bool {
        match self {
            Self::Applied(_) => true,
            Self::Unchanged => last.is_some_and(|last| !last.is_good()),
            _ => last != Some(self),
        }
    }

    fn tell(&self) {
        const STAYS: &str = "the last good configuration stays in force";
        match self {
            Self::Applied(keys) => tracing::info!(%keys, "the configuration was reloaded"),
            Self::Unchanged => tracing::info!("the configuration is the one in force: nothing has changed"),
            Self::NeedsRestart(keys) => {
                tracing::warn!(%keys, "the new configuration changes what needs a restart, so none of it is taken; {STAYS}");
            }
            Self::Mistakes(errors) => {
                let all = errors.errors();
                for error in all.iter().take(LOGGED) {
                    let (line, column) = (error.line, error.column);
                    let suggestion = error.suggestion.as_deref();
                    tracing::error!(line, column, key = error.key_path, suggestion, "configuration: {}", error.message);
                }
                tracing::error!(mistakes = all.len(), "the new configuration is broken; {STAYS}");
            }
            Self::Fault(fault) => tracing::error!(fault, "the new configuration cannot be taken; {STAYS}"),
        }
    }
}

/// What is exchanged, and what the next configuration is built from.
pub(super) struct Reloader {
    pub(super) shared: Shared,
    /// `None` without a store: there are no passwords.
    pub(super) hash_pool: Option<Arc<HashPool>>,
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(super) force: Arc<ArcSwap<Force>>,
    /// The public listener's, when it speaks TLS.
    pub(super) certificates: Option<Certificates>,
    /// Whether the file says something that could not be taken.
    pub(super) stale: Arc<AtomicBool>,
    /// The last verdict. Locked while the next one is made: one reload at a time.
    pub(super) last: tokio::sync::Mutex<Option<Verdict>>,
}

impl Reloader {
    /// Brings a configuration into force, if it can be. `asked`: somebody waits for an answer in the log, even that
    /// nothing has changed.
    pub(super) async fn reload(&self, read: Result<Settings, ConfigErrors>, asked: bool) -> ReloadResult {
        let mut last = self.last.lock().await;
        let verdict = match read {
            // Boxed: settings are large, and a reload is seldom.
            Ok(settings) => Box::pin(self.take(settings)).await,
            Err(errors) => Verdict::Mistakes(errors),
        };
        let metrics = &self.shared.metrics;
        self.stale.store(!verdict.is_good(), Ordering::Release);
        metrics.config_last_reload_successful.set(i64::from(verdict.is_good()));
        if asked || verdict.is_news_after(last.as_ref()) {
            verdict.tell();
            metrics.config_reloads.of(verdict.result()).inc();
        }
        last.insert(verdict).result()
    }

    async fn take(&self, settings: Settings) -> Verdict {
        let force = self.force.load_full();
        let differences = force.settings.written.differences(&settings.written);
        let fixed = differences.needing_a_restart();
        if !fixed.is_empty() {
            return Verdict::NeedsRestart(fixed);
        }
        if differences.is_empty() {
            self.shared.took(&settings);
            return Verdict::Unchanged;
        }
        // Before any request can need one; published at once, whatever becomes of the rest.
        if let Err(fault) = self.shared.complete_keys(&settings).await {
            return Verdict::Fault(format!("signing keys: {fault}"));
        }
        let metrics = &self.shared.metrics;
        let next = Arc::new(force.next(settings, self.shared.counting(), metrics).await);
        let accounts = self.shared.accounts(&next.settings, self.hash_pool.as_ref());
        let made = routes::snapshot(&next.settings, self.shared.parts(&next.clusters(), &next), Some(accounts));
        let verdict = match made {
            Ok(snapshot) => {
                if let (Some(certificates), Some(tls)) = (&self.certificates, &next.settings.listeners.public.tls) {
                    certificates.replace(tls);
                }
                self.shared.took(&next.settings);
                warn_of_weaker_rules(&force.settings, &next.settings);
                self.shared.load.allow(next.settings.overload.max_in_flight);
                self.snapshot.store(Arc::new(snapshot));
                self.force.store(next);
                Verdict::Applied(differences)
            }
            Err(fault) => Verdict::Fault(fault.to_string()),
        };
        // What is not handed on ends with it, before its last words are pruned.
        drop(force);
        self.prune();
        verdict
    }

    fn prune(&self) {
        let snapshot = self.snapshot.load();
        let routes: HashSet<&str> = snapshot.routes.all().iter().map(|route| &*route.name).chain([UNROUTED]).collect();
        self.force.load().prune(&routes, &self.shared.metrics);
    }
}

/// What a start warns of, when it is a reload that switches it on.
fn warn_of_weaker_rules(before: &Settings, next: &Settings) {
    if next.portal.compat == Compat::FastApi && before.portal.compat != Compat::FastApi {
        tracing::warn!(
            "portal.compat: fastapi is on: FastAPI's statuses on every route from now; its weaker defaults for passwords \
             hold from the next start"
        );
    }
}

impl Shared {
    /// Makes the signing keys that these settings need and nothing has needed yet.
    async fn complete_keys(&self, settings: &Settings) -> Result<(), KeysFault> {
        let needed = settings.signing_algorithms();
        if needed.iter().all(|algorithm| self.keyring.of(algorithm).is_some()) {
            return Ok(());
        }
        if let Some(facts) = &self.facts {
            return facts.keys.look(&needed).await;
        }
        let given = &settings.tokens.signing_keys;
        self.keyring.replace(&keys::unkept(given, &needed, Some(&self.keyring))?);
        Ok(())
    }

    /// From now on this is the configuration in force, as far as metrics tell.
    pub(super) fn took(&self, settings: &Settings) {
        self.metrics.config_info.set(settings.written.sha256());
        self.metrics.config_last_reload_success.set(self.rim.clock.now().seconds());
    }

    /// The portal as these settings want it.
    pub(super) fn accounts(&self, settings: &Settings, hash_pool: Option<&Arc<HashPool>>) -> Accounts {
        if let Some((facts, hash_pool)) = self.facts.as_ref().zip(hash_pool) {
            return Accounts::new(Portal::new(self.portal_state(settings, facts, Arc::clone(hash_pool))));
        }
        Accounts::new(Portal::without_accounts(&Published {
            issuer: Arc::clone(&settings.tokens.issuer),
            keyring: Arc::clone(&self.keyring),
            references: Arc::clone(&self.references),
        }))
    }
}
