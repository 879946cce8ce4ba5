//! `runtime:` and `shared_state:`: the machine's side, and what several gateways share besides the store.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    checks::Noted,
    errors::Fault,
    item::Item,
    scalar::{Scalar, scalar},
    units::Auto,
};

/// The process itself.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Runtime")]
pub(super) struct RawRuntime {
    /// Worker threads; auto: one for each core.
    workers: Item<Auto<1, 1_024>>,
}

/// What may be lost and need not outlive the process: rate-limit counters.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "SharedState")]
pub(super) struct RawSharedState {
    /// Where it is kept. process: in this gateway's memory, so several gateways each count for themselves and a client
    /// may use each limit once per gateway. The only choice in this version.
    backend: Item<Backend>,
}

/// Where shared state is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Backend {
    #[default]
    Process,
}

impl Scalar for Backend {
    fn read(text: &str) -> Result<Self, Fault> {
        match text {
            "process" => Ok(Self::Process),
            _ => Err(Fault::expected("process (no other backend is available in this version)")),
        }
    }

    fn write(&self) -> String {
        "process".to_owned()
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({ "enum": ["process"] })
    }
}
scalar!(Backend);

/// Worker threads; `None`: one for each core.
pub(super) fn check(item: Item<RawRuntime>) -> Result<Option<usize>, Noted> {
    let workers = item.value.and_then(|raw| raw.workers.value).ok_or(Noted)?;
    workers.0.map(|workers| usize::try_from(workers).map_err(|_| Noted)).transpose()
}

/// Nothing is left to choose, so nothing is kept.
pub(super) fn check_shared_state(item: Item<RawSharedState>) -> Option<()> {
    match item.value?.backend.value? {
        Backend::Process => Some(()),
    }
}
