//! The tree, read into the raw types: a serde deserializer that notes a mistake and goes on.
//!
//! Derived `Deserialize` stops at the first error, so three things happen here instead: unknown and doubled keys are
//! noted and skipped before the derived code sees them (it tells us the keys it knows); an [`super::item::Item`] gets
//! its place and, when its value fails, the mistake is noted with that place; variables are filled in as scalars are
//! read. Secrets take their own path and are never quoted.

use std::{cell::RefCell, path::Path};

use serde::{
    Deserializer,
    de::{
        DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor,
        value::{BoolDeserializer, StrDeserializer, StringDeserializer, U32Deserializer},
    },
};

use super::{
    Environment,
    errors::{ConfigError, Fault, nearest},
    expand::expand,
    item::{At, ITEM},
    secret::{self, LITERAL_OR_SECRET, SECRET},
    tree::{Entry, Mark, Node, Value},
    written::Inputs,
};

/// What reading needs besides the tree, and where its mistakes go.
pub(super) struct Reader<'a> {
    pub(super) environment: &'a dyn Environment,
    /// Relative paths start here.
    pub(super) base_dir: &'a Path,
    pub(super) errors: RefCell<Vec<ConfigError>>,
    /// What was read beside the tree.
    pub(super) inputs: RefCell<Inputs>,
}

impl Reader<'_> {
    fn note(&self, at: &At, fault: Fault) {
        self.errors.borrow_mut().push(ConfigError {
            line: at.line,
            column: at.column,
            key_path: at.path.clone(),
            message: fault.message,
            suggestion: fault.suggestion,
        });
    }
}

/// Deserializes one node.
#[derive(Clone)]
pub(super) struct NodeReader<'r, 'a> {
    reader: &'r Reader<'a>,
    node: &'r Node,
    at: At,
}

impl<'r, 'a> NodeReader<'r, 'a> {
    /// The root of the file.
    pub(super) fn root(reader: &'r Reader<'a>, node: &'r Node) -> Self {
        Self { reader, node, at: At::root() }
    }

    /// The text of a scalar with its variables filled in; anything else is a mistake that `visitor` words.
    fn text<'de, V: Visitor<'de>>(&self, visitor: &V) -> Result<String, Fault> {
        match &self.node.value {
            Value::Scalar { text, .. } if !self.node.is_null() => Ok(expand(text, self.reader.environment)?.text),
            _ => Err(expected(visitor)),
        }
    }

    /// A secret's value, of which a digest stays.
    fn secret(&self, literal: bool) -> Result<String, Fault> {
        let value = secret::resolve(self.node, self.reader, literal)?;
        self.reader.inputs.borrow_mut().content(&self.at.path, value.as_bytes());
        Ok(value)
    }

    fn is_from_environment(&self) -> bool {
        match &self.node.value {
            Value::Scalar { text, .. } => {
                expand(text, self.reader.environment).map_or(true, |expanded| expanded.from_environment)
            }
            Value::List(_) | Value::Mapping(_) => false,
        }
    }

    /// `, found …`: what stands in the file, unless it could be a secret.
    fn found(&self) -> String {
        match &self.node.value {
            _ if self.node.is_null() => "nothing".to_owned(),
            Value::Scalar { .. } if self.is_from_environment() => "what the environment says".to_owned(),
            Value::Scalar { text, .. } if text.contains('@') || text.chars().count() > 80 => {
                "something else".to_owned()
            }
            Value::Scalar { text, .. } => format!("{text:?}"),
            Value::List(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
        }
    }

    /// The entries of a mapping, each key once; `known`: the only keys allowed.
    fn entries(&self, known: Option<&[&str]>, expected: Fault) -> Result<Vec<&'r Entry>, Fault> {
        let entries = match &self.node.value {
            Value::Mapping(entries) => entries,
            _ if self.node.is_null() => return Ok(Vec::new()),
            _ => return Err(expected),
        };
        let mut kept: Vec<&Entry> = Vec::with_capacity(entries.len());
        let mut seen = std::collections::HashMap::with_capacity(entries.len());
        for entry in entries {
            let at = self.below(entry);
            if let Some(first) = seen.insert(entry.key.as_str(), entry.mark) {
                self.reader.note(&at, Fault::new(format!("a second time; the first is on line {}", first.line)));
            } else if known.is_some_and(|known| !known.contains(&entry.key.as_str())) {
                self.reader.note(&at, unknown_key(&entry.key, known.unwrap_or_default()));
            } else {
                kept.push(entry);
            }
        }
        Ok(kept)
    }

    fn below(&self, entry: &Entry) -> At {
        At { line: entry.mark.line, column: entry.mark.column, ..self.at.child(&entry.key) }
    }
}

fn expected<'de, V: Visitor<'de>>(visitor: &V) -> Fault {
    Fault::expected(visitor as &dyn serde::de::Expected)
}

