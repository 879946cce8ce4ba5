//! What is right: the rules, as pure functions.
//!
//! No async, no I/O, no clock, no random numbers: `now` and random bytes are arguments. (Two libraries take none from
//! us: aws-lc makes keys and signatures with its own generator, [`keys`]; zxcvbn looks at the clock, [`password`].)
//! This room knows no other room but the plain types of [`crate::clock`]; everybody may call it. Each file decides one
//! kind of question and returns a decision or a small fault type beside its cause; [`reason::Reason`] is the closed
//! list of why a request was answered as it was.

pub mod access;
pub mod addresses;
pub mod api_key;
pub mod audit_chain;
pub mod bearer;
pub mod by_reference;
pub mod claims;
mod claims_json;
pub mod cookies;
pub mod cors;
pub mod cross_site;
pub mod device_cookie;
pub mod foreign;
pub mod forward_auth;
pub mod forwarded;
pub mod head;
pub mod headers;
pub mod ids;
pub mod jwks;
pub mod key_life;
pub mod keys;
pub mod limit_headers;
pub mod lockout;
pub mod master_key;
pub mod memory;
pub mod mint;
pub mod oauth_client;
pub mod overload;
pub mod password;
pub mod path;
pub mod preset;
pub mod quota;
pub mod quota_headers;
pub mod reason;
pub mod refresh;
pub mod refresh_token;
pub mod rewrite;
pub mod rfc3339;
pub mod sse;
pub mod standing;
pub mod streams;
pub mod stuffing;
pub mod token;
pub mod trace;
pub mod usage;
pub mod validate;
pub mod webhook;
pub mod websocket;
