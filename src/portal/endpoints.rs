//! Every endpoint of the portal, in one table.
//!
//! The axum router is built from it here, the gate's route table and the access matrix elsewhere, so that an endpoint
//! cannot be served without a route that says who may call it, nor be routed to and not be served.

use std::sync::Arc;

use axum::{
    Router,
    handler::Handler,
    routing::{MethodFilter, MethodRouter, get, on},
};
use http::Method;

use crate::{
    config::settings::AuthMode,
    gate::references::CLAIMS_PATH,
    policy::overload::Calls,
    portal::{
        admin, api_keys, claims, login, logout, me, oauth, openapi, refresh, register, sessions,
        state::{Published, Shared},
        well_known,
    },
};

/// Largest body of a portal request, bytes: several times a password of 128 four-byte characters, fully escaped.
pub(crate) const BODY_LIMIT: usize = 8 * 1024;

/// Where the admin API is, at whichever listener.
pub const ADMIN_BASE: &str = "/admin/v1";

/// Whom it is for.
pub const ADMIN_ROLE: &str = "admin";

/// One endpoint.
#[derive(Debug)]
pub struct Endpoint {
    /// Label in metrics and logs, and the route's name.
    pub name: &'static str,
    /// The one method it takes (`GET` also answers `HEAD`).
    pub method: Method,
    /// Where it is.
    pub path: EndpointPath,
    /// Who may call it.
    pub auth: AuthMode,
    /// Largest request body, bytes; 0: none is taken.
    pub body_limit: u64,
    /// What answers it.
    pub(crate) call: Call,
    /// When it is served.
    pub served: Served,
}

/// When an endpoint is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// While `portal.enabled`.
    WithPortal,
    /// While `oauth.clients` names any.
    WithOAuth,
    /// To administrators, where `portal.admin_api` says.
    ToAdmins,
    /// Always: services verify identities by it.
    Always,
}

/// Where an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointPath {
    /// Below each of `portal.base_paths`.
    Base(&'static str),
    /// At this very path (RFC 8615).
    Absolute(&'static str),
}

/// What answers an endpoint. An enum, so that the router below is exhaustive.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Call {
    Register,
    Login,
    Refresh,
    Logout,
    Me,
    PatchMe,
    Sessions,
    EndOthers,
    Session,
    EndSession,
    ApiKeys,
    CreateApiKey,
    RevokeApiKey,
    Verify,
    Revoke,
    Introspect,
    Jwks,
    Discovery,
    Claims,
    OpenApi,
    AdminAudit,
    AdminLockouts,
    AdminLift,
    AdminLiftOne,
    AdminQuotas,
    AdminQuotaReset,
}

/// Every endpoint.
pub static ENDPOINTS: &[Endpoint] = &[
    post("portal_register", "/register", AuthMode::None, Call::Register),
    post("portal_signup", "/signup", AuthMode::None, Call::Register),
    post("portal_login", "/login", AuthMode::None, Call::Login),
    // An old access token sent along must not stop a refresh, so credentials are not even looked at.
    post("portal_refresh", "/refresh", AuthMode::None, Call::Refresh),
    // Leaving must work with an expired access token too: then the refresh token names the session.
    post("portal_logout", "/logout", AuthMode::Lenient, Call::Logout),
    Endpoint {
        name: "portal_me",
        method: Method::GET,
        path: EndpointPath::Base("/me"),
        auth: AuthMode::Required,
        body_limit: 0,
        call: Call::Me,
        served: Served::WithPortal,
    },
    Endpoint {
        name: "portal_me_change",
        method: Method::PATCH,
        path: EndpointPath::Base("/me"),
        auth: AuthMode::Required,
        body_limit: BODY_LIMIT as u64,
        call: Call::PatchMe,
        served: Served::WithPortal,
    },
    own("portal_sessions", Method::GET, "/sessions", Call::Sessions),
    own("portal_sessions_end", Method::DELETE, "/sessions", Call::EndOthers),
    own("portal_session", Method::GET, "/sessions/{id}", Call::Session),
    own("portal_session_end", Method::DELETE, "/sessions/{id}", Call::EndSession),
    own("portal_api_keys", Method::GET, "/api-keys", Call::ApiKeys),
    post("portal_api_key_create", "/api-keys", AuthMode::Required, Call::CreateApiKey),
    own("portal_api_key_revoke", Method::DELETE, "/api-keys/{id}", Call::RevokeApiKey),
    post("portal_verify", "/verify", AuthMode::Required, Call::Verify),
    // Who calls is proven by a client's secret, which the handlers look at.
    of_clients("portal_revoke", "/oauth/revoke", Call::Revoke),
    of_clients("portal_introspect", "/oauth/introspect", Call::Introspect),
    public("portal_jwks", EndpointPath::Absolute("/.well-known/jwks.json"), Call::Jwks, Served::Always),
    public(
        "portal_discovery",
        EndpointPath::Absolute("/.well-known/openid-configuration"),
        Call::Discovery,
        Served::WithPortal,
    ),
    // The reference that it wants is no access token.
    public("portal_claims", EndpointPath::Absolute(CLAIMS_PATH), Call::Claims, Served::Always),
    public("portal_openapi", EndpointPath::Base("/openapi.json"), Call::OpenApi, Served::WithPortal),
    of_admins("admin_audit", Method::GET, "/admin/v1/audit", Call::AdminAudit),
    of_admins("admin_lockouts", Method::GET, "/admin/v1/lockouts", Call::AdminLockouts),
    of_admins("admin_lockouts_lift", Method::DELETE, "/admin/v1/lockouts", Call::AdminLift),
    of_admins("admin_lockout_lift", Method::DELETE, "/admin/v1/lockouts/{id}", Call::AdminLiftOne),
    of_admins("admin_quotas", Method::GET, "/admin/v1/quotas", Call::AdminQuotas),
    of_admins("admin_quotas_reset", Method::DELETE, "/admin/v1/quotas", Call::AdminQuotaReset),
];

