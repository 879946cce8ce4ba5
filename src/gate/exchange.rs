//! What the pipeline knows about one request, filled layer by layer.
//!
//! One [`Exchange`] sits in the request's extensions, put there by the first layer. Each fact is set by the layer that
//! establishes it (no other room can call a setter) and can be had by any layer after it; asking for a fact that no
//! layer has established is a wiring fault of ours: 500, never a panic and never a default.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use http::{Method, Request};

use crate::{
    clock::{Tick, Timestamp},
    gate::{
        authorise::Authorised,
        body::GateBody,
        caller::Caller,
        guard::Upload,
        refusal::Refusal,
        snapshot::{RouteEntry, Snapshot},
    },
    policy::{claims::Claims, forward_auth::Form, trace::TraceContext},
    store::quotas::Budget,
    telemetry::record::Record,
};

/// Who calls, once the credentials have been looked at.
#[derive(Debug, Clone)]
pub enum Principal {
    /// No credentials were asked for or given.
    Anonymous,
    /// The bearer of a verified access token.
    Authenticated(Arc<Caller>),
}

impl Principal {
    /// The claims of an authenticated caller.
    #[must_use]
    pub fn claims(&self) -> Option<&Arc<Claims>> {
        match self {
            Self::Anonymous => None,
            Self::Authenticated(caller) => Some(caller.claims()),
        }
    }
}

/// The listener that a request came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The clients'.
    Public,
    /// The operators'.
    Admin,
}

/// How the request reached us.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// At which listener.
    pub door: Door,
    /// The other end of the connection: the client, or a proxy before us.
    pub peer: IpAddr,
    /// Whether the connection was TLS.
    pub tls: bool,
}

/// What the pipeline knows about one request. Cloneable only because request extensions must be.
#[derive(Debug, Clone)]
pub struct Exchange {
    record: Arc<Record>,
    snapshot: Arc<Snapshot>,
    arrival: Arrival,
    trace: TraceContext,
    now: Timestamp,
    client: Option<IpAddr>,
    decision: Option<Form>,
    https: bool,
    hygienic: bool,
    route: Option<Arc<RouteEntry>>,
    preflight: Option<Method>,
    principal: Option<Principal>,
    by_cookie: bool,
    authorised: Option<Authorised>,
    upload: Option<Arc<Upload>>,
    /// Behind an `Arc` since extensions must be cloneable; taken once.
    budget: Option<Arc<Mutex<Option<Budget>>>>,
}

impl Exchange {
    /// A new exchange: what the observer knows.
    pub(in crate::gate) fn new(
        record: Arc<Record>,
        snapshot: Arc<Snapshot>,
        arrival: Arrival,
        trace: TraceContext,
        now: Timestamp,
    ) -> Self {
        Self {
            record,
            snapshot,
            arrival,
            trace,
            now,
            client: None,
            decision: None,
            https: arrival.tls,
            hygienic: false,
            route: None,
            preflight: None,
            principal: None,
            by_cookie: false,
            authorised: None,
            upload: None,
            budget: None,
        }
    }

    /// The exchange of a request.
    ///
    /// # Errors
    /// [`Refusal::internal`] when the first layer did not run.
    pub fn of<B>(request: &Request<B>) -> Result<&Self, Refusal> {
        request.extensions().get::<Self>().ok_or_else(|| missing("exchange"))
    }

    pub(in crate::gate) fn of_mut(request: &mut Request<GateBody>) -> Result<&mut Self, Refusal> {
        request.extensions_mut().get_mut::<Self>().ok_or_else(|| missing("exchange"))
    }

    /// Takes the exchange out of a request that is about to leave the pipeline.
    pub(crate) fn take(request: &mut Request<GateBody>) -> Result<Self, Refusal> {
        request.extensions_mut().remove::<Self>().ok_or_else(|| missing("exchange"))
    }

    /// The record that outlives the request: its id, what is logged of it.
    #[must_use]
    pub fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// The configuration this request began with and ends with.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// How the request reached us.
    #[must_use]
    pub fn arrival(&self) -> Arrival {
        self.arrival
    }

    /// Our span in the caller's trace.
    #[must_use]
    pub fn trace(&self) -> &TraceContext {
        &self.trace
    }

    /// When the request's head had been read: what tokens are judged by. Read once: the stages that wait, for an issuer's
    /// keys or a shared limit, wait seconds at most.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The same moment on the monotonic clock: what limits count by.
    #[must_use]
    pub fn tick(&self) -> Tick {
        self.record.began
    }

    /// The client's address, found through trusted proxies.
    ///
    /// # Errors
    /// [`Refusal::internal`] before the client-address layer.
    pub fn client(&self) -> Result<IpAddr, Refusal> {
        self.client.ok_or_else(|| missing("client address"))
    }

    pub(in crate::gate) fn set_client(&mut self, client: IpAddr) {
        self.record.set_client(client);
        self.client = Some(client);
    }

    /// How another proxy asks whether it may forward this request; `None`: the request is the client's own, for us to
    /// forward.
    #[must_use]
    pub fn decision(&self) -> Option<Form> {
        self.decision
    }

    pub(in crate::gate) fn set_decision(&mut self, form: Form) {
        self.decision = Some(form);
    }

    /// Whether the client speaks https: to us, or to a trusted proxy that says so.
    #[must_use]
    pub fn https(&self) -> bool {
        self.https
    }

    pub(in crate::gate) fn set_https(&mut self, https: bool) {
        self.https = https;
    }

    /// Proof that the head is unambiguous and the URI holds the canonical path.
    ///
    /// # Errors
    /// [`Refusal::internal`] before the hygiene layer.
    pub fn hygienic(&self) -> Result<(), Refusal> {
        if self.hygienic { Ok(()) } else { Err(missing("canonical path")) }
    }

