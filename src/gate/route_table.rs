//! The table that finds a request's route: by host, path and method. Closed by default.

use std::{collections::HashMap, sync::Arc};

use http::{HeaderValue, Method};

use crate::{gate::snapshot::RouteEntry, policy::reason::Reason};

/// Why no route took a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unrouted {
    /// No pattern matches host and path.
    NoRoute,
    /// Patterns match, but none with this method; the `Allow` header to send.
    Method(HeaderValue),
}

impl Unrouted {
    /// The reason to refuse with.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::NoRoute => Reason::NoRoute,
            Self::Method(_) => Reason::MethodNotAllowed,
        }
    }
}

/// A route cannot be placed in the table. The configuration's checks refuse such routes first.
#[derive(Debug, thiserror::Error)]
#[error("route {name}: pattern {path}: {cause}")]
pub struct PatternFault {
    name: Arc<str>,
    path: String,
    cause: matchit::InsertError,
}

#[derive(Debug, Default)]
struct Paths {
    /// Pattern → its place in `candidates`.
    router: matchit::Router<usize>,
    patterns: HashMap<String, usize>,
    candidates: Vec<Candidates>,
}

/// Routes of one pattern: those written for it in the order of the file, then those that reach it as bare prefix.
#[derive(Debug, Default)]
struct Candidates {
    routes: Vec<Arc<RouteEntry>>,
    written: usize,
}

impl Paths {
    /// A route written for this very pattern goes before those that only reach it as their bare prefix.
    fn insert(&mut self, pattern: &str, route: &Arc<RouteEntry>, bare: bool) -> Result<(), matchit::InsertError> {
        let place = if let Some(place) = self.patterns.get(pattern) {
            *place
        } else {
            let place = self.candidates.len();
            self.router.insert(pattern, place)?;
            self.patterns.insert(pattern.to_owned(), place);
            self.candidates.push(Candidates::default());
            place
        };
        if let Some(candidates) = self.candidates.get_mut(place) {
            let at = if bare { candidates.routes.len() } else { candidates.written };
            candidates.routes.insert(at, Arc::clone(route));
            candidates.written += usize::from(!bare);
        }
        Ok(())
    }

    fn find(&self, path: &str) -> Option<&[Arc<RouteEntry>]> {
        let place = *self.router.at(path).ok()?.value;
        self.candidates.get(place).map(|candidates| candidates.routes.as_slice())
    }
}

/// Routes by host, path and method. Closed by default: what no route names is refused.
///
/// The portal comes first, whatever host a configured route names: no catch-all may swallow a login and send its
/// password to a service.
#[derive(Debug, Default)]
pub struct RouteTable {
    portal: Paths,
    /// What services ask for, by whatever name they know this gateway: claims by reference, a preset's keys.
    of_services: Paths,
    portal_host: Option<Arc<str>>,
    portal_bases: Vec<Arc<str>>,
    by_host: HashMap<Arc<str>, Paths>,
    any_host: Paths,
    all: Vec<Arc<RouteEntry>>,
}

impl RouteTable {
    /// All below these paths is the portal's, whether there is an endpoint or not and in whatever case it is spelled: a
    /// mistyped login is 404 and its password goes nowhere.
    pub fn set_portal_bases(&mut self, bases: Vec<Arc<str>>) {
        self.portal_bases = bases;
    }

    /// Serves the portal on this host only; what services ask for stays on all.
    pub fn set_portal_host(&mut self, host: Arc<str>) {
        self.portal_host = Some(host);
    }

    /// Adds one of the portal's endpoints, at literal paths: one route, however many lead to it.
    pub fn insert_portal(&mut self, paths: &[String], route: RouteEntry) -> Result<(), PatternFault> {
        let route = own(&mut self.portal, paths, route)?;
        self.all.push(route);
        Ok(())
    }

    /// Adds what services ask this gateway for, at literal paths on every host.
    pub fn insert_for_services(&mut self, paths: &[String], route: RouteEntry) -> Result<(), PatternFault> {
        let route = own(&mut self.of_services, paths, route)?;
        self.all.push(route);
        Ok(())
    }

    /// Adds a route for `hosts` (none: any) at `path`. A `/{*rest}` at the end also takes the bare prefix with its
    /// slash, which the router alone would not.
    pub fn insert(&mut self, hosts: &[Arc<str>], path: &str, route: RouteEntry) -> Result<(), PatternFault> {
        let route = Arc::new(route);
        let fault = |cause| PatternFault { name: Arc::clone(&route.name), path: path.to_owned(), cause };
        let bare = path.rfind("/{*").map(|at| &path[..=at]);
        for (pattern, bare) in std::iter::once((path, false)).chain(bare.map(|bare| (bare, true))) {
            if hosts.is_empty() {
                self.any_host.insert(pattern, &route, bare).map_err(fault)?;
            }
            for host in hosts {
                self.by_host.entry(Arc::clone(host)).or_default().insert(pattern, &route, bare).map_err(fault)?;
            }
        }
        self.all.push(route);
        Ok(())
    }

