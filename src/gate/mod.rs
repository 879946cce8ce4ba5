//! The pipeline that every request of the public listener goes through, one layer a file, the order in [`stack`]. (Of
//! the admin listener's only those of the admin API do; all else there is [`crate::telemetry::health`]'s.)
//!
//! A layer decides ([`stage`] is the common shape of one that only does that, `waiting` of one that may have to wait
//! first) and fails with a [`refusal`]: it writes no answer, but a preflight's ([`cors`]) and the yes to another proxy
//! ([`decision`]). [`rescue`] is the one table that turns a refusal into an answer ([`problem`] renders it).
//! [`exchange`] is what the layers know about the request; [`body`] is the one body type, [`guard`] watches bodies,
//! [`tunnel`] what a connection becomes after an upgrade, [`open_streams`] all that flows for a caller, [`metered`]
//! counts what a model's answer uses, [`finish`] tells a request's end, `watch` the spans of what it waited for.
//!
//! In the order of a request: [`observe`], [`rescue`], [`client_address`], [`floods`], [`decision`], [`hygiene`],
//! [`route`], [`cors`], [`limits`] (those that need no caller, peeked), [`authenticate`] (with [`api_keys`]),
//! [`admission`] (whom there is room for), [`charge`] (caps, then rates, the caller's before the address's; `caps`:
//! what is held, and what a stream is), [`authorise`], [`body_limit`], [`quotas`], [`identity`] (with [`preset`]),
//! [`dispatch`].
//!
//! Around them: [`snapshot`] is the configuration a request sees ([`route_table`] finds its route, [`route_limits`] are
//! the route's limits, `limit_keys` what they count by), [`keyring`] the keys, [`token_cache`] and [`caller`] what a
//! verified token becomes ([`kept`]: what was made of it), [`bad_tokens`] what is known of the others, [`references`]
//! the claims that an identity only refers to.

pub mod admission;
pub mod api_keys;
pub mod authenticate;
pub mod authorise;
pub mod bad_tokens;
pub mod body;
pub mod body_limit;
pub mod caller;
mod caps;
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
mod waiting;
mod watch;

#[cfg(test)]
mod tests;
