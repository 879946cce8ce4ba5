//! The account endpoints: register, login (as JSON, or as a `form`), refresh, logout, me, sessions, API keys, verify;
//! what services ask of tokens (`oauth`); and what is published: keys, where they are, claims that an identity refers
//! to, the description of all this. Keys (those that readers of a preset look for, too) and claims are served with the
//! portal off and without a store too.
//!
//! An axum router inside the gate's pipeline, which has already found the client's address, cleaned the headers,
//! limited and authenticated; [`border`] is where it stands in it. Here is HTTP shape only: what a request must hold,
//! what an answer holds, which cookie travels. What is right is `policy`'s to say, what lasts is `store`'s to keep, and
//! a refusal's bytes are the gate's to write. [`endpoints`] is the table of all of it, [`key_sets`] of where readers of
//! other products' headers find keys; [`hash_pool`] is where passwords are hashed; `lockout` asks before that,
//! [`lines`] is where logins wait for each other. `admin` is the admin API.

mod admin;
mod answers;
mod api_keys;
pub mod border;
mod caller;
mod claims;
mod cookie;
pub mod endpoints;
mod fields;
mod form;
mod grant;
pub mod hash_pool;
pub mod key_sets;
pub mod lines;
mod lockout;
mod login;
mod logout;
mod me;
mod oauth;
mod openapi;
mod presented;
mod refresh;
mod register;
mod sessions;
mod state;
mod stuffing;
mod well_known;

#[doc(hidden)]
pub use self::{fields::read_json, form::read_form};
pub use state::{PortalState, Published};

#[cfg(test)]
pub(crate) mod tests;
