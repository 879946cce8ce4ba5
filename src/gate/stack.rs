//! The whole pipeline, in order. Read it top to bottom: that is the way of a request.

use std::{convert::Infallible, sync::Arc};

use http::{Request, Response};
use tower::{Service, ServiceBuilder};

use crate::gate::{
    admission::Admission,
    authenticate::Authenticate,
    authorise::Authorise,
    body::GateBody,
    body_limit::BodyLimit,
    charge::SubjectLimit,
    client_address::ClientAddress,
    cors::CorsLayer,
    decision::Decision,
    floods::{Counted, EarlyRefusal, Floods},
    hygiene::Hygiene,
    identity::Identity,
    limits::AddressPeek,
    observe::{ObserveLayer, Observer},
    quotas::QuotaLayer,
    refusal::Refusal,
    rescue::RescueLayer,
    route::Routing,
    stage::StageLayer,
    waiting::WaitingLayer,
};

/// The layers that need parts of their own.
#[derive(Clone)]
pub struct Layers {
    /// Id, trace, record.
    pub observer: Arc<Observer>,
    /// What an address may do before anybody is known.
    pub floods: Arc<Floods>,
    /// The address's limits, peeked.
    pub address_peek: AddressPeek,
    /// Who calls.
    pub authenticate: Authenticate,
    /// Whether there is room for them.
    pub admission: Admission,
    /// Whether they may.
    pub authorise: Authorise,
    /// The subject's limits, then the address's, charged.
    pub subject_limit: SubjectLimit,
    /// Who calls, for the upstream.
    pub identity: Identity,
}

/// The pipeline before `terminal`. The order is the security of the house; each place has its reason.
pub fn pipeline<T>(
    layers: Layers,
    terminal: T,
) -> impl Service<Request<GateBody>, Response = Response<GateBody>, Error = Infallible, Future: Send> + Clone
where
    T: Service<Request<GateBody>, Response = Response<GateBody>, Error = Refusal> + Clone + Send + 'static,
    T::Future: Send + 'static,
{
    let floods = &layers.floods;
    ServiceBuilder::new()
        // Outermost: even a refusal needs an id, and whatever happens is told once.
        .layer(ObserveLayer(layers.observer))
        // Everything below may refuse; above this line nothing fails.
        .layer(RescueLayer)
        // Before hygiene, which removes the very headers it reads; before limits, which count by it.
        .layer(StageLayer(Counted(ClientAddress, Arc::clone(floods))))
        // As soon as it is known who floods: everything below costs more. What the stages around it refuse is counted.
        .layer(StageLayer(EarlyRefusal(Arc::clone(floods))))
        // Before hygiene, which then judges the request that is asked about, and removes the headers that tell of it.
        // After the client's address, which is found here as for any other request.
        .layer(StageLayer(Counted(Decision, Arc::clone(floods))))
        // Before routing, so that no ambiguous path is ever matched; on every route, public ones too.
        .layer(StageLayer(Counted(Hygiene, Arc::clone(floods))))
        // Before limits and authentication, which are the route's. Closed by default.
        .layer(StageLayer(Counted(Routing, Arc::clone(floods))))
        // After routing, since each route lists its own origins. Before limits and authentication: a preflight carries no
        // credentials, and a page must be able to read that it was limited or not let in.
        .layer(CorsLayer)
        // Before authentication: a flood is refused before any crypto. Only a peek: a client over its own limit
        // must not drain its neighbours' address.
        .layer(StageLayer(layers.address_peek))
        // Before the subject's limit, which needs a subject that is proven. May wait: for another issuer's keys.
        .layer(layers.authenticate)
        // After authentication, which costs less than a place is worth: a stranger with a made-up token must not be taken
        // for a user. Before limits: whoever is sent away has paid nothing, and does not wait for Redis.
        .layer(StageLayer(layers.admission))
        // Narrow before wide: the subject's own limit first, then the address is charged. Before authorisation, so
        // that probing for forbidden things is limited too. May wait: for Redis, when a limit is shared.
        .layer(WaitingLayer(layers.subject_limit))
        // The only maker of the permit that portal and upstream demand.
        .layer(StageLayer(layers.authorise))
        // After authorisation: no byte of a body is read for a request that is refused.
        .layer(StageLayer(BodyLimit))
        // After the limits, which keep a flood away from the store, and after all else that may refuse: what is counted
        // for a day or a month is what was let through. May wait: for the store, when nothing is at hand.
        .layer(WaitingLayer(QuotaLayer))
        // Last: signs only for requests that will be sent.
        .layer(StageLayer(layers.identity))
        .service(terminal)
}
