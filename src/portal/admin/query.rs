//! What a call of the admin API says in its query (`application/x-www-form-urlencoded`), taken one by one as the
//! members of a body are: what no call asked for, what comes twice and what does not parse is 422 with the name.

use std::fmt::Display;

use crate::{
    gate::refusal::Refusal,
    policy::reason::Reason,
    portal::{fields::Fields, form::pairs},
};

/// The parameters of a call that have not been taken yet.
#[derive(Default)]
pub(crate) struct Query(Fields);

impl Query {
    /// Of the text behind the `?`.
    ///
    /// # Errors
    /// It is no such text, or has too many parameters.
    pub(super) fn of(text: Option<&str>) -> Result<Self, Refusal> {
        let broken = || Refusal::because(Reason::Validation, "the query does not parse");
        let mut fields = Fields::default();
        for (name, value) in pairs(text.unwrap_or_default().as_bytes()).ok_or_else(broken)? {
            fields.give(name, &value);
        }
        Ok(Self(fields))
    }

    /// A parameter that may be missing.
    pub(crate) fn optional<T, F: Display>(
        &mut self,
        name: &'static str,
        check: impl FnOnce(String) -> Result<T, F>,
    ) -> Option<T> {
        self.0.optional(name, check)
    }

    /// What was made of a parameter, or a note of what is wrong with it.
    pub(crate) fn checked<T>(&mut self, name: &'static str, made: Result<T, &str>) -> Option<T> {
        made.map_err(|message| self.0.fault(name, message)).ok()
    }

    /// All were taken, and this was made of them, unless something was wrong.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub(crate) fn finish_with<T>(self, taken: Option<T>) -> Result<T, Refusal> {
        self.0.finish(taken)
    }

    /// All were taken.
    ///
    /// # Errors
    /// [`Reason::Validation`]: one was not good, or nobody asked for it.
    pub(crate) fn finish<T>(self, taken: T) -> Result<T, Refusal> {
        self.0.finish(Some(taken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::refusal::Detail;

    fn faults(text: &str) -> Vec<String> {
        let taken = Query::of(Some(text)).and_then(|mut query| {
            let taken = query.optional("limit", |text: String| text.parse::<u32>().map_err(|_| "must be a number"));
            query.finish(taken)
        });
        match taken.err().and_then(|refusal| refusal.detail).map(|detail| *detail) {
            None => Vec::new(),
            Some(Detail::Fields(faults)) => faults.into_iter().map(|fault| fault.field).collect(),
            Some(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_nobody_asked_for_comes_twice_or_does_not_fit_is_named() {
        assert_eq!(faults("limit=5"), Vec::<String>::new());
        assert_eq!(faults(""), Vec::<String>::new());
        assert_eq!(faults("limit="), ["limit"]);
        assert_eq!(faults("limit=x"), ["limit"]);
        assert_eq!(faults("limit=1&limit=2"), ["limit"]);
        assert_eq!(faults("limit=1&roles=admin"), ["roles"]);
    }

    #[test]
    fn what_is_no_text_or_too_much_is_refused() {
        assert!(Query::of(Some("a=%ff")).is_err());
        assert!(Query::of(Some(&"a=1&".repeat(40))).is_err());
        assert!(Query::of(None).is_ok());
    }
}