    /// The route for a request: the portal's, else what services ask for, else one of the very host, else one for any
    /// host. Where a pattern of one kind matches, the next is not asked: a method that the narrower route does not take
    /// is 405, not somebody else's.
    pub fn find(&self, host: &str, path: &str, method: &Method) -> Result<&Arc<RouteEntry>, Unrouted> {
        let of_services = self.of_services.find(path);
        let portal_here = self.portal_host.as_ref().is_none_or(|own| own.eq_ignore_ascii_case(host));
        let of_portal = if portal_here { self.portal.find(path) } else { None };
        if of_portal.or(of_services).is_none() && portal_here && self.is_below_base(path) {
            return Err(Unrouted::NoRoute);
        }
        let of_host = || self.of_host(host).and_then(|paths| paths.find(path));
        let found = of_portal.or(of_services).or_else(of_host).or_else(|| self.any_host.find(path));
        let candidates = || found.into_iter().flatten();
        if let Some(route) = candidates().find(|route| route.takes(method)) {
            return Ok(route);
        }
        let mut allowed: Vec<&str> = candidates().flat_map(|route| route.methods.iter().map(Method::as_str)).collect();
        if allowed.is_empty() {
            return Err(Unrouted::NoRoute);
        }
        allowed.sort_unstable();
        allowed.dedup();
        HeaderValue::from_str(&allowed.join(", ")).map_or(Err(Unrouted::NoRoute), |allow| Err(Unrouted::Method(allow)))
    }