    pub(in crate::gate) fn set_hygienic(&mut self) {
        self.hygienic = true;
    }

    /// The route that matched.
    ///
    /// # Errors
    /// [`Refusal::internal`] before the routing layer.
    pub fn route(&self) -> Result<&Arc<RouteEntry>, Refusal> {
        self.route.as_ref().ok_or_else(|| missing("route"))
    }

    pub(in crate::gate) fn set_route(&mut self, route: Arc<RouteEntry>) {
        self.record.set_route(&route.name, &route.metrics);
        self.route = Some(route);
    }

    /// The method whose permission is asked for, when the request is a preflight for its route.
    #[must_use]
    pub fn preflight(&self) -> Option<&Method> {
        self.preflight.as_ref()
    }

    pub(in crate::gate) fn set_preflight(&mut self, method: Method) {
        self.preflight = Some(method);
    }

    /// Who calls.
    ///
    /// # Errors
    /// [`Refusal::internal`] before the authentication layer.
    pub fn principal(&self) -> Result<&Principal, Refusal> {
        self.principal.as_ref().ok_or_else(|| missing("principal"))
    }

    pub(in crate::gate) fn set_principal(&mut self, principal: Principal) {
        if let Some(claims) = principal.claims() {
            self.record.set_subject(Arc::clone(&claims.subject));
        }
        self.principal = Some(principal);
    }

    /// Who calls, if anybody said so: for what outlives the exchange.
    #[must_use]
    pub fn into_caller(self) -> Option<Arc<Caller>> {
        match self.principal {
            Some(Principal::Authenticated(caller)) => Some(caller),
            Some(Principal::Anonymous) | None => None,
        }
    }

    /// Whether a cookie, and no header, said who calls.
    #[must_use]
    pub fn by_cookie(&self) -> bool {
        self.by_cookie
    }

    pub(in crate::gate) fn set_by_cookie(&mut self, by_cookie: bool) {
        self.by_cookie = by_cookie;
    }

    /// The permit to go on to the portal or an upstream.
    ///
    /// # Errors
    /// [`Refusal::internal`] before the authorisation layer.
    pub fn authorised(&self) -> Result<&Authorised, Refusal> {
        self.authorised.as_ref().ok_or_else(|| missing("authorisation"))
    }

    /// How far the request body has come; `None` when there is none.
    #[must_use]
    pub fn upload(&self) -> Option<&Arc<Upload>> {
        self.upload.as_ref()
    }

    pub(in crate::gate) fn set_upload(&mut self, upload: Arc<Upload>) {
        self.upload = Some(upload);
    }

    /// Takes what was set aside for the request, of quotas that whoever meters the answer settles; `None`: there is
    /// nothing to meter. What is not taken is given back with the exchange.
    #[must_use]
    pub fn take_budget(&self) -> Option<Budget> {
        self.budget.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(in crate::gate) fn set_budget(&mut self, budget: Budget) {
        self.budget = Some(Arc::new(Mutex::new(Some(budget))));
    }

    pub(in crate::gate) fn set_authorised(&mut self, permit: Authorised) {
        self.authorised = Some(permit);
    }
}

fn missing(stage: &str) -> Refusal {
    Refusal::internal(format!("the pipeline asked for the {stage} before it was established"))
}

#[cfg(test)]
impl Exchange {
    /// The exchange as the portal gets it: client known, credentials looked at. For tests of what lies behind the
    /// pipeline.
    pub(crate) fn for_test(request_id: &'static str, client: IpAddr, claims: Option<Arc<Claims>>) -> Self {
        use crate::{gate::caller::Signer, policy::ids::SessionId, policy::token::Verified};

        let record = Record::new(
            http::HeaderValue::from_static(request_id),
            [1; 16],
            Tick::from_nanos(0),
            (Method::GET, http::Version::HTTP_11),
            None,
        );
        let snapshot = Snapshot {
            admin_routes: crate::gate::route_table::RouteTable::default(),
            routes: crate::gate::route_table::RouteTable::default(),
            trusted_proxies: Vec::new(),
            forward_auth: crate::gate::snapshot::ForwardAuth::default(),
            issuer: "https://test.invalid".into(),
            leeway: std::time::Duration::ZERO,
            access_ttl: std::time::Duration::ZERO,
            own_origin: "https://test.invalid".into(),
            own_host: "gw.test".into(),
            access_cookie: "__Host-access".into(),
            own_cookies: Vec::new(),
            identity_headers: Vec::new(),
            compat: crate::config::settings::Compat::None,
            request_id_header: http::HeaderName::from_static("x-request-id"),
            open_streams: Arc::new(crate::gate::open_streams::OpenStreams::new(
                Box::new(|_| None),
                crate::gate::open_streams::Forgiven {
                    leeway: std::time::Duration::ZERO,
                    grace: std::time::Duration::ZERO,
                },
                Arc::default(),
            )),
            accounts: None,
        };
        let arrival = Arrival { door: Door::Public, peer: client, tls: false };
        let trace = TraceContext::start([1; 16], [1; 8], false);
        let mut exchange = Self::new(Arc::new(record), Arc::new(snapshot), arrival, trace, Timestamp::from_seconds(0));
        exchange.set_client(client);
        exchange.set_principal(claims.map_or(Principal::Anonymous, |claims| {
            let session = claims.session.unwrap_or(SessionId(uuid::Uuid::nil()));
            let verified = Verified { claims, kid: "test".into() };
            Principal::Authenticated(Arc::new(Caller::new(verified, Signer::Own(session), Timestamp::from_seconds(0))))
        }));
        exchange
    }
}
