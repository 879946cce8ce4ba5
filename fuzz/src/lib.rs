//! What the parsers promise about any bytes at all: one file a target ([`TARGETS`]), each with a function `check` that
//! fails (by an assertion) when a promise is broken, and tells whether the parser accepted what it was given. `lines`
//! and `signed` are what several of them share.
//!
//! All that reads what a client, a service or an issuer sends and is of our own making has a target; the parsers of
//! libraries (hyper, rustls, serde, sqlx) have not, nor have the small readers of one value (an origin, an e-mail
//! address, a `Cache-Control`), which are tested where they stand.
//!
//! Written once and called twice: by the fuzz targets beside this (`make fuzz`, libFuzzer, for as long as one likes),
//! and by `tests/fuzz` in the main package, which runs every seed and a bounded number of changes to them on stable
//! Rust with every `make test`. The promises are stated in words of their own, not by calling the parser again.

pub mod bearer;
pub mod config;
pub mod cookies;
pub mod discovery;
pub mod foreign;
pub mod form;
pub mod forwarded;
pub mod frames;
pub mod head;
pub mod headers;
pub mod jwks;
pub mod path;
pub mod refresh_token;
pub mod token;
pub mod trace;
pub mod usage;
pub mod websocket;

mod lines;
mod signed;

/// Tries bytes on a parser; true: it accepted them.
pub type Check = fn(&[u8]) -> bool;

/// Every target, in order. `fuzz_targets/` has a file for each, `seeds/` a folder.
pub const TARGETS: &[(&str, Check)] = &[
    ("bearer", bearer::check),
    ("config", config::check),
    ("cookies", cookies::check),
    ("discovery", discovery::check),
    ("foreign", foreign::check),
    ("form", form::check),
    ("forwarded", forwarded::check),
    ("frames", frames::check),
    ("head", head::check),
    ("headers", headers::check),
    ("jwks", jwks::check),
    ("path", path::check),
    ("refresh_token", refresh_token::check),
    ("token", token::check),
    ("trace", trace::check),
    ("usage", usage::check),
    ("websocket", websocket::check),
];