fn unknown_key(key: &str, known: &[&str]) -> Fault {
    match nearest(key, known.iter().copied()) {
        Some(near) => Fault::new("unknown key").suggest(near),
        None => Fault::new(format!("unknown key; known here: {}", known.join(", "))),
    }
}

macro_rules! unsupported {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.deserialize_any(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for NodeReader<'_, '_> {
    type Error = Fault;

    /// Numbers, too, are read as text: only the field knows what `1.10` is.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Scalar { .. } => self.deserialize_str(visitor),
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Mapping(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.text(&visitor)?.as_str() {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => Err(Fault::expected("true or false")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let text = self.text(&visitor)?;
        visitor.visit_string(text)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        match name {
            ITEM => visitor.visit_seq(Parts { node: self, part: 0 }),
            SECRET => visitor.visit_string(self.secret(false)?),
            LITERAL_OR_SECRET => visitor.visit_string(self.secret(true)?),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::List(_) => visitor.visit_seq(Items { list: self, index: 0 }),
            _ if self.node.is_null() => visitor.visit_seq(Items { list: self, index: 0 }),
            _ => Err(Fault::expected("a list")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let rest = self.entries(None, Fault::expected("a mapping of names"))?.into_iter();
        visitor.visit_map(Entries { mapping: self.clone(), rest, current: None })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let expected = Fault::expected(format_args!("a mapping of {}", fields.join(", ")));
        let rest = self.entries(Some(fields), expected)?.into_iter();
        visitor.visit_map(Entries { mapping: self.clone(), rest, current: None })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let text = self.text(&visitor).map_err(|fault| match &self.node.value {
            Value::Scalar { .. } if !self.node.is_null() => fault,
            _ => Fault::expected(variants.join(", ")),
        })?;
        if !variants.contains(&text.as_str()) {
            let fault = Fault::expected(variants.join(" or "));
            return Err(match nearest(&text, variants.iter().copied()) {
                Some(near) => fault.suggest(near),
                None => fault,
            });
        }
        visitor.visit_enum(text.into_deserializer())
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _length: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    unsupported! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16 deserialize_u32
        deserialize_u64 deserialize_f32 deserialize_f64 deserialize_char deserialize_bytes deserialize_byte_buf
        deserialize_unit deserialize_identifier
    }
}

/// The five parts of an item: line, column, path, whether the environment gave it, and the value.
struct Parts<'r, 'a> {
    node: NodeReader<'r, 'a>,
    part: u8,
}

impl<'de> SeqAccess<'de> for Parts<'_, '_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let at = &self.node.at;
        self.part += 1;
        match self.part {
            1 => seed.deserialize(U32Deserializer::<Fault>::new(at.line)).map(Some),
            2 => seed.deserialize(U32Deserializer::<Fault>::new(at.column)).map(Some),
            3 => seed.deserialize(StringDeserializer::<Fault>::new(at.path.clone())).map(Some),
            4 => seed.deserialize(BoolDeserializer::<Fault>::new(self.node.is_from_environment())).map(Some),
            5 => {
                let node = self.node.clone();
                seed.deserialize(node).map(Some).inspect_err(|fault| {
                    let mut fault = fault.clone();
                    if self.node.is_from_environment() {
                        // A suggestion is made of the value.
                        fault.suggestion = None;
                    }
                    if fault.add_found {
                        fault.message = format!("{}, found {}", fault.message, self.node.found());
                    }
                    self.node.reader.note(at, fault);
                })
            }
            _ => Ok(None),
        }
    }
}

/// The items of a list.
struct Items<'r, 'a> {
    list: NodeReader<'r, 'a>,
    index: usize,
}

impl<'de> SeqAccess<'de> for Items<'_, '_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Value::List(items) = &self.list.node.value else { return Ok(None) };
        let Some(node) = items.get(self.index) else { return Ok(None) };
        let path = format!("{}[{}]", self.list.at.path, self.index);
        self.index += 1;
        let Mark { line, column } = node.mark;
        seed.deserialize(NodeReader { reader: self.list.reader, node, at: At { line, column, path } }).map(Some)
    }
}

/// The entries of a mapping.
struct Entries<'r, 'a> {
    mapping: NodeReader<'r, 'a>,
    rest: std::vec::IntoIter<&'r Entry>,
    current: Option<&'r Entry>,
}

impl<'de> MapAccess<'de> for Entries<'_, '_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        self.current = self.rest.next();
        match self.current {
            Some(entry) => seed.deserialize(StrDeserializer::<Fault>::new(&entry.key)).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let entry = self.current.take().ok_or_else(|| Fault::new("a value without a key"))?;
        let at = self.mapping.below(entry);
        seed.deserialize(NodeReader { reader: self.mapping.reader, node: &entry.value, at })
    }
}
