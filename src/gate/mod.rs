//! The pipeline that every request of the public listener goes through, one layer a file, the order in [`stack`]. (The
//! admin listener's requests do not: [`crate::telemetry::health`].)
//!
//! A layer decides ([`stage`] is the common shape of one that only does that) and fails with a [`refusal`]: it writes
//! no answer, but a preflight's ([`cors`]) and the yes to another proxy ([`decision`]). [`rescue`] is the one table
//! that turns a refusal into an answer ([`problem`] renders it). [`exchange`] is what the layers know about the
//! request; [`body`] is the one body type, [`guard`] watches bodies, [`tunnel`] what a connection becomes after an
//! upgrade, [`open_streams`] all of them that flow for a caller, [`metered`] what a model's answer uses, [`finish`] tells a request's end, `watch` the spans of
//! what it waited for.
//!
//! In the order of a request: [`observe`], [`rescue`], [`client_address`], [`floods`], [`decision`], [`hygiene`], [`route`],
//! [`cors`], [`limits`] (the address, peeked), [`authenticate`] (with [`api_keys`]), [`admission`] (whom there is room for), [`charge`] (the
//! subject, then the address),
//! [`authorise`], [`body_limit`], [`quotas`], [`identity`] (with [`preset`]), [`dispatch`]. Around them: [`snapshot`] is the
//! configuration a request sees ([`route_table`] finds its route), [`keyring`] the keys, [`token_cache`] and [`caller`]
//! what a verified token becomes ([`kept`]: what was made of it), [`bad_tokens`] what is known of the others, [`references`] the claims that an identity only
//! refers to.

pub mod admission;
pub mod api_keys;
pub mod authenticate;
pub mod authorise;
pub mod bad_tokens;
pub mod body;
pub mod body_limit;
pub mod caller;
pub mod charge;
pub mod client_address;
pub mod cors;
pub mod decision;
pub mod dispatch;
pub mod exchange;
pub mod finish;
pub mod floods;
pub mod guard;
pub mod hygiene;
pub mod identity;
pub mod kept;
pub mod keyring;
mod limit_keys;
pub mod limits;
pub mod metered;
pub mod observe;
pub mod open_streams;
pub mod preset;
pub mod problem;
pub mod quotas;
pub mod references;
pub mod refusal;
pub mod rescue;
pub mod route;
pub mod route_limits;
pub mod route_table;
pub mod snapshot;
pub mod stack;
pub mod stage;
pub mod token_cache;
pub mod tunnel;
mod watch;

#[cfg(test)]
mod tests;
