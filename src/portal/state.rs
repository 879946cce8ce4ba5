//! What every endpoint holds, and how what it ends ends here at once (`end_here`, `revoke_here`).

use std::sync::Arc;

use secrecy::SecretBox;

use crate::{
    clock::{Clock, Entropy, Timestamp},
    config::settings::{Lockout, Portal, Quota, Tokens},
    gate::{keyring::Keyring, open_streams::OpenStreams, references::References, refusal::Refusal},
    policy::{
        ids::{ApiKeyId, SessionId},
        master_key::MasterKey,
        oauth_client::OAuthClient,
        stuffing::StuffingRules,
    },
    portal::{hash_pool::HashPool, lines::Lines},
    store::{
        SharedStore,
        calls::still_watched,
        feed::News,
        memory::{ended_sessions::Expiry, revocations::Revocations, stuffing::StuffingWatch},
    },
    telemetry::metrics::Metrics,
};

/// Purpose of the keys that refresh tokens are authenticated with; see [`MasterKey::derive`].
const REFRESH_KEY: &str = "refresh-token";

/// What every endpoint holds.
pub struct PortalState {
    /// The portal's own settings.
    pub portal: Portal,
    /// Lives, issuer and audience of tokens.
    pub tokens: Tokens,
    /// Counters of failed logins.
    pub lockout: Lockout,
    /// Logins of a kind that wait for each other here.
    pub lines: Arc<Lines>,
    /// Who may ask about tokens and revoke them.
    pub oauth: Vec<OAuthClient>,
    /// Quotas, for administrators.
    pub quotas: Vec<Arc<Quota>>,
    /// When failed logins are taken for credential stuffing; `None`: never.
    pub stuffing: Option<StuffingRules>,
    /// What was seen of it here.
    pub stuffing_watch: Arc<StuffingWatch>,
    /// Users, sessions, audit.
    pub store: SharedStore,
    /// The key that signs now and the keys that are published.
    pub keyring: Arc<Keyring>,
    /// What refresh keys are derived from.
    pub master: Arc<MasterKey>,
    /// What this gateway refuses although it was signed by us.
    pub known: Arc<Revocations>,
    /// Called when this gateway has told the others something.
    pub told: Arc<dyn Fn() + Send + Sync>,
    /// What flows for callers here.
    pub streams: Arc<OpenStreams>,
    /// Claims that identities refer to.
    pub references: Arc<References>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Where passwords are checked and hashed.
    pub hash_pool: Arc<HashPool>,
}

/// What is published, with accounts or without them.
#[derive(Debug, Clone)]
pub struct Published {
    /// `iss` of everything that is signed.
    pub issuer: Arc<str>,
    /// The keys.
    pub keyring: Arc<Keyring>,
    /// Claims that identities refer to.
    pub references: Arc<References>,
}

/// The state as handlers hold it.
pub(crate) type Shared = Arc<PortalState>;

impl PortalState {
    /// What of it is for everybody.
    pub(crate) fn published(&self) -> Published {
        Published {
            issuer: Arc::clone(&self.tokens.issuer),
            keyring: Arc::clone(&self.keyring),
            references: Arc::clone(&self.references),
        }
    }

    /// The key of one session's refresh tokens.
    pub(crate) fn refresh_key(&self, session: SessionId, salt: &[u8; 32]) -> SecretBox<[u8; 32]> {
        self.master.derive(REFRESH_KEY, session.0.as_bytes(), salt)
    }

    /// Does what must not stop half-way: a client that hangs up drops its request at any await, and what the store has
    /// committed by then must be known here all the same.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Refusal> {
        tokio::spawn(still_watched(work))
            .await
            .map_err(|fault| Refusal::internal(format!("a task of the portal ended: {fault}")))
    }

    /// From now on this gateway refuses the session's access tokens, until the last of them has expired; what flows for them
    /// ends.
    pub(crate) fn end_here(&self, session: SessionId) {
        let life = self.tokens.access_ttl + self.tokens.leeway;
        let last_expiry = Expiry { at: self.clock.now().plus(life), tick: self.clock.tick().plus(life) };
        self.known.learn(&News::Session(session), last_expiry);
        self.streams.end_session(session);
        (self.told)();
    }

    /// From now on this gateway refuses an API key, for as long as anybody may know it by an older look-up.
    pub(crate) fn revoke_key_here(&self, key: ApiKeyId) {
        let life = self.tokens.access_ttl + self.tokens.leeway;
        let until = Expiry { at: self.clock.now().plus(life), tick: self.clock.tick().plus(life) };
        self.known.learn(&News::ApiKey(key), until);
        self.streams.end_api_key(key);
        (self.told)();
    }

    /// From now on this gateway refuses an access token, until it has expired.
    pub(crate) fn revoke_here(&self, jti: &str, until: Timestamp) {
        let tick = self.clock.tick().plus(until.since(self.clock.now()));
        self.known.learn(&News::Token(jti.to_owned()), Expiry { at: until, tick });
        self.streams.end_token(jti);
        (self.told)();
    }
}