const fn post(name: &'static str, path: &'static str, auth: AuthMode, call: Call) -> Endpoint {
    Endpoint {
        name,
        method: Method::POST,
        path: EndpointPath::Base(path),
        auth,
        body_limit: BODY_LIMIT as u64,
        call,
        served: Served::WithPortal,
    }
}

/// What concerns the caller alone; no body.
const fn own(name: &'static str, method: Method, path: &'static str, call: Call) -> Endpoint {
    Endpoint {
        name,
        method,
        path: EndpointPath::Base(path),
        auth: AuthMode::Required,
        body_limit: 0,
        call,
        served: Served::WithPortal,
    }
}

const fn of_clients(name: &'static str, path: &'static str, call: Call) -> Endpoint {
    Endpoint {
        name,
        method: Method::POST,
        path: EndpointPath::Absolute(path),
        auth: AuthMode::None,
        body_limit: oauth::BODY_LIMIT as u64,
        call,
        served: Served::WithOAuth,
    }
}

/// What the role admin alone may call; what it says is in the path and the query.
const fn of_admins(name: &'static str, method: Method, path: &'static str, call: Call) -> Endpoint {
    Endpoint {
        name,
        method,
        path: EndpointPath::Absolute(path),
        auth: AuthMode::Required,
        body_limit: 0,
        call,
        served: Served::ToAdmins,
    }
}

const fn public(name: &'static str, path: EndpointPath, call: Call, served: Served) -> Endpoint {
    Endpoint { name, method: Method::GET, path, auth: AuthMode::None, body_limit: 0, call, served }
}

impl Endpoint {
    /// Every whole path it has, given `portal.base_paths`.
    #[must_use]
    pub fn full_paths(&self, bases: &[Arc<str>]) -> Vec<String> {
        match self.path {
            EndpointPath::Base(path) => bases.iter().map(|base| format!("{base}{path}")).collect(),
            EndpointPath::Absolute(path) => vec![path.to_owned()],
        }
    }

    /// Whether services call it, not people: on every host.
    #[must_use]
    pub const fn of_services(&self) -> bool {
        matches!(self.call, Call::Claims) || self.proves_client()
    }

    /// Whether its callers are clients that the handler knows by their secrets.
    #[must_use]
    pub const fn proves_client(&self) -> bool {
        matches!(self.call, Call::Revoke | Call::Introspect)
    }

    /// How whoever calls it counts while there is too much to do.
    #[must_use]
    pub const fn calls(&self) -> Calls {
        match self.call {
            // Administrators are needed most while there is too much to do; whoever is none is refused right after.
            Call::Jwks
            | Call::Discovery
            | Call::Claims
            | Call::AdminAudit
            | Call::AdminLockouts
            | Call::AdminLift
            | Call::AdminLiftOne
            | Call::AdminQuotas
            | Call::AdminQuotaReset => Calls::Vital,
            Call::Refresh | Call::Logout | Call::Revoke | Call::Introspect => Calls::Returning,
            Call::Register
            | Call::Login
            | Call::Me
            | Call::PatchMe
            | Call::Sessions
            | Call::EndOthers
            | Call::Session
            | Call::EndSession
            | Call::ApiKeys
            | Call::CreateApiKey
            | Call::RevokeApiKey
            | Call::Verify
            | Call::OpenApi => Calls::ByCaller,
        }
    }

