//! The pipeline every request goes through, one layer per file, the order in [`stack`].
//!
//! `exchange` is what the layers know about the request; `refusal` is how a layer says no; `rescue` is the one table
//! that turns a refusal into an answer; `body` is the one body type. A layer decides; it never writes a response.

pub mod body;
pub mod exchange;
pub mod keyring;
pub mod refusal;
