//! May this caller use this route? Any one of the roles and all of the scopes the route names.

use std::sync::Arc;

use crate::policy::{claims::Claims, reason::Reason};

/// Roles with a rank, the highest first. Any other ranks below them all.
const RANKED: [&str; 3] = ["admin", "analyst", "user"];

/// Whether the caller may pass: it has one of `roles_needed` (or none is needed) and every one of `scopes_needed`.
///
/// A role does not imply another: `admin` passes where `admin` is listed. Without claims a route that needs anything
/// answers [`Reason::CredentialsMissing`].
pub fn authorise(roles_needed: &[Arc<str>], scopes_needed: &[Arc<str>], claims: Option<&Claims>) -> Result<(), Reason> {
    if roles_needed.is_empty() && scopes_needed.is_empty() {
        return Ok(());
    }
    let claims = claims.ok_or(Reason::CredentialsMissing)?;
    if !roles_needed.is_empty() && !claims.roles.iter().any(|role| roles_needed.contains(role)) {
        return Err(Reason::RoleMissing);
    }
    if !scopes_needed.iter().all(|needed| claims.scopes.iter().any(|scope| **scope == **needed)) {
        return Err(Reason::ScopeMissing);
    }
    Ok(())
}

/// The highest of these roles, for clients that know one: admin, then analyst, then user, then the first of the
/// others. Empty when there is none.
#[must_use]
pub fn highest_role<S: AsRef<str>>(roles: &[S]) -> &str {
    let rank = |role: &&str| RANKED.iter().position(|ranked| ranked == role).unwrap_or(RANKED.len());
    // `min_by_key` gives the first of equals.
    roles.iter().map(AsRef::as_ref).min_by_key(rank).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::claims::tests::{claims, full_claims};

    fn names(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[test]
    fn a_route_that_needs_nothing_takes_anyone() {
        assert_eq!(authorise(&[], &[], None), Ok(()));
        assert_eq!(authorise(&[], &[], Some(&claims())), Ok(()));
    }

    #[test]
    fn an_anonymous_caller_has_no_role_and_no_scope() {
        assert_eq!(authorise(&names(&["user"]), &[], None), Err(Reason::CredentialsMissing));
        assert_eq!(authorise(&[], &names(&["docs:read"]), None), Err(Reason::CredentialsMissing));
    }

    #[test]
    fn any_one_role_suffices() {
        assert_eq!(authorise(&names(&["admin", "analyst"]), &[], Some(&full_claims())), Ok(()));
        assert_eq!(authorise(&names(&["admin"]), &[], Some(&full_claims())), Err(Reason::RoleMissing));
    }

    #[test]
    fn every_scope_is_needed() {
        assert_eq!(authorise(&[], &names(&["docs:read", "docs:write"]), Some(&full_claims())), Ok(()));
        let more = names(&["docs:read", "docs:admin"]);
        assert_eq!(authorise(&[], &more, Some(&full_claims())), Err(Reason::ScopeMissing));
    }

    #[test]
    fn a_role_is_no_scope_and_neither_makes_up_for_the_other() {
        let (role, scope) = (names(&["analyst"]), names(&["analyst"]));
        assert_eq!(authorise(&role, &scope, Some(&full_claims())), Err(Reason::ScopeMissing));
        assert_eq!(authorise(&names(&["docs:read"]), &[], Some(&full_claims())), Err(Reason::RoleMissing));
    }

    #[test]
    fn names_are_compared_exactly() {
        for near in ["Analyst", "analyst ", "analys", "analysts", ""] {
            assert_eq!(authorise(&names(&[near]), &[], Some(&full_claims())), Err(Reason::RoleMissing), "{near}");
        }
    }

    #[test]
    fn the_highest_role_goes_by_rank_and_then_by_place() {
        assert_eq!(highest_role(&["user", "admin", "analyst"]), "admin");
        assert_eq!(highest_role(&["curator", "user"]), "user");
        assert_eq!(highest_role(&["curator", "auditor"]), "curator");
        assert_eq!(highest_role::<&str>(&[]), "");
    }
}
