//! Claims too large for a header: which of a caller's stay out of the identity and are asked for instead.
//!
//! Headers have limits everywhere (8 KiB a line at many servers), and a list of roles has none. Past [`INLINE_MAX`] the
//! large ones travel as distributed claims (OIDC Core 1.0 §5.6.2): the identity names them, where they are, and the
//! bearer token that reads them. Nothing is ever cut short.

use serde::Serialize;

use crate::policy::claims::Claims;

/// What a caller's claims may take together, as JSON, before the large ones go by reference. Bytes.
pub const INLINE_MAX: usize = 4 * 1024;

/// A claim up to this stays in the identity even then. Bytes of JSON; all that may go by reference are then under
/// 1.3 KiB together.
const SMALL: usize = 256;

/// A claim that has no bound of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimName {
    /// `email`.
    Email,
    /// `org`.
    Org,
    /// `roles`.
    Roles,
    /// `scope`.
    Scope,
    /// `amr`.
    Amr,
}

impl ClaimName {
    const ALL: [Self; 5] = [Self::Email, Self::Org, Self::Roles, Self::Scope, Self::Amr];

    /// As tokens write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Org => "org",
            Self::Roles => "roles",
            Self::Scope => "scope",
            Self::Amr => "amr",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// Bytes it takes in JSON, near enough: escapes count, a scope's spaces count as a list's commas.
    fn len(self, claims: &Claims) -> usize {
        match self {
            Self::Email => json_len(&claims.email),
            Self::Org => json_len(&claims.org),
            Self::Roles => json_len(&claims.roles),
            Self::Scope => json_len(&claims.scopes),
            Self::Amr => json_len(&claims.methods),
        }
    }
}

/// Which of a caller's claims go by reference. None, for nearly everybody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ByReference(u8);

impl ByReference {
    /// Those of these claims.
    #[must_use]
    pub fn of(claims: &Claims) -> Self {
        let lens = ClaimName::ALL.map(|name| (name, name.len(claims)));
        if lens.iter().map(|(_, len)| len).sum::<usize>() <= INLINE_MAX {
            return Self::default();
        }
        Self(lens.iter().filter(|(_, len)| *len > SMALL).fold(0, |bits, (name, _)| bits | name.bit()))
    }

    /// Whether all claims fit.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this one goes by reference.
    #[must_use]
    pub const fn contains(self, name: ClaimName) -> bool {
        self.0 & name.bit() != 0
    }

    /// Those that do.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        ClaimName::ALL.into_iter().filter(move |name| self.contains(*name)).map(ClaimName::as_str)
    }

    /// The others.
    #[must_use]
    pub const fn complement(self) -> Self {
        Self(!self.0)
    }
}

fn json_len(value: &impl Serialize) -> usize {
    // Strings and lists of them always serialise; were one not to, it is not small.
    serde_json::to_string(value).map_or(usize::MAX / 8, |json| json.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::claims::tests::{claims, full_claims};

    fn names(claims: &Claims) -> Vec<&'static str> {
        ByReference::of(claims).names().collect()
    }

    /// Roles that take this many bytes together.
    fn roles(bytes: usize) -> Vec<std::sync::Arc<str>> {
        // `["…","…"]`: each role of ten letters takes thirteen bytes, the list one more.
        let mut roles = vec!["r".repeat(10).into(); (bytes - 1) / 13];
        let rest = bytes - 1 - 13 * roles.len();
        if let Some(last) = roles.last_mut() {
            *last = "r".repeat(10 + rest).into();
        }
        roles
    }

    #[test]
    fn nearly_everybody_s_claims_fit() {
        assert_eq!(names(&full_claims()), [""; 0]);
        assert!(ByReference::of(&claims()).is_empty());
    }

    #[test]
    fn the_last_byte_that_fits_fits() {
        let others = json_len(&claims().email) + json_len(&claims().org) + 2 + 2;
        let fits = Claims { roles: roles(INLINE_MAX - others), ..claims() };
        assert_eq!(names(&fits), [""; 0]);
        let past = Claims { roles: roles(INLINE_MAX - others + 1), ..claims() };
        assert_eq!(names(&past), ["roles"]);
    }

    #[test]
    fn only_the_large_ones_go() {
        let large: Box<str> = "x".repeat(2_100).into();
        let some = Claims {
            scopes: vec![large.clone()],
            org: Some(large),
            roles: roles(200),
            email: Some("ann@example.org".into()),
            ..claims()
        };
        assert_eq!(names(&some), ["org", "scope"]);
        let all = ByReference::of(&some);
        assert!(all.contains(ClaimName::Org) && !all.contains(ClaimName::Roles));
        assert!(all.complement().contains(ClaimName::Roles) && !all.complement().contains(ClaimName::Scope));
    }
}
