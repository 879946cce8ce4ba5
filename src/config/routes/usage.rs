//! `routes[].usage:` answers of language models: what they are known to use, and what it costs.

use std::{borrow::Cow, num::NonZeroU64};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    config::{
        checks::Checks,
        errors::Fault,
        item::{Item, Named},
        money::Money,
        scalar::{Scalar, scalar},
        settings::Usage,
        units::Int,
    },
    policy::{
        quota::MICROS,
        usage::prices::{Models, Price, Prices},
    },
};

/// The answers come from a language model: tokens are metered as they flow.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Usage")]
pub(in crate::config) struct RawUsage {
    /// How answers say what they used: openai (JSON and event streams of chat completions, completions, embeddings and
    /// responses, which most servers of models speak). Where they do not say, output is counted: four bytes of text a
    /// token, rounded up; in an answer of another format, all of its bytes.
    format: Item<Format>,
    /// Tokens set aside for a request before it is sent, in and out; what was not used is given back at the end of the
    /// answer. A request that a budget has not so much left for is refused, and a stream that goes beyond it takes more as
    /// it flows. So it should be what a usual request takes.
    estimate: Item<Int<1, 10_000_000>>,
    /// Count four bytes of the request as a token of input where the service does not say what it read, as when a
    /// client hangs up before it could. false for images and files inside JSON, which are fewer tokens than that.
    count_input: Item<bool>,
    /// What tokens cost, by the model that an answer names: a name, the beginning of one with a * after it (the longest
    /// that fits counts), and "*" for every other. Needed for budgets in money.
    prices: Item<ByModel>,
}

/// How answers say what they used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// <https://platform.openai.com/docs/api-reference>
    Openai,
}

/// What the tokens of a model cost.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Price")]
pub(in crate::config) struct RawPrice {
    /// Of input: a number with at most six decimals, in whatever currency the budgets are.
    input: Item<Money<0, DEAREST>>,
    /// Of output.
    output: Item<Money<0, DEAREST>>,
    /// How many tokens that is the price of: a number, or 1K, 1M.
    #[serde(default = "million")]
    per: Item<Many>,
}

/// Prices by name or beginning of a model.
#[derive(Debug, Default)]
pub(in crate::config) struct ByModel(Named<RawPrice>);

impl<'de> Deserialize<'de> for ByModel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Named::deserialize(deserializer).map(Self)
    }
}

impl Serialize for ByModel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl JsonSchema for ByModel {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Prices".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "type": "object",
            "additionalProperties": generator.subschema_for::<RawPrice>(),
            "propertyNames": { "pattern": "^[!-)+-~]{0,96}\\*?$" },
        })
    }
}

/// The dearest that is taken, in millionths, so that sums stay far from overflow.
const DEAREST: u64 = 1_000_000 * MICROS;

/// A number of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Many(NonZeroU64);

impl Scalar for Many {
    fn read(text: &str) -> Result<Self, Fault> {
        let (number, factor) = match (text.strip_suffix('K'), text.strip_suffix('M')) {
            (Some(number), _) => (number, 1_000),
            (_, Some(number)) => (number, 1_000_000),
            _ => (text, 1),
        };
        let many = Int::<1, 1_000_000_000>::read(number).ok().map(|Int(number)| number * factor);
        many.filter(|many| *many <= 1_000_000_000)
            .and_then(NonZeroU64::new)
            .map(Self)
            .ok_or_else(|| Fault::expected("a number of tokens such as 1000, 1K or 1M"))
    }

    fn write(&self) -> String {
        match self.0.get() {
            many if many.is_multiple_of(1_000_000) => format!("{}M", many / 1_000_000),
            many if many.is_multiple_of(1_000) => format!("{}K", many / 1_000),
            many => many.to_string(),
        }
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({ "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": 1_000_000_000 },
            { "type": "string", "pattern": "^[0-9]+[KM]?$|\\$\\{" },
        ] })
    }
}
scalar!(Many);

impl Default for RawUsage {
    fn default() -> Self {
        Self {
            format: Item::of(Format::Openai),
            estimate: Item::of(Int(1_000)),
            count_input: Item::of(true),
            prices: Item::default(),
        }
    }
}

fn million() -> Item<Many> {
    Item::of(Many(const { NonZeroU64::new(1_000_000).unwrap() }))
}

pub(super) fn check_usage(item: Item<RawUsage>, has_upgrades: bool, checks: &mut Checks) -> Option<Usage> {
    if has_upgrades {
        checks.error(&item.at, "contradicts upgrades; what is tunnelled is not metered");
    }
    let raw = item.value?;
    let prices_at = raw.prices.at;
    let entries = raw.prices.value.map(|ByModel(Named(entries))| entries);
    let is_open =
        entries.as_ref().is_some_and(|entries| !entries.is_empty() && entries.iter().all(|(models, _)| models != "*"));
    if is_open {
        checks.error(&prices_at, "no price of \"*\": what models cost that are not named here");
    }
    let priced: Vec<_> = entries?.into_iter().map(|(models, price)| check_price(models, price, checks)).collect();
    let priced = priced.into_iter().collect::<Option<Vec<_>>>()?;
    let (named, mut others): (Vec<_>, Vec<_>) = priced.into_iter().partition(|(models, _)| *models != beginning(""));
    raw.format.value?;
    Some(Usage {
        estimate: raw.estimate.value?.0,
        count_input: raw.count_input.value?,
        prices: others.pop().map(|(_, others)| Prices { named, others }),
    })
}

fn beginning(part: &str) -> Models {
    Models::Beginning(part.into())
}

fn check_price(models: String, item: Item<RawPrice>, checks: &mut Checks) -> Option<(Models, Price)> {
    let (name, kind) = match models.strip_suffix('*') {
        Some(part) => (part.to_owned(), beginning(part)),
        None => (models.clone(), Models::Named(models.into())),
    };
    if name.len() > 96 || !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*') {
        checks.error(&item.at, "expected the name of a model, or the beginning of one with a * after it");
    }
    let raw = item.value?;
    let why = "e.g. 0.15; 0 if it costs nothing";
    let input = checks.required(raw.input, &item.at, "input", why);
    let output = checks.required(raw.output, &item.at, "output", why);
    Some((kind, Price { input: input?.0, output: output?.0, per: raw.per.value?.0 }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tokens_come_by_the_thousand_and_the_million() {
        for (text, many) in [("1M", 1_000_000), ("1K", 1_000), ("1000", 1_000), ("1", 1)] {
            assert_eq!(Many::read(text).unwrap().0.get(), many, "{text}");
        }
        for text in ["0", "M", "1k", "1.5M", "1MM", "1001M", "-1"] {
            assert!(Many::read(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(many in 1..=1_000_000_000_u64) {
            let many = Many(NonZeroU64::new(many).unwrap());
            prop_assert_eq!(Many::read(&many.write()).unwrap(), many);
        }
    }
}
