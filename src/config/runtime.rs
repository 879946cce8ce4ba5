//! `runtime:` how many worker threads serve.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{checks::Noted, item::Item, units::Auto};

/// The process itself.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Runtime")]
pub(super) struct RawRuntime {
    /// Worker threads; auto: one for each core.
    workers: Item<Auto<1, 1_024>>,
}

/// Worker threads; `None`: one for each core.
pub(super) fn check(item: Item<RawRuntime>) -> Result<Option<usize>, Noted> {
    let workers = item.value.and_then(|raw| raw.workers.value).ok_or(Noted)?;
    workers.0.map(|workers| usize::try_from(workers).map_err(|_| Noted)).transpose()
}
