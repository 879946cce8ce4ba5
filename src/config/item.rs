//! One value of the file with its place: what the raw types are made of.
//!
//! An [`Item`] never fails to deserialize. The reader has noted the mistake by then, with its place, and the item goes
//! on empty, so that every other key is still looked at. It knows only our own reader's protocol (see
//! [`super::reader`]); any other deserializer gives an absent item, which is also how a missing key arrives here.

use std::{borrow::Cow, fmt, marker::PhantomData};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, SeqAccess, Visitor},
};

/// The name under which an item asks the reader for its place.
pub(super) const ITEM: &str = "$portcullis::item";

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct At {
    /// From 1; 0 when the key is not in the file.
    pub(super) line: u32,
    /// From 1; 0 when the key is not in the file.
    pub(super) column: u32,
    /// E.g. `routes[0].cluster`.
    pub(super) path: String,
}

impl At {
    /// The file as a whole.
    pub(super) fn root() -> Self {
        Self { line: 1, column: 1, path: String::new() }
    }

    /// This place, or, when the key is not in the file, where it would stand: under `parent`.
    pub(super) fn or(&self, parent: &Self, key: &str) -> Self {
        if self.line > 0 { self.clone() } else { parent.child(key) }
    }

    /// A key that is not in the file: the parent's place, the key's path.
    pub(super) fn child(&self, key: &str) -> Self {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Self { line: self.line.max(1), column: self.column.max(1), path }
    }
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Item<T> {
    /// `None`: it is missing, or it was wrong and that has been noted.
    pub(super) value: Option<T>,
    /// Where its key (or list item) stands.
    pub(super) at: At,
    /// A variable stood in it, so no message may show it.
    pub(super) from_environment: bool,
}

impl<T> Item<T> {
    /// A default.
    pub(super) fn of(value: T) -> Self {
        Self { value: Some(value), at: At::default(), from_environment: false }
    }

    /// This value unless the file has one.
    pub(super) fn or_default(self, value: T) -> Self {
        if self.is_written() { self } else { Self::of(value) }
    }

    fn absent() -> Self {
        Self { value: None, at: At::default(), from_environment: false }
    }

    /// The file has this key.
    pub(super) fn is_written(&self) -> bool {
        self.at.line > 0
    }
}

impl<T: Default> Default for Item<T> {
    fn default() -> Self {
        Self::of(T::default())
    }
}

impl<T: fmt::Display> Item<T> {
    /// The value for a message, hidden when the environment gave it.
    pub(super) fn quoted(&self) -> String {
        match &self.value {
            Some(value) if !self.from_environment => format!("\"{value}\""),
            _ => "as the environment says".to_owned(),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Item<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = deserializer.deserialize_newtype_struct(ITEM, ItemVisitor(PhantomData));
        Ok(read.unwrap_or_else(|_| Self::absent()))
    }
}

struct ItemVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ItemVisitor<T> {
    type Value = Item<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value with its place")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
        let line = parts.next_element()?.unwrap_or_default();
        let column = parts.next_element()?.unwrap_or_default();
        let path = parts.next_element()?.unwrap_or_default();
        let from_environment = parts.next_element()?.unwrap_or_default();
        let value = parts.next_element().ok().flatten();
        Ok(Item { value, at: At { line, column, path }, from_environment })
    }
}

impl<T: Serialize> Serialize for Item<T> {
    /// Only defaults are serialized, for the schema.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl<T: JsonSchema> JsonSchema for Item<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// A mapping whose keys are names the operator chose, in the order of the file.
#[derive(Debug, Clone)]
pub(super) struct Named<T>(pub(super) Vec<(String, Item<T>)>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NamedVisitor(PhantomData))
    }
}

struct NamedVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for NamedVisitor<T> {
    type Value = Named<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Named(entries))
    }
}

impl<T: Serialize> Serialize for Named<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, item)| (name, item)))
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("MapOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "type": "object",
            "additionalProperties": generator.subschema_for::<T>(),
            "propertyNames": { "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$" },
        })
    }
}
