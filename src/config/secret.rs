//! Secrets as the file names them: `"${NAME}"`, `{env: NAME}` or `{file: path}`, never in the file itself.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};

/// The name under which a secret asks the reader for its value.
pub(super) const SECRET: &str = "$portcullis::secret";
/// The same for what may also be a literal.
pub(super) const LITERAL_OR_SECRET: &str = "$portcullis::literal_or_secret";

/// A value that may not stand in the file itself.
#[derive(Debug, Clone)]
pub(super) struct Secret(pub(super) SecretString);

/// A value that may be secret, such as a URL with a password in it.
#[derive(Debug, Clone)]
pub(super) struct LiteralOrSecret(pub(super) SecretString);

struct SecretVisitor;

impl Visitor<'_> for SecretVisitor {
    type Value = SecretString;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{file: path}, {env: NAME} or \"${NAME}\"")
    }

    fn visit_str<E>(self, value: &str) -> Result<SecretString, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<SecretString, E> {
        Ok(value.into())
    }
}

fn sources() -> serde_json::Value {
    serde_json::json!([
        {
            "type": "object",
            "additionalProperties": false,
            "required": ["file"],
            "properties": { "file": { "type": "string", "description": "Path of a file that holds the value; relative paths start at the configuration file's folder. One trailing line break is dropped." } },
        },
        {
            "type": "object",
            "additionalProperties": false,
            "required": ["env"],
            "properties": { "env": { "type": "string", "description": "Name of an environment variable that holds the value." } },
        },
    ])
}

fn schema(text: serde_json::Value) -> Schema {
    let mut any_of = vec![text];
    if let serde_json::Value::Array(sources) = sources() {
        any_of.extend(sources);
    }
    schemars::json_schema!({ "anyOf": any_of })
}

macro_rules! secret {
    ($name:ident, $protocol:expr, $text:tt) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_newtype_struct($protocol, SecretVisitor).map(Self)
            }
        }

        impl Serialize for $name {
            /// Nothing secret has a default to show.
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_none()
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                schema(serde_json::json!($text))
            }
        }
    };
}

secret!(Secret, SECRET, { "type": "string", "pattern": "^(\\$\\{[^}]+\\})+$" });
secret!(LiteralOrSecret, LITERAL_OR_SECRET, { "type": "string" });
