//! Tells a cluster who calls: strips the client's credentials (unless the route passes `Authorization` on), sets the
//! plain headers, signs the identity, adds what a preset asks for. What goes to the portal is left alone.
//!
//! The signed token (`X-Gateway-Identity`, `typ: gw-id+jwt`) is what a service should trust; it is sent on every route
//! to a cluster, for anonymous callers too, so that its absence always means a request that did not come through here.
//! How a cluster wants it told is `config/identity.rs`: names of headers, a secret of its own (`algorithm: HS256`), one
//! token for one request (`bind: request`), another product's headers beside it (`preset`: [`crate::gate::preset`]).
//!
//! Its claims are [`crate::policy::mint`]'s to write; those too large for a header ([`crate::policy::by_reference`]) it
//! only refers to ([`crate::gate::references`]). One that is not bound to its request is kept with its [`Caller`] (the
//! anonymous one here) and used again for half a minute. Everything set here was removed from the request by hygiene
//! first.

use std::{sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderName, HeaderValue, Request,
    header::{AUTHORIZATION, HOST},
    uri::Authority,
};

use crate::{
    clock::Timestamp,
    config::settings,
    gate::{
        api_keys::X_API_KEY,
        body::GateBody,
        caller::{Caller, Identities, Readers},
        exchange::{Exchange, Principal},
        keyring::Keyring,
        preset::Addressee,
        references::{CLAIMS_PATH, NewReference, References},
        refusal::Refusal,
        snapshot::{RouteEntry, Snapshot, Target},
        stage::Stage,
    },
    policy::{
        by_reference::ByReference,
        cookies, head,
        keys::SigningKey,
        mint::{self, BoundRequest, IDENTITY_LIFE as LIFE, IdentityClaims, Reference},
        preset::Preset,
    },
};

/// The signed identity.
pub const X_GATEWAY_IDENTITY: HeaderName = HeaderName::from_static("x-gateway-identity");

/// How many headers are set here and when the request is forwarded: the map grows once at most.
const OURS: usize = 12;
/// How many more a preset sets at most.
const OF_PRESET: usize = 4;

/// How long one is reused; what is left of its life is the upstream's to check it in.
const REUSE: Duration = Duration::from_secs(30);

/// Sets the identity of requests that go to a cluster.
#[derive(Clone)]
pub struct Identity {
    keyring: Arc<Keyring>,
    references: Arc<References>,
    anonymous: Arc<Identities>,
}

impl Identity {
    /// Signs with `keyring`; claims that do not fit are kept in `references`.
    #[must_use]
    pub fn new(keyring: Arc<Keyring>, references: Arc<References>) -> Self {
        Self { keyring, references, anonymous: Arc::default() }
    }

    /// What signs for a cluster.
    fn key(&self, rules: &settings::Identity) -> Arc<SigningKey> {
        rules.secret.clone().unwrap_or_else(|| self.keyring.own())
    }

    /// One for any request of the caller's: the one that is kept, while it is fresh.
    fn shared(&self, facts: &Facts<'_>) -> Result<HeaderValue, Refusal> {
        let key = self.key(facts.rules);
        let kept = facts.caller.map_or(&*self.anonymous, Caller::identities);
        let (audience, kid, claims_url) = (&facts.rules.audience, key.kid(), &facts.rules.claims_url);
        let is_it = |to: &Readers| to.audience == *audience && to.kid == *kid && to.claims_url == *claims_url;
        if let Some(token) = kept.get(is_it, facts.now) {
            return Ok(token);
        }
        let token = self.sign(&key, facts, None)?;
        let to = Readers { audience: Arc::clone(audience), kid: Arc::clone(kid), claims_url: claims_url.clone() };
        kept.put(to, token.clone(), facts.now, facts.now.plus(REUSE));
        Ok(token)
    }

    fn sign(
        &self,
        key: &Arc<SigningKey>,
        facts: &Facts<'_>,
        request: Option<BoundRequest<'_>>,
    ) -> Result<HeaderValue, Refusal> {
        let (rules, claims, expires) = (facts.rules, facts.caller.map(Caller::claims), facts.now.plus(LIFE));
        let by_reference = facts.caller.map_or_else(ByReference::default, Caller::by_reference);
        let kept = facts.caller.filter(|_| !by_reference.is_empty()).map(|caller| {
            let token = self.reference(caller, key, facts, request.is_some());
            (token, format!("{}{CLAIMS_PATH}", rules.claims_url.as_ref().unwrap_or(facts.issuer)))
        });
        let reference = kept.as_ref().map(|(token, endpoint)| Reference { claims: by_reference, endpoint, token });
        let identity = IdentityClaims {
            issuer: facts.issuer,
            audience: &rules.audience,
            issued: facts.now.seconds(),
            expires: expires.seconds(),
            request,
            claims: claims.map(|claims| &**claims),
            reference,
        };
        let token = mint::identity_token(key, &identity)
            .map_err(|fault| Refusal::internal(format!("the identity cannot be signed: {fault}")))?;
        let mut token =
            HeaderValue::try_from(token).map_err(|_| Refusal::internal("a signed identity is no header value"))?;
        token.set_sensitive(true);
        Ok(token)
    }

