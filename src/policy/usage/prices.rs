//! What tokens cost: whole numbers throughout, in millionths of the currency, which has no name here.

use std::{num::NonZeroU64, sync::Arc};

use super::Tokens;

/// Millionths of the currency.
pub type Micros = u64;

/// What so many tokens of a model cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    /// Of [`Self::per`] tokens of input.
    pub input: Micros,
    /// Of [`Self::per`] tokens of output.
    pub output: Micros,
    /// How many tokens these are the price of.
    pub per: NonZeroU64,
}

impl Price {
    /// What these tokens cost, rounded up.
    #[must_use]
    pub fn of(&self, tokens: Tokens) -> Micros {
        let part = |tokens: u64, price: Micros| u128::from(tokens) * u128::from(price);
        // Below 2^127 each, as the configuration has its prices; `saturating` costs nothing and holds for any.
        let sum = part(tokens.input, self.input).saturating_add(part(tokens.output, self.output));
        u64::try_from(sum.div_ceil(u128::from(self.per.get()))).unwrap_or(u64::MAX)
    }
}

/// The models that a price is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Models {
    /// This one.
    Named(Arc<str>),
    /// Those whose name begins so.
    Beginning(Arc<str>),
}

/// Prices by model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prices {
    /// Of the models that are named.
    pub named: Vec<(Models, Price)>,
    /// Of every other, and while the model is not known.
    pub others: Price,
}

impl Prices {
    /// The price of a model: its own, else that of the longest beginning.
    #[must_use]
    pub fn of(&self, model: Option<&str>) -> &Price {
        let Some(model) = model else { return &self.others };
        let fit = |models: &Models| match models {
            Models::Named(name) => (**name == *model).then_some(usize::MAX),
            Models::Beginning(part) => model.starts_with(&**part).then_some(part.len()),
        };
        let fitting = self.named.iter().filter_map(|(models, price)| Some((fit(models)?, price)));
        fitting.max_by_key(|(length, _)| *length).map_or(&self.others, |(_, price)| price)
    }

    /// What so many tokens cost at most, whatever they turn out to be: for a reservation.
    #[must_use]
    pub fn most(&self, tokens: u64) -> Micros {
        let all = self.named.iter().map(|(_, price)| price).chain([&self.others]);
        let dearest = |price: &Price| {
            let input = price.of(Tokens { input: tokens, output: 0 });
            input.max(price.of(Tokens { input: 0, output: tokens }))
        };
        all.map(dearest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn price(input: Micros, output: Micros, per: u64) -> Price {
        Price { input, output, per: NonZeroU64::new(per).unwrap() }
    }

    fn tokens(input: u64, output: u64) -> Tokens {
        Tokens { input, output }
    }

    #[test]
    fn a_cost_is_exact_and_rounded_up_once() {
        let mini = price(150_000, 600_000, 1_000_000);
        assert_eq!(mini.of(tokens(1_000_000, 0)), 150_000);
        assert_eq!(mini.of(tokens(1_000, 1_000)), 750);
        // 0.15 and 0.6 millionths: together 0.75, not one each.
        assert_eq!(mini.of(tokens(1, 1)), 1);
        assert_eq!(mini.of(tokens(0, 0)), 0);
        assert_eq!(price(u64::MAX, u64::MAX, 1).of(tokens(u64::MAX, u64::MAX)), u64::MAX, "no overflow");
    }

    #[test]
    fn a_name_goes_before_a_beginning_and_the_longer_beginning_before_the_shorter() {
        let named = |name: &str| Models::Named(name.into());
        let beginning = |name: &str| Models::Beginning(name.into());
        let prices = Prices {
            named: vec![
                (beginning("gpt-4o"), price(1, 1, 1)),
                (beginning("gpt-4o-mini"), price(2, 2, 1)),
                (named("gpt-4o-mini-special"), price(3, 3, 1)),
            ],
            others: price(9, 9, 1),
        };
        for (model, cost) in [
            (Some("gpt-4o-2024-08-06"), 1),
            (Some("gpt-4o-mini-2024-07-18"), 2),
            (Some("gpt-4o-mini-special"), 3),
            (Some("gpt-4o-mini-special-2"), 2),
            (Some("llama"), 9),
            (None, 9),
        ] {
            assert_eq!(prices.of(model).of(tokens(1, 0)), cost, "{model:?}");
        }
        assert_eq!(prices.most(10), 90);
    }

    proptest! {
        #[test]
        fn no_answer_costs_more_than_was_thought_possible(
            input in 0..1_000_000_u64, output in 0..1_000_000_u64, prices in prop::collection::vec((0..1_000_000_u64, 0..1_000_000_u64, 1..1_000_000_u64), 1..5),
        ) {
            let all: Vec<_> = prices.iter().map(|(input, output, per)| price(*input, *output, *per)).collect();
            let list = Prices { named: all.iter().map(|price| (Models::Named("m".into()), *price)).collect(), others: all[0] };
            let cost = list.of(Some("m")).of(tokens(input, output));
            prop_assert!(cost <= list.most(input + output) + 1);
        }
    }
}
