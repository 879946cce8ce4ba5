//! Secrets as the file names them: `"${NAME}"`, `{env: NAME}` or `{file: path}`, never in the file itself.

use std::{borrow::Cow, fmt, fs::File, io::Read, path::Path};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};

use super::{
    checks::{Checks, Noted},
    errors::Fault,
    expand::{expand, is_name},
    item::{At, Item},
    reader::Reader,
    tree::{Entry, Node, Value},
};
use crate::policy::keys::MIN_SECRET;

/// Largest secret file, bytes.
const MAX_FILE: u64 = 64 * 1024;

/// The name under which a secret asks the reader for its value.
pub(super) const SECRET: &str = "$portcullis::secret";
/// The same for what may also be a literal.
pub(super) const LITERAL_OR_SECRET: &str = "$portcullis::literal_or_secret";

/// A value that may not stand in the file itself.
#[derive(Debug, Clone)]
pub(super) struct Secret(pub(super) SecretString);

/// Told of a secret that HS256 would sign with.
pub(super) const TOO_SHORT: &str = "shorter than 32 bytes, which could be guessed (RFC 7518 §3.2)";

/// The `secret` beside an `algorithm`: needed when that is HS256, and nothing to any other.
pub(super) fn signing(
    item: Option<Item<Secret>>,
    hs256: Option<bool>,
    parent: &At,
    checks: &mut Checks,
) -> Result<Option<SecretSlice<u8>>, Noted> {
    let hs256 = hs256.ok_or(Noted)?;
    let Some(item) = item else {
        if hs256 {
            checks.error(&parent.child("secret"), "missing; algorithm HS256 signs with it: openssl rand -base64 32");
        }
        return Ok(None);
    };
    if !hs256 {
        checks.error(&item.at, "only algorithm HS256 signs with a secret");
    }
    let secret = item.value.ok_or(Noted)?.0.expose_secret().as_bytes().to_vec();
    if secret.len() < MIN_SECRET {
        checks.error(&item.at, TOO_SHORT);
    }
    checks.signs(&item.at);
    Ok(Some(SecretSlice::from(secret)))
}

/// A value that may be secret, such as a URL with a password in it.
#[derive(Debug, Clone)]
pub(super) struct LiteralOrSecret(pub(super) SecretString);

/// The value a node stands for. `literal`: it may also stand there itself. No fault ever quotes it.
pub(super) fn resolve(node: &Node, reader: &Reader<'_>, literal: bool) -> Result<String, Fault> {
    const EXPECTED: &str = "{file: path}, {env: NAME} or \"${NAME}\"";
    match &node.value {
        _ if node.is_null() => Err(Fault::new(format!("expected {EXPECTED}, found nothing"))),
        Value::Scalar { text, .. } => {
            let expanded = expand(text, reader.environment)?;
            if literal || expanded.only_environment {
                return Ok(expanded.text);
            }
            Err(Fault::new(format!("a secret may not stand in the file itself; write {EXPECTED}")))
        }
        Value::Mapping(entries) => from_source(entries, reader),
        Value::List(_) => Err(Fault::new(format!("expected {EXPECTED}, found a list"))),
    }
}

fn from_source(entries: &[Entry], reader: &Reader<'_>) -> Result<String, Fault> {
    let [Entry { key, value, .. }] = entries else {
        return Err(Fault::new("expected exactly one of the keys file and env"));
    };
    let Value::Scalar { text, .. } = &value.value else {
        return Err(Fault::new(format!("expected text under {key}")));
    };
    let text = expand(text, reader.environment)?.text;
    match key.as_str() {
        "file" => {
            let path = reader.base_dir.join(text);
            reader.inputs.borrow_mut().file(&path);
            from_file(&path)
        }
        "env" if is_name(&text) => {
            let value = reader.environment.var(&text);
            value.ok_or_else(|| Fault::new(format!("the environment variable {text} is not set")))
        }
        "env" => Err(Fault::new("expected the name of an environment variable under env")),
        _ => Err(Fault::new("expected exactly one of the keys file and env")),
    }
}

/// A secret file, without its last line break.
fn from_file(path: &Path) -> Result<String, Fault> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
    match read {
        Err(error) => Err(Fault::new(format!("cannot read {}: {error}", path.display()))),
        Ok(length) if length as u64 > MAX_FILE => Err(Fault::new(format!("{} is larger than 64 KiB", path.display()))),
        Ok(_) => {
            let trimmed = text.strip_suffix('\n').unwrap_or(&text);
            Ok(trimmed.strip_suffix('\r').unwrap_or(trimmed).to_owned())
        }
    }
}

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
