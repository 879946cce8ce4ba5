//! `overload:` how much may be going on before requests are sent away.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    errors::Fault,
    item::Item,
    scalar::{Scalar, scalar},
    settings::{Listeners, MaxMemory, Overload},
    units::{Auto, Size},
};

/// The least that may be said of memory; a gateway that does nothing needs about as much.
const LEAST: u64 = 16 << 20;
const MOST: u64 = 1 << 50;

/// When requests are sent away (503, code overloaded): the anonymous first, then refreshes, the authenticated last.
/// What flows already, the keys at /.well-known and the admin listener are never.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Overload")]
pub(super) struct RawOverload {
    /// Requests whose answer has not begun; auto: `listeners.public.max_connections`. The anonymous are admitted below
    /// 80 % of it, refreshes below 90 %, the authenticated below all of it.
    max_in_flight: Item<Auto<1, 10_000_000>>,
    /// What resident memory is held against; auto: the limit of the container or service (cgroup), if it has one. The
    /// anonymous are sent away from 85 % of it on, refreshes from 90 %, everybody from 95 %, each until 5 % less is used.
    max_memory: Item<MemoryLimit>,
}

/// `auto`, `none`, or a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MemoryLimit(MaxMemory);

impl Default for MemoryLimit {
    fn default() -> Self {
        Self(MaxMemory::Cgroup)
    }
}

impl Scalar for MemoryLimit {
    fn read(text: &str) -> Result<Self, Fault> {
        match text {
            "auto" => Ok(Self(MaxMemory::Cgroup)),
            "none" => Ok(Self(MaxMemory::Nothing)),
            size => match Size::<LEAST, MOST>::read(size) {
                Ok(Size(bytes)) => Ok(Self(MaxMemory::Bytes(bytes))),
                Err(_) => Err(Fault::expected("auto, none or a size of at least 16MiB (B, KiB, MiB, GiB)")),
            },
        }
    }

    fn write(&self) -> String {
        match self.0 {
            MaxMemory::Cgroup => "auto".to_owned(),
            MaxMemory::Nothing => "none".to_owned(),
            MaxMemory::Bytes(bytes) => Size::<LEAST, MOST>(bytes).write(),
        }
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$|^auto$|^none$|\\$\\{" })
    }
}
scalar!(MemoryLimit);

/// `listeners`: `None` when they are not right themselves.
pub(super) fn check(item: Item<RawOverload>, listeners: Option<&Listeners>) -> Option<Overload> {
    let raw = item.value?;
    let max_in_flight = match raw.max_in_flight.value?.0 {
        Some(most) => most,
        None => u64::try_from(listeners?.public.max_connections).ok()?,
    };
    Some(Overload { max_in_flight, max_memory: raw.max_memory.value?.0 })
}
