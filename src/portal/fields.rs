//! The members of a request body, JSON or a form's (`form`), taken one by one and checked, every mistake named at once.
//!
//! A JSON body is one object (RFC 8259). What no endpoint asked for, what comes twice (RFC 8259 §4 leaves its meaning
//! open, so two readers may disagree) and what is of the wrong kind is refused with the member's name; values are never
//! repeated in an answer, since one of them is a password.

use std::{convert::Infallible, fmt::Display};

use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::{HeaderMap, header};
use secrecy::SecretString;
use serde::{
    Deserialize,
    de::{DeserializeOwned, Deserializer, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    gate::refusal::{Detail, FieldFault, Refusal},
    policy::{reason::Reason, refresh::Delivery},
    portal::{border::whole_body, endpoints::BODY_LIMIT, state::Shared},
};

/// Faults named in one answer; more help nobody.
const MOST_FAULTS: usize = 16;

/// Members that are looked at, several times what any request has: each is compared with all before it.
const MOST_MEMBERS: usize = 32;

/// Characters of an unknown member's name that are repeated in an answer.
const NAME_CHARS: usize = 64;

/// The members of a request body that have not been taken yet, and what was wrong with those that have.
#[derive(Default)]
pub(crate) struct Fields {
    members: Vec<(String, Box<RawValue>)>,
    faults: Vec<FieldFault>,
}

impl std::fmt::Debug for Fields {
    /// Without the values: one may be a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.members.iter().map(|(name, _)| name).collect();
        f.debug_struct("Fields").field("members", &names).field("faults", &self.faults).finish()
    }
}

/// A kind of member.
pub(crate) trait Kind: Sized {
    /// How it is parsed.
    type Json: DeserializeOwned + Into<Self>;
    /// What it must be, in words.
    const WORDS: &'static str;
}

impl Kind for String {
    type Json = Self;
    const WORDS: &'static str = "must be a string";
}

impl Kind for SecretString {
    type Json = String;
    const WORDS: &'static str = "must be a string";
}

impl Kind for bool {
    type Json = Self;
    const WORDS: &'static str = "must be true or false";
}

impl Kind for u64 {
    type Json = Self;
    const WORDS: &'static str = "must be a whole number";
}

impl Kind for Vec<String> {
    type Json = Self;
    const WORDS: &'static str = "must be a list of strings";
}

impl Kind for Delivery {
    type Json = Self;
    const WORDS: &'static str = "must be \"body\" or \"cookie\"";
}

/// No check beyond the kind.
#[expect(clippy::unnecessary_wraps, reason = "stands where a check that can fail stands")]
pub(crate) fn as_given<T>(value: T) -> Result<T, Infallible> {
    Ok(value)
}

impl Fields {
    /// The members of a body; an empty body has none.
    fn parse(body: &Bytes) -> Result<Self, Refusal> {
        if body.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_slice(body).map_err(|fault| {
            if fault.is_data() {
                validation(vec![FieldFault { field: String::new(), message: "must be a JSON object".into() }])
            } else {
                Refusal::because(Reason::BodyBroken, "the body is not valid JSON")
            }
        })
    }

    /// A member that must be there.
    pub(crate) fn required<T: Kind, R, F: Display>(
        &mut self,
        name: &'static str,
        check: impl FnOnce(T) -> Result<R, F>,
    ) -> Option<R> {
        let faults = self.faults.len();
        let value = self.optional(name, check);
        if value.is_none() && self.faults.len() == faults {
            self.fault(name, "is required");
        }
        value
    }

    /// A member that may be missing or null, which means the same.
    pub(crate) fn optional<T: Kind, R, F: Display>(
        &mut self,
        name: &'static str,
        check: impl FnOnce(T) -> Result<R, F>,
    ) -> Option<R> {
        self.nullable(name, check).flatten()
    }