    /// `None`: it needs the accounts, and there are none.
    fn handler(&self, published: &Published, accounts: Option<&Shared>) -> Option<MethodRouter> {
        let accounts = || accounts.cloned();
        Some(match self.call {
            Call::Register => self.on(register::register, accounts()?),
            Call::Login => self.on(login::login, accounts()?),
            Call::Refresh => self.on(refresh::refresh, accounts()?),
            Call::Logout => self.on(logout::logout, accounts()?),
            Call::Me => self.on(me::me, accounts()?),
            Call::PatchMe => self.on(me::change, accounts()?),
            Call::Sessions => self.on(sessions::list, accounts()?),
            Call::EndOthers => self.on(sessions::end_others, accounts()?),
            Call::Session => self.on(sessions::one, accounts()?),
            Call::EndSession => self.on(sessions::end_one, accounts()?),
            Call::ApiKeys => self.on(api_keys::list, accounts()?),
            Call::CreateApiKey => self.on(api_keys::create, accounts()?),
            Call::RevokeApiKey => self.on(api_keys::revoke, accounts()?),
            Call::Revoke => self.on(oauth::revoke::revoke, accounts()?),
            Call::Introspect => self.on(oauth::introspect::introspect, accounts()?),
            Call::Verify => self.on(me::verify, accounts()?),
            Call::Jwks => self.on(well_known::jwks, published.clone()),
            Call::Discovery => self.on(well_known::discovery, accounts()?),
            Call::Claims => self.on(claims::claims, published.clone()),
            Call::OpenApi => self.on(openapi::openapi, accounts()?),
            Call::AdminAudit => self.on(admin::audit::list, accounts()?),
            Call::AdminLockouts => self.on(admin::lockouts::list, accounts()?),
            Call::AdminLift => self.on(admin::lockouts::lift, accounts()?),
            Call::AdminLiftOne => self.on(admin::lockouts::lift_one, accounts()?),
            Call::AdminQuotas => self.on(admin::quotas::list, accounts()?),
            Call::AdminQuotaReset => self.on(admin::quotas::reset, accounts()?),
        })
    }

    fn on<H, T, S>(&self, handler: H, state: S) -> MethodRouter
    where
        H: Handler<T, S>,
        T: 'static,
        S: Clone + Send + Sync + 'static,
    {
        let router = match MethodFilter::try_from(self.method.clone()) {
            Ok(filter) => on(filter, handler),
            // No filter exists for extension methods; the table has none, and a test asks every endpoint.
            Err(_) => get(handler),
        };
        router.with_state(state)
    }
}

/// The router of every endpoint in [`ENDPOINTS`]; without `accounts` of those that need none.
pub(crate) fn router(published: &Published, accounts: Option<&Shared>) -> Router {
    let bases = accounts.map(|state| state.portal.base_paths.clone()).unwrap_or_default();
    let mut router = Router::new();
    for endpoint in ENDPOINTS {
        for path in endpoint.full_paths(&bases) {
            if let Some(handler) = endpoint.handler(published, accounts) {
                router = router.route(&path, handler);
            }
        }
    }
    router
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_endpoint_has_a_name_and_a_place_of_its_own() {
        let names: HashSet<_> = ENDPOINTS.iter().map(|endpoint| endpoint.name).collect();
        let places: HashSet<_> = ENDPOINTS
            .iter()
            .map(|endpoint| (endpoint.method.clone(), endpoint.full_paths(&["/auth".into()])))
            .collect();
        assert_eq!((names.len(), places.len()), (ENDPOINTS.len(), ENDPOINTS.len()));
    }

    #[test]
    fn every_method_has_a_filter_in_axum() {
        assert!(ENDPOINTS.iter().all(|endpoint| MethodFilter::try_from(endpoint.method.clone()).is_ok()));
    }

    #[test]
    fn paths_are_below_the_base_unless_they_are_well_known() {
        for endpoint in ENDPOINTS {
            for path in endpoint.full_paths(&["/account".into(), "/api/account".into()]) {
                let below = ["/account/", "/api/account/", "/.well-known/", "/oauth/", "/admin/v1/"]
                    .iter()
                    .any(|base| path.starts_with(base));
                assert!(below, "{path}");
            }
        }
    }

    #[test]
    fn what_anyone_may_call_is_listed_here() {
        let open: Vec<_> =
            ENDPOINTS.iter().filter(|e| e.auth != AuthMode::Required).map(|e| (e.name, e.auth)).collect();
        let expected = [
            ("portal_register", AuthMode::None),
            ("portal_signup", AuthMode::None),
            ("portal_login", AuthMode::None),
            ("portal_refresh", AuthMode::None),
            ("portal_logout", AuthMode::Lenient),
            ("portal_revoke", AuthMode::None),
            ("portal_introspect", AuthMode::None),
            ("portal_jwks", AuthMode::None),
            ("portal_discovery", AuthMode::None),
            ("portal_claims", AuthMode::None),
            ("portal_openapi", AuthMode::None),
        ];
        assert_eq!(open, expected);
    }
}
