//! The parts that outlive a configuration: store, keys, what was revoked, Redis, issuers. The pipeline, the portal and
//! the tasks are made of them.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{Rim, StartFault, feed::Feed, force::Force, keys, quotas, routes, shared_state, streams, tasks};
use crate::{
    config::settings::{self, Settings},
    gate::{
        admission::{Admission, Load},
        api_keys::ApiKeyCheck,
        authenticate::Authenticate,
        authorise::Authorise,
        bad_tokens::BadTokens,
        charge::SubjectLimit,
        exchange::Door,
        finish::RequestLog,
        floods::Floods,
        identity::Identity,
        keyring::Keyring,
        limits::AddressPeek,
        observe::Observer,
        open_streams::OpenStreams,
        references::References,
        snapshot::Snapshot,
        stack::Layers,
        token_cache::TokenCache,
    },
    policy::{api_key::ApiKeyMint, master_key::MasterKey},
    portal::{
        PortalState,
        hash_pool::{HashPool, Told},
        lines::Lines,
    },
    store::{
        SharedStore, Store,
        memory::{revocations::Revocations, stuffing::StuffingWatch},
        quotas::Book,
        redis::Redis,
        security::{SecurityWatch, Subscription},
    },
    telemetry::{
        metrics::{HashResult, Metrics},
        traces::Traces,
    },
    upstream::{cluster::Cluster, issuers::Issuer},
};

/// The label of requests that no route took.
pub(super) const UNROUTED: &str = "-";

/// The parts that verify and mint: what the portal and the pipeline share.
pub(super) struct Shared {
    /// `None` with `store.url: none`.
    pub(super) facts: Option<Facts>,
    /// Counts shared limits, when the configuration names one.
    pub(super) redis: Option<Arc<Redis>>,
    /// Whose keys are fetched.
    pub(super) issuers: Vec<Arc<Issuer>>,
    pub(super) keyring: Arc<Keyring>,
    pub(super) known: Arc<Revocations>,
    pub(super) streams: Arc<OpenStreams>,
    pub(super) references: Arc<References>,
    /// Logins that wait for each other.
    pub(super) lines: Arc<Lines>,
    /// Who tries many people's passwords.
    pub(super) stuffing: Arc<StuffingWatch>,
    pub(super) load: Arc<Load>,
    /// Knows callers by their API keys. `None` without a store.
    pub(super) api_keys: Option<Arc<ApiKeyCheck>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) rim: Rim,
}

/// The store, and what opens what lies sealed in it.
pub(super) struct Facts {
    /// The store is ours alone as long as this is held.
    _claim: Option<crate::store::sql::Claim>,
    pub(super) store: SharedStore,
    pub(super) master: Arc<MasterKey>,
    /// Keeps [`Shared::keyring`] up to date.
    pub(super) keys: Arc<keys::KeyKeeper>,
    /// Keeps [`Shared::known`] up to date.
    pub(super) feed: Arc<Feed>,
    /// What all quotas share.
    pub(super) book: Arc<Book>,
}

/// The keys of a gateway without a store.
pub(super) fn unkept(settings: &Settings) -> Result<Keyring, keys::KeysFault> {
    let given = &settings.tokens.signing_keys;
    if given.is_empty() {
        tracing::warn!(
            "store.url is none and tokens.signing_key is not given: keys were made that end with this process. After a \
             restart services must fetch the key set again; several gateways need a tokens.signing_key in common"
        );
    }
    keys::unkept(given, &settings.signing_algorithms(), None)
}

pub(super) fn issuers(settings: &Settings, metrics: &Metrics, rim: &Rim) -> Vec<Arc<Issuer>> {
    let made = settings.issuers.iter().map(|issuer| {
        let told = metrics.issuer(&issuer.rules.name);
        Issuer::new(Arc::clone(issuer), Arc::clone(&rim.clock), Arc::clone(&rim.entropy), told)
    });
    made.collect()
}

