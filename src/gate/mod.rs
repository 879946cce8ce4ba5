//! The pipeline every request goes through, one layer per file, the order in [`stack`].
//!
//! A layer decides ([`stage`] is the common shape of one that only does that); it never writes a response. [`exchange`]
//! is what the layers know about the request; [`refusal`] is how a layer says no; [`rescue`] is the one table that
//! turns a refusal into an answer ([`problem`] renders it); [`body`] is the one body type, [`guard`] watches bodies,
//! [`finish`] tells a request's end.
//!
//! In the order of a request: [`observe`], [`rescue`], [`client_address`], [`hygiene`], [`route`], [`cors`], [`limits`] (the
//! address, peeked), [`authenticate`], [`limits`] (the subject, charged), [`authorise`], [`body_limit`], [`identity`]
//! (with [`preset`]), [`dispatch`]. Around them: [`snapshot`] is the configuration a request sees, [`keyring`] the keys, [`token_cache`]
//! and [`caller`] what a verified token becomes.

pub mod authenticate;
pub mod authorise;
pub mod body;
pub mod body_limit;
pub mod caller;
pub mod charge;
pub mod client_address;
pub mod cors;
pub mod dispatch;
pub mod exchange;
pub mod finish;
pub mod guard;
pub mod hygiene;
pub mod identity;
pub mod keyring;
pub mod limits;
pub mod observe;
pub mod preset;
pub mod problem;
pub mod references;
pub mod refusal;
pub mod rescue;
pub mod route;
pub mod snapshot;
pub mod stack;
pub mod stage;
pub mod token_cache;
mod watch;

#[cfg(test)]
mod tests;