    /// A member that may be missing (`None`) or null (`Some(None)`), which are different things.
    #[expect(clippy::option_option, reason = "what a change of profile is made of; see `ProfilePatch`")]
    pub(crate) fn nullable<T: Kind, R, F: Display>(
        &mut self,
        name: &'static str,
        check: impl FnOnce(T) -> Result<R, F>,
    ) -> Option<Option<R>> {
        let index = self.members.iter().position(|(member, _)| member == name)?;
        let (_, raw) = self.members.swap_remove(index);
        match serde_json::from_str::<Option<T::Json>>(raw.get()) {
            Err(_) => self.fault(name, T::WORDS),
            Ok(None) => return Some(None),
            Ok(Some(value)) => match check(value.into()) {
                Ok(checked) => return Some(Some(checked)),
                Err(fault) => self.fault(name, &fault.to_string()),
            },
        }
        None
    }

    /// Takes a member whose value nobody needs.
    pub(crate) fn ignore(&mut self, name: &str) {
        self.members.retain(|(member, _)| member != name);
    }

    /// Adds a member that came as text. A name that came before is a fault.
    pub(crate) fn give(&mut self, name: String, text: &str) {
        match serde_json::value::to_raw_value(text) {
            Ok(value) => self.add(name, value),
            Err(_) => self.fault(&name, "is no text"),
        }
    }

    /// Forgets members whose text is empty.
    pub(crate) fn forget_empty(&mut self) {
        self.members.retain(|(_, value)| value.get() != "\"\"");
    }

    fn add(&mut self, name: String, value: Box<RawValue>) {
        if self.members.iter().any(|(member, _)| *member == name) {
            self.fault(&name, "is given twice");
        } else {
            self.members.push((name, value));
        }
    }

    /// The members as names and JSON; `None`: something was wrong.
    pub(crate) fn texts(self) -> Option<Vec<(String, String)>> {
        let texts = self.members.into_iter().map(|(name, value)| (name, value.get().to_owned()));
        self.faults.is_empty().then(|| texts.collect())
    }

    /// Notes what is wrong with a member.
    pub(crate) fn fault(&mut self, field: &str, message: &str) {
        let field = field.chars().take(NAME_CHARS).collect();
        self.faults.push(FieldFault { field, message: message.to_owned() });
    }

    /// Everything was taken: gives `taken`, unless something was wrong or is left.
    ///
    /// # Errors
    /// [`Reason::Validation`] with every fault.
    pub(crate) fn finish<T>(mut self, taken: Option<T>) -> Result<T, Refusal> {
        for (name, _) in std::mem::take(&mut self.members) {
            self.fault(&name, "is not a field of this request");
        }
        match taken {
            Some(taken) if self.faults.is_empty() => Ok(taken),
            None if self.faults.is_empty() => Err(Refusal::internal("a field is missing that no check named")),
            _ => Err(validation(self.faults)),
        }
    }
}

/// How a JSON body is read: names, and values as JSON. For the fuzz target alone.
#[must_use]
pub fn read_json(body: &[u8]) -> Option<Vec<(String, String)>> {
    Fields::parse(&Bytes::copy_from_slice(body)).ok()?.texts()
}

/// One member does not fit, by a check that came after the others.
pub(crate) fn one_fault(field: &str, fault: &impl Display) -> Refusal {
    validation(vec![FieldFault { field: field.to_owned(), message: fault.to_string() }])
}

fn validation(mut faults: Vec<FieldFault>) -> Refusal {
    faults.truncate(MOST_FAULTS);
    Refusal::with(Reason::Validation, Detail::Fields(faults))
}

impl FromRequest<Shared> for Fields {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &Shared) -> Result<Self, Refusal> {
        let is_json = is_json(request.headers());
        let body = whole_body(request, BODY_LIMIT).await?;
        // A page of another origin can make a browser send any text as `text/plain` without asking first, so a body of
        // another type is not read as JSON even when it is some.
        if !is_json && !body.is_empty() {
            return Err(Refusal::because(Reason::MediaType, "Content-Type must be application/json"));
        }
        Self::parse(&body)
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(value)) = headers.get(header::CONTENT_TYPE).map(http::HeaderValue::to_str) else { return false };
    let essence = value.split_once(';').map_or(value, |(essence, _)| essence);
    essence.trim().eq_ignore_ascii_case("application/json")
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Fields;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        for _ in 0..MOST_MEMBERS {
            let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? else { return Ok(fields) };
            fields.add(name, value);
        }
        if map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            fields.fault("", "has more fields than any request of this service");
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests;