/// Who hears of security events.
pub(super) fn security_watch(settings: &Settings, metrics: &Arc<Metrics>, rim: &Rim) -> SecurityWatch {
    let subscription = |webhook: &Arc<settings::Webhook>| Subscription {
        name: Arc::clone(&webhook.name),
        events: webhook.events.clone(),
    };
    let metrics = Arc::clone(metrics);
    SecurityWatch {
        webhooks: settings.webhooks.iter().map(subscription).collect(),
        told: Box::new(move |event| metrics.security_events.of(event).inc()),
        entropy: Arc::clone(&rim.entropy),
    }
}

impl Facts {
    pub(super) async fn open(
        kept: &settings::Store,
        settings: &Settings,
        metrics: &Arc<Metrics>,
        rim: &Rim,
    ) -> Result<Self, StartFault> {
        let claim = crate::store::sql::claim(kept)?;
        let watch = Some(Arc::new(security_watch(settings, metrics, rim)));
        let store = crate::store::sql::open_watched(kept, watch).await?;
        let vault = keys::Vault::open(Arc::clone(&store), kept, settings, rim).await?;
        let master = vault.master();
        let keys = Arc::new(keys::KeyKeeper::open(vault, settings, Arc::clone(metrics)).await?);
        let (clock, told) = (Arc::clone(&rim.clock), Arc::clone(metrics));
        let book = quotas::book(&store, rim, metrics);
        let feed = Feed::open(kept, &settings.tokens, Arc::clone(&book), clock, told).await?;
        Ok(Self { _claim: claim, store, master, keys, feed: Arc::new(feed), book })
    }

    /// A key goes on as long as an access token would: news is kept for longer than that.
    fn api_keys(&self, settings: &Settings, metrics: &Arc<Metrics>) -> Arc<ApiKeyCheck> {
        let (store, known) = (Arc::<dyn Store>::clone(&self.store), Arc::clone(&self.feed.known));
        let mint = ApiKeyMint::new(&self.master);
        Arc::new(ApiKeyCheck::new(mint, store, known, settings.tokens.access_ttl, Arc::clone(metrics)))
    }
}

impl Shared {
    /// Opens the store, if there is one, and what lies sealed in it.
    pub(super) async fn open(settings: &Settings, metrics: Arc<Metrics>, rim: Rim) -> Result<Self, StartFault> {
        let (facts, keyring) = match &settings.store {
            Some(kept) => {
                let facts = Facts::open(kept, settings, &metrics, &rim).await?;
                let keyring = Arc::clone(&facts.keys.keyring);
                (Some(facts), keyring)
            }
            None => (None, Arc::new(unkept(settings)?)),
        };
        let known = facts.as_ref().map(|facts| Arc::clone(&facts.feed.known)).unwrap_or_default();
        let redis = shared_state::open(settings.shared_state.redis.as_ref(), &metrics).await?;
        let issuers = issuers(settings, &metrics, &rim);
        let references = Arc::new(References::new(Arc::clone(&rim.entropy), Arc::clone(&rim.clock)));
        let streams =
            streams::open(&settings.tokens, &known, Some((Arc::clone(&keyring), Arc::clone(&rim.clock))), &metrics);
        let lines = Arc::default();
        let stuffing = Arc::new(StuffingWatch::new(&*rim.entropy));
        let load = Arc::new(Load::new(settings.overload.max_in_flight, Arc::clone(&metrics)));
        let api_keys = facts.as_ref().map(|facts| facts.api_keys(settings, &metrics));
        Ok(Self {
            facts,
            redis,
            issuers,
            keyring,
            known,
            streams,
            references,
            lines,
            stuffing,
            load,
            api_keys,
            metrics,
            rim,
        })
    }

