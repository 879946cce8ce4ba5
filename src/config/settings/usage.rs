//! `routes[].usage:` as `config/routes/usage.rs` leaves it: how a route's answers tell what they used.

use crate::policy::{quota::Amounts, usage::prices::Prices};

/// The answers of a route come from a language model and are metered. The format is OpenAI's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Tokens that are set aside for a request, in and out, before it is sent.
    pub estimate: u64,
    /// Count a request's bytes as input where the service does not say what it read.
    pub count_input: bool,
    /// What tokens cost.
    pub prices: Option<Prices>,
}

impl Usage {
    /// What is set aside for a request before it is sent.
    #[must_use]
    pub fn estimated(&self) -> Amounts {
        let micros = self.prices.as_ref().map_or(0, |prices| prices.most(self.estimate));
        Amounts { tokens: self.estimate, micros }
    }
}