    fn is_below_base(&self, path: &str) -> bool {
        self.portal_bases.iter().any(|base| {
            let Some((start, rest)) = path.split_at_checked(base.len()) else { return false };
            start.eq_ignore_ascii_case(base) && (rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// The table keeps lower-case names; clients may spell theirs as they like (RFC 9110 §4.2.3).
    fn of_host(&self, host: &str) -> Option<&Paths> {
        if self.by_host.is_empty() {
            None
        } else if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            self.by_host.get(host.to_ascii_lowercase().as_str())
        } else {
            self.by_host.get(host)
        }
    }

    /// Every route, in the order they were added.
    #[must_use]
    pub fn all(&self) -> &[Arc<RouteEntry>] {
        &self.all
    }
}

fn own(table: &mut Paths, paths: &[String], route: RouteEntry) -> Result<Arc<RouteEntry>, PatternFault> {
    let route = Arc::new(route);
    for path in paths {
        let fault = |cause| PatternFault { name: Arc::clone(&route.name), path: path.clone(), cause };
        table.insert(path, &route, false).map_err(fault)?;
    }
    Ok(route)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        config::settings::{AuthMode, Credentials, RouteTimeouts, Staleness},
        gate::{route_limits::RouteLimits, snapshot::Target},
        policy::overload::Calls,
        telemetry::metrics::Metrics,
    };

    fn route(name: &str, methods: &[Method]) -> RouteEntry {
        RouteEntry {
            name: name.into(),
            hosts: Vec::new(),
            methods: methods.to_vec(),
            auth: AuthMode::Required,
            calls: Calls::ByCaller,
            credentials: Credentials::BEARER,
            roles: Vec::new(),
            scopes: Vec::new(),
            own_tokens: true,
            audience: "a".into(),
            issuers: Vec::new(),
            quotas: crate::gate::quotas::RouteQuotas::default(),
            limits: RouteLimits::default(),
            allowed_origins: Vec::new(),
            target: Target::Portal,
            rewrite: None,
            staleness: Staleness::DEFAULT,
            timeouts: RouteTimeouts {
                first_byte: Duration::ZERO,
                idle: Duration::ZERO,
                tunnel_idle: Duration::ZERO,
                total: None,
                upload: None,
            },
            body_limit: None,
            forward_authorization: false,
            websocket: false,
            metering: None,
            metrics: Metrics::new().route(name),
        }
    }

    fn found(table: &RouteTable, host: &str, path: &str, method: &Method) -> String {
        match table.find(host, path, method) {
            Ok(route) => route.name.to_string(),
            Err(Unrouted::NoRoute) => "nothing".to_owned(),
            Err(Unrouted::Method(allow)) => format!("allow {}", allow.to_str().unwrap()),
        }
    }

    #[test]
    fn no_catch_all_of_any_host_swallows_the_portal() {
        let mut table = RouteTable::default();
        table.insert(&["rag.example".into()], "/{*rest}", route("of_host", &[])).unwrap();
        table.insert(&[], "/{*rest}", route("of_any", &[])).unwrap();
        table.insert_portal(&["/auth/login".into()], route("login", &[Method::POST])).unwrap();
        assert_eq!(found(&table, "rag.example", "/auth/login", &Method::POST), "login");
        assert_eq!(found(&table, "other", "/auth/login", &Method::POST), "login");
        // Nor with a method the portal does not take: the path is its own.
        assert_eq!(found(&table, "rag.example", "/auth/login", &Method::GET), "allow POST");
        assert_eq!(found(&table, "rag.example", "/auth/other", &Method::POST), "of_host");
    }

    #[test]
    fn a_mistyped_login_goes_nowhere() {
        let mut table = RouteTable::default();
        table.set_portal_bases(vec!["/auth".into(), "/api/auth".into()]);
        table.insert(&[], "/{*rest}", route("of_any", &[])).unwrap();
        let paths = ["/auth/login".into(), "/api/auth/login".into()];
        table.insert_portal(&paths, route("login", &[Method::POST])).unwrap();
        for path in ["/auth/login/", "/auth/Login", "/AUTH/login", "/auth/logon", "/auth", "/auth/", "/api/Auth/login"]
        {
            assert_eq!(found(&table, "h", path, &Method::POST), "nothing", "{path}");
        }
        for path in &paths {
            assert_eq!(found(&table, "h", path, &Method::POST), "login", "{path}");
        }
        assert_eq!(found(&table, "h", "/authors", &Method::GET), "of_any");
    }

    #[test]
    fn a_portal_on_a_host_of_its_own_is_on_no_other() {
        let mut table = RouteTable::default();
        table.set_portal_host("login.example".into());
        table.insert_portal(&["/auth/login".into()], route("login", &[Method::POST])).unwrap();
        assert_eq!(found(&table, "LOGIN.example", "/auth/login", &Method::POST), "login");
        assert_eq!(found(&table, "rag.example", "/auth/login", &Method::POST), "nothing");
    }

    #[test]
    fn what_services_ask_for_is_on_every_host_and_nobody_else_s() {
        let mut table = RouteTable::default();
        table.set_portal_host("login.example".into());
        table.set_portal_bases(vec!["/.well-known".into()]);
        table.insert(&["gateway-1".into()], "/{*rest}", route("of_host", &[])).unwrap();
        table.insert_for_services(&["/.well-known/portcullis/claims".into()], route("claims", &[Method::GET])).unwrap();
        for host in ["login.example", "gateway-1", "10.0.0.7"] {
            assert_eq!(found(&table, host, "/.well-known/portcullis/claims", &Method::GET), "claims", "{host}");
            assert_eq!(found(&table, host, "/.well-known/portcullis/claims", &Method::POST), "allow GET", "{host}");
        }
    }

    #[test]
    fn the_very_host_wins_and_its_case_does_not_matter() {
        let mut table = RouteTable::default();
        table.insert(&["rag.example".into()], "/docs", route("of_host", &[Method::GET])).unwrap();
        table.insert(&[], "/docs", route("of_any", &[])).unwrap();
        assert_eq!(found(&table, "Rag.Example", "/docs", &Method::GET), "of_host");
        assert_eq!(found(&table, "rag.example", "/docs", &Method::HEAD), "of_host");
        // Nor does a method it does not take fall through to a route that may ask for less.
        assert_eq!(found(&table, "rag.example", "/docs", &Method::POST), "allow GET");
        assert_eq!(found(&table, "else.example", "/docs", &Method::GET), "of_any");
    }

    #[test]
    fn a_catch_all_takes_its_bare_prefix_unless_a_route_is_written_for_it() {
        let mut table = RouteTable::default();
        table.insert(&[], "/files/{*rest}", route("all", &[])).unwrap();
        assert_eq!(found(&table, "h", "/files/", &Method::GET), "all");
        assert_eq!(found(&table, "h", "/files", &Method::GET), "nothing");
        table.insert(&[], "/files/", route("list", &[Method::GET])).unwrap();
        assert_eq!(found(&table, "h", "/files/", &Method::GET), "list");
        assert_eq!(found(&table, "h", "/files/", &Method::PUT), "all");
    }

    #[test]
    fn what_no_route_names_is_closed() {
        assert_eq!(found(&RouteTable::default(), "h", "/", &Method::GET), "nothing");
    }
}