    pub(super) fn layers(
        &self,
        settings: &Settings,
        snapshot: &Arc<ArcSwap<Snapshot>>,
        floods: Arc<Floods>,
        (seen, denied): tasks::Senders,
        traces: Option<Arc<Traces>>,
    ) -> Layers {
        let clock = || Arc::clone(&self.rim.clock);
        Layers {
            observer: Arc::new(Observer {
                door: Door::Public,
                snapshot: Arc::clone(snapshot),
                metrics: Arc::clone(&self.metrics),
                unrouted: self.metrics.route(UNROUTED),
                clock: clock(),
                entropy: Arc::clone(&self.rim.entropy),
                log: RequestLog { access: settings.telemetry.access_log, slow: settings.telemetry.slow_request },
                traces,
            }),
            floods,
            address_peek: AddressPeek,
            authenticate: Authenticate::new(
                Arc::clone(&self.keyring),
                (
                    TokenCache::new(settings.tokens.cache_entries),
                    BadTokens::new(&settings.listeners.public.flood, Arc::clone(&self.metrics)),
                ),
                Arc::clone(&self.known),
                seen,
                Arc::clone(&self.metrics),
                self.api_keys.clone(),
            ),
            admission: Admission(Arc::clone(&self.load)),
            authorise: Authorise::new(denied, Arc::clone(&self.metrics)),
            subject_limit: SubjectLimit,
            identity: Identity::new(Arc::clone(&self.keyring), Arc::clone(&self.references)),
        }
    }

    /// What routes refer to besides the settings.
    pub(super) fn parts<'a>(&'a self, clusters: &'a [Arc<Cluster>], force: &'a Force) -> routes::Parts<'a> {
        let (counters, ledgers) = (&force.counters, &force.ledgers);
        let (issuers, open_streams, metrics) = (&self.issuers, &self.streams, &self.metrics);
        routes::Parts { clusters, issuers, counters, ledgers, open_streams, metrics }
    }

    /// What counters and ledgers are made with.
    pub(super) fn counting(&self) -> (Option<&Arc<Redis>>, Option<&Arc<Book>>) {
        (self.redis.as_ref(), self.facts.as_ref().map(|facts| &facts.book))
    }

    /// `None` without a store: there are no passwords.
    pub(super) fn hash_pool(&self, settings: &Settings) -> Result<Option<Arc<HashPool>>, StartFault> {
        if self.facts.is_none() {
            return Ok(None);
        }
        let metrics = Arc::clone(&self.metrics);
        metrics.hash_queue_capacity.set_count(settings.passwords.hash_queue);
        let told = Box::new(move |told: Told| {
            let result = match told {
                Told::Done(done) => {
                    metrics.hash_wait.observe(done.waited);
                    metrics.hash_duration.observe(done.worked);
                    HashResult::Done
                }
                Told::Skipped => HashResult::Skipped,
                Told::QueueFull => HashResult::QueueFull,
                Told::AddressFull => HashResult::AddressFull,
                Told::Postponed => HashResult::Postponed,
            };
            metrics.hash_jobs.of(result).inc();
        });
        let (entropy, clock) = (Arc::clone(&self.rim.entropy), Arc::clone(&self.rim.clock));
        Ok(Some(Arc::new(HashPool::observed(&settings.passwords, entropy, clock, told)?)))
    }

    pub(super) fn portal_state(&self, settings: &Settings, facts: &Facts, hash_pool: Arc<HashPool>) -> PortalState {
        PortalState {
            portal: settings.portal.clone(),
            tokens: settings.tokens.clone(),
            lockout: settings.lockout.clone(),
            lines: Arc::clone(&self.lines),
            oauth: settings.oauth.clone(),
            quotas: settings.quotas.clone(),
            stuffing: settings.stuffing,
            stuffing_watch: Arc::clone(&self.stuffing),
            store: Arc::clone(&facts.store),
            keyring: Arc::clone(&self.keyring),
            master: Arc::clone(&facts.master),
            known: Arc::clone(&self.known),
            told: facts.feed.tell(),
            streams: Arc::clone(&self.streams),
            references: Arc::clone(&self.references),
            metrics: Arc::clone(&self.metrics),
            clock: Arc::clone(&self.rim.clock),
            entropy: Arc::clone(&self.rim.entropy),
            hash_pool,
        }
    }
}
