//! `by:` what a limit counts by, as the file writes it: one word, or a list of two.

use std::{borrow::Cow, fmt, str::FromStr};

use http::HeaderName;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, SeqAccess, Visitor},
};

use crate::{
    config::{
        checks::Checks,
        errors::{Fault, nearest},
        item::{At, Item},
        scalar::{Scalar, carried, scalar},
        settings::{KeyPart, LimitKey},
        words::word,
    },
    policy::headers::is_reserved,
};

/// Words for what the file may count by; `header:` is followed by a name.
const WORDS: [&str; 7] = ["address", "subject", "session", "api_key", "client", "org", "route"];

const EXPECTED: &str = "address, subject, session, api_key, client, org, route, header:NAME or a list of two of them";

word! {
    /// One thing to count by.
    Part(KeyPart), "^(address|subject|session|api_key|client|org|route|header:[A-Za-z0-9-]+)$|\\$\\{", |value| value.to_string(),
    |text| part(text).map(Self)
}

fn part(text: &str) -> Result<KeyPart, Fault> {
    Ok(match text {
        "address" => KeyPart::Address,
        "subject" => KeyPart::Subject,
        "session" => KeyPart::Session,
        "api_key" => KeyPart::ApiKey,
        "client" => KeyPart::Client,
        "org" => KeyPart::Org,
        "route" => KeyPart::Route,
        other => return named(other),
    })
}

fn named(text: &str) -> Result<KeyPart, Fault> {
    if let Some(name) = text.strip_prefix("header:") {
        return header(name).map(KeyPart::Header);
    }
    let fault = Fault::expected(EXPECTED);
    Err(match nearest(text, WORDS) {
        Some(near) => fault.suggest(near),
        None => fault,
    })
}

fn header(name: &str) -> Result<HeaderName, Fault> {
    let header = HeaderName::from_str(name).ok().filter(|_| !name.contains('_'));
    let header = header.ok_or_else(|| Fault::expected("the name of a header after header:, without _"))?;
    if is_reserved(&header) {
        return Err(Fault::new("that header is taken off every request before limits are looked at"));
    }
    if matches!(header.as_str(), "authorization" | "cookie") {
        return Err(Fault::new("a new token would be a new bucket; count by subject, session or client"));
    }
    Ok(header)
}

/// See the module. Each part with its place.
#[derive(Debug, Clone)]
pub(in crate::config) struct By(Vec<Item<Part>>);

impl By {
    /// What it means, if it means anything.
    pub(in crate::config) fn key(self, at: &At, checks: &mut Checks) -> Option<LimitKey> {
        checks.no_repeats(&self.0);
        match <[Item<Part>; 2]>::try_from(self.0) {
            Ok([one, other]) => {
                let (Part(one), Part(other)) = (one.value?, other.value?);
                let key = (one != other).then(|| LimitKey::pair(one, other))?;
                match (key.narrow(), key.wide()) {
                    (KeyPart::Session | KeyPart::ApiKey, Some(KeyPart::Subject)) => {
                        let narrow = key.narrow();
                        checks.error(at, format!("{narrow} is one subject's: {narrow} alone counts the same"));
                        None
                    }
                    (KeyPart::Session, Some(KeyPart::ApiKey)) => {
                        checks.error(at, "no request has both: who shows an API key is in no session");
                        None
                    }
                    _ => Some(key),
                }
            }
            Err(mut parts) if parts.len() == 1 => Some(LimitKey::one(parts.pop()?.value?.0)),
            Err(_) => {
                checks.error(at, format!("expected {EXPECTED}"));
                None
            }
        }
    }
}

impl<'de> Deserialize<'de> for By {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ByVisitor)?.map_err(|fault| carried(&fault))
    }
}

struct ByVisitor;

impl<'de> Visitor<'de> for ByVisitor {
    type Value = Result<By, Fault>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Part::read(text).map(|part| By(vec![Item::of(part)])))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
        let mut by = Vec::new();
        while let Some(part) = parts.next_element()? {
            by.push(part);
        }
        Ok(Ok(By(by)))
    }
}

impl Serialize for By {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &*self.0 {
            [one] => one.serialize(serializer),
            parts => parts.serialize(serializer),
        }
    }
}

impl JsonSchema for By {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "By".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let part = Part::schema();
        schemars::json_schema!({
            "anyOf": [part, { "type": "array", "items": part, "minItems": 1, "maxItems": 2, "uniqueItems": true }],
        })
    }
}
