//! Values written as one scalar: how they are read through serde and described in the JSON schema.
//!
//! serde's errors are text only, so a fault is carried through `custom` and taken apart again by the reader's error.

use std::{fmt, marker::PhantomData};

use serde::{Deserializer, de::Visitor};

use super::errors::Fault;

/// A value written as one scalar.
pub(super) trait Scalar: Sized {
    /// Reads its text. The fault says what is expected.
    fn read(text: &str) -> Result<Self, Fault>;
    /// The text that reads back as it.
    fn write(&self) -> String;
    /// What the JSON schema says of its form.
    fn schema() -> serde_json::Value;
}

/// Deserializes a scalar through its text. Only the reader's `Fault` carries suggestions on; every other
/// deserializer's error gets the message.
pub(super) fn deserialize<'de, T: Scalar, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct TextVisitor<T>(PhantomData<T>);

    impl<T: Scalar> Visitor<'_> for TextVisitor<T> {
        type Value = Result<T, Fault>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            // The fault of a text that fits nothing words the expectation.
            match T::read("\0") {
                Err(fault) => f.write_str(fault.message.strip_prefix("expected ").unwrap_or(&fault.message)),
                Ok(_) => f.write_str("text"),
            }
        }

        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok(T::read(text))
        }
    }

    let read = deserializer.deserialize_str(TextVisitor(PhantomData))?;
    read.map_err(|fault| carried(&fault))
}

/// A fault as any deserializer's error.
pub(super) fn carried<E: serde::de::Error>(fault: &Fault) -> E {
    E::custom(Carried(fault))
}

/// A fault on its way through serde's `custom`, which takes only text: message, suggestion and flag, one a line.
struct Carried<'a>(&'a Fault);

const CARRIED: &str = "\u{1}";

impl fmt::Display for Carried<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { message, suggestion, add_found } = self.0;
        let suggestion = suggestion.as_deref().unwrap_or_default();
        write!(f, "{message}{CARRIED}{suggestion}{CARRIED}{add_found}")
    }
}

/// Takes apart what [`Carried`] put together.
pub(super) fn uncarry(text: String) -> Fault {
    let mut parts = text.split(CARRIED);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(message), Some(suggestion), Some(add_found)) => Fault {
            message: message.to_owned(),
            suggestion: (!suggestion.is_empty()).then(|| suggestion.to_owned()),
            add_found: add_found == "true",
        },
        _ => Fault::new(text),
    }
}

/// serde and schema of a type that is a [`Scalar`].
macro_rules! scalar {
    ($name:ty $(, $($generics:tt)+)?) => {
        impl<'de, $($($generics)+)?> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::config::scalar::deserialize(deserializer)
            }
        }

        impl $(<$($generics)+>)? Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&$crate::config::scalar::Scalar::write(self))
            }
        }

        impl $(<$($generics)+>)? JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let schema = <Self as $crate::config::scalar::Scalar>::schema();
                Schema::try_from(schema).unwrap_or_default()
            }
        }
    };
}
pub(super) use scalar;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_survives_serde() {
        let fault = Fault::expected("x").suggest("y");
        assert_eq!(uncarry(Carried(&fault).to_string()), fault);
        assert_eq!(uncarry("plain".into()), Fault::new("plain"));
    }
}
