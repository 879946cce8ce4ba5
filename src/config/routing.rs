//! Which requests each route takes, so that no request has two routes and none is taken from the portal.
//!
//! The same matcher that routes requests decides here which patterns are the same, host by host.

use std::collections::HashMap;

use http::Method;

use super::{
    checks::Checks,
    item::At,
    portal::ADMIN_BASE,
    settings::{AdminApi, Portal},
};
use crate::policy::preset::Preset;

/// Where the key set is, with the portal and without it.
const KEYS: &str = "/.well-known/jwks.json";

/// Where services read the claims that their identities refer to, likewise.
const CLAIMS: &str = "/.well-known/portcullis/claims";

/// What the portal serves wherever it is, besides its own base paths.
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// The requests one route takes.
pub(super) struct Claim {
    /// Where its path stands.
    pub(super) at: At,
    /// The route's key path, e.g. `routes[3]`.
    pub(super) route: String,
    /// Empty: any.
    pub(super) hosts: Vec<String>,
    pub(super) path: String,
    /// Empty: any.
    pub(super) methods: Vec<Method>,
}

/// Everything claimed so far.
pub(super) struct Table<'p> {
    portal: Option<&'p Portal>,
    presets: &'p [Preset],
    /// By host; the empty name is "any host".
    hosts: HashMap<String, HostTable>,
}

#[derive(Default)]
struct HostTable {
    patterns: matchit::Router<()>,
    claimed: HashMap<String, Vec<(String, Vec<Method>)>>,
}

impl<'p> Table<'p> {
    pub(super) fn new(portal: Option<&'p Portal>, presets: &'p [Preset]) -> Self {
        Self { portal: portal.filter(|portal| portal.enabled), presets, hosts: HashMap::new() }
    }

    /// Adds a route's claim, or notes whom it collides with.
    pub(super) fn claim(&mut self, claim: &Claim, checks: &mut Checks) {
        if self.presets.iter().any(|preset| preset.key_paths().contains(&claim.path.as_str())) {
            checks.error(&claim.at, "the gateway's own while a cluster has this identity.preset: its keys are there");
            return;
        }
        if claim.path == KEYS {
            checks.error(&claim.at, "the gateway's own: services find the keys there that verify identities");
            return;
        }
        if claim.path == CLAIMS {
            checks.error(&claim.at, "the gateway's own: services find the claims there that no header holds");
            return;
        }
        if let Some(owner) = self.portal.and_then(|portal| portal_claims(portal, claim)) {
            let message = format!("{owner}; it is the portal's while portal.enabled");
            checks.error(&claim.at, message);
            return;
        }
        let any = [String::new()];
        let hosts = if claim.hosts.is_empty() { &any[..] } else { &claim.hosts[..] };
        for (index, host) in hosts.iter().enumerate() {
            if let Err(message) = self.hosts.entry(host.clone()).or_default().claim(claim) {
                let place = if host.is_empty() { String::new() } else { format!(" on hosts[{index}]") };
                checks.error(&claim.at, format!("{message}{place}"));
                return;
            }
        }
    }
}

impl HostTable {
    fn claim(&mut self, claim: &Claim) -> Result<(), String> {
        if !self.claimed.contains_key(&claim.path)
            && let Err(error) = self.patterns.insert(claim.path.as_str(), ())
        {
            return Err(match error {
                matchit::InsertError::Conflict { with } => self.conflict(&with),
                error => error.to_string(),
            });
        }
        let claimed = self.claimed.entry(claim.path.clone()).or_default();
        for (route, methods) in claimed.iter() {
            if let Some(method) = common_method(methods, &claim.methods) {
                return Err(format!("{route} takes {method} of this path already"));
            }
        }
        claimed.push((claim.route.clone(), claim.methods.clone()));
        Ok(())
    }

    fn conflict(&self, with: &str) -> String {
        match self.claimed.get(with).and_then(|claimed| claimed.first()) {
            Some((route, _)) => format!("matches the same paths as {route}; name the parameters alike"),
            None => "overlaps another route's path".to_owned(),
        }
    }
}

/// A method both lists take; empty takes any, GET takes HEAD.
fn common_method(one: &[Method], other: &[Method]) -> Option<String> {
    let takes = |list: &[Method], method: &Method| {
        list.is_empty() || list.contains(method) || (*method == Method::HEAD && list.contains(&Method::GET))
    };
    if one.is_empty() && other.is_empty() {
        return Some("any method".to_owned());
    }
    let common =
        one.iter().find(|method| takes(other, method)).or_else(|| other.iter().find(|method| takes(one, method)));
    common.map(Method::to_string)
}

/// What of the portal's a claim would take. Patterns with a parameter there lose to the portal's literal paths.
fn portal_claims(portal: &Portal, claim: &Claim) -> Option<&'static str> {
    let same_host = match &portal.host {
        None => true,
        Some(host) => claim.hosts.is_empty() || claim.hosts.iter().any(|claimed| **claimed == **host),
    };
    let under = |base: &str| claim.path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if same_host && portal.base_paths.iter().any(|base| under(base)) {
        return Some("lies under one of portal.base_paths");
    }
    if same_host && portal.admin_api == AdminApi::Public && under(ADMIN_BASE) {
        return Some("lies under /admin/v1, where portal.admin_api: public has the admin API");
    }
    (claim.path == DISCOVERY).then_some("is a path of the portal")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn claim(route: &str, hosts: &[&str], path: &str, methods: &[Method]) -> Claim {
        Claim {
            at: At::root(),
            route: route.to_owned(),
            hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
            path: path.to_owned(),
            methods: methods.to_vec(),
        }
    }

    fn collisions(claims: &[Claim]) -> Vec<String> {
        let mut table = Table::new(None, &[]);
        let mut checks = Checks::new(Path::new(""), Vec::new());
        for claim in claims {
            table.claim(claim, &mut checks);
        }
        checks.errors.into_iter().map(|error| error.message).collect()
    }

    #[test]
    fn a_request_has_one_route() {
        let both = [claim("a", &[], "/x", &[]), claim("b", &[], "/x", &[Method::GET])];
        assert_eq!(collisions(&both), ["a takes GET of this path already"]);
        let both = [claim("a", &[], "/x", &[Method::GET]), claim("b", &[], "/x", &[Method::HEAD])];
        assert_eq!(collisions(&both), ["a takes HEAD of this path already"]);
        let both = [claim("a", &[], "/x", &[]), claim("b", &[], "/x", &[])];
        assert_eq!(collisions(&both), ["a takes any method of this path already"]);
        let both = [claim("a", &["h", "g"], "/x", &[]), claim("b", &["g"], "/x", &[])];
        assert_eq!(collisions(&both), ["a takes any method of this path already on hosts[0]"]);
    }

    #[test]
    fn different_methods_hosts_and_more_literal_paths_do_not_collide() {
        let claims = [
            claim("a", &[], "/x", &[Method::GET]),
            claim("b", &[], "/x", &[Method::POST]),
            claim("c", &["h"], "/x", &[]),
            claim("d", &[], "/{*rest}", &[]),
            claim("e", &[], "/x/{id}", &[]),
            claim("f", &[], "/x/{id}/y", &[]),
            claim("g", &[], "/", &[]),
        ];
        assert_eq!(collisions(&claims), Vec::<String>::new());
    }

    #[test]
    fn one_place_in_a_path_has_one_parameter_name() {
        let both = [claim("a", &[], "/x/{id}", &[Method::GET]), claim("b", &[], "/x/{name}", &[Method::POST])];
        assert_eq!(collisions(&both), ["matches the same paths as a; name the parameters alike"]);
    }
}