    /// What reads the caller's large claims. Identities that are made for each request share one for a while: else one
    /// caller with many requests would push out what others' identities refer to.
    fn reference(&self, caller: &Caller, key: &Arc<SigningKey>, facts: &Facts<'_>, bound: bool) -> Arc<str> {
        let (audience, kid, now) = (&facts.rules.audience, key.kid(), facts.now);
        let (claims, named) = (caller.claims(), caller.by_reference());
        let keep = |expires| {
            self.references.keep(NewReference { issuer: facts.issuer, audience, claims, named, key, expires }).into()
        };
        if !bound {
            return keep(now.plus(LIFE));
        }
        // Wherever it is read, it reads the same.
        let known = caller.references().get(|(of, by)| of == audience && by == kid, now);
        known.unwrap_or_else(|| {
            let token: Arc<str> = keep(now.plus(LIFE + REUSE));
            let to = (Arc::clone(audience), Arc::clone(kid));
            caller.references().put(to, Arc::clone(&token), now, now.plus(REUSE));
            token
        })
    }
}

/// What an identity is made of.
struct Facts<'a> {
    /// `None`: anonymous.
    caller: Option<&'a Caller>,
    issuer: &'a Arc<str>,
    rules: &'a settings::Identity,
    now: Timestamp,
}

/// What the client asked for, without query: the canonical path at the host it named.
fn asked(request: &Request<GateBody>, https: bool) -> String {
    let uri = request.uri();
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| uri.authority().map(Authority::as_str)).unwrap_or_default();
    format!("{}://{host}{}", if https { "https" } else { "http" }, uri.path())
}

/// The host a service is told it is, where its format asks for one: one that the route names, else our own. A client
/// that could name another would choose for whom it is told of.
fn host_for<'a>(
    preset: Preset,
    request: &Request<GateBody>,
    route: &'a RouteEntry,
    snapshot: &'a Snapshot,
) -> &'a Arc<str> {
    if !preset.tells_host() {
        return &snapshot.own_host;
    }
    let asked = head::host_of(request.uri(), request.headers()).unwrap_or_default();
    route.hosts.iter().find(|named| named.eq_ignore_ascii_case(asked)).unwrap_or(&snapshot.own_host)
}

impl Stage for Identity {
    fn apply(&self, request: &mut Request<GateBody>) -> Result<(), Refusal> {
        let exchange = Exchange::of(request)?;
        let route = Arc::clone(exchange.route()?);
        let Target::Cluster(cluster) = &route.target else {
            return Ok(());
        };
        let snapshot = Arc::clone(exchange.snapshot());
        let principal = exchange.principal()?.clone();
        let caller = match &principal {
            Principal::Anonymous => None,
            Principal::Authenticated(caller) => Some(&**caller),
        };
        let rules = &cluster.settings().identity;
        let facts = Facts { caller, issuer: &snapshot.issuer, rules, now: exchange.now() };
        let token = if rules.bind_request {
            let uri = asked(request, exchange.https());
            let method = request.method().as_str();
            let bound = BoundRequest { id: exchange.record().request_id(), method, uri: &uri };
            self.sign(&self.key(rules), &facts, Some(bound))?
        } else {
            self.shared(&facts)?
        };

        let now = exchange.now();
        let preset = rules.preset.map(|preset| (preset, host_for(preset, request, &route, &snapshot)));
        let headers = request.headers_mut();
        headers.reserve(OURS + if preset.is_some() { OF_PRESET } else { 0 });
        // A key lives for long: no service holds one that it could use elsewhere.
        if !route.forward_authorization || caller.is_some_and(|caller| caller.api_key().is_some()) {
            headers.remove(AUTHORIZATION);
        }
        if route.credentials.api_key {
            headers.remove(X_API_KEY);
        }
        cookies::strip(headers, &snapshot.own_cookies);
        headers.insert(X_GATEWAY_IDENTITY, token);
        if let Some(caller) = caller {
            let (plain, names) = (caller.plain(), &rules.headers);
            set(headers, &names.user, plain.user.as_ref());
            set(headers, &names.email, plain.email.as_ref());
            set(headers, &names.roles, plain.roles.as_ref());
            set(headers, &names.org, plain.org.as_ref());
            if let Some((preset, host)) = preset {
                let to = Addressee { preset, issuer: &snapshot.issuer, host, audience: &rules.audience };
                let times = (now, now.plus(LIFE), now.plus(REUSE));
                caller.presets().set(headers, &to, caller.claims(), &self.keyring, times)?;
            }
        }
        Ok(())
    }
}

fn set(headers: &mut HeaderMap, name: &HeaderName, value: Option<&HeaderValue>) {
    if let Some(value) = value {
        headers.insert(name.clone(), value.clone());
    }
}
