//! Portcullis: an edge auth gateway for RAG backends.
//!
//! The rooms, in the order in which the life of a request meets them:
//!
//! 1. [`config`] has turned one YAML file into checked settings, and [`app`] has wired everything below from them.
//! 2. [`edge`] accepts the connection, speaks TLS and HTTP, and enforces its limits and time-outs. It knows neither
//!    users nor routes.
//! 3. [`gate`] is the Tower pipeline: each layer a file, the whole order in one function with the reason for each
//!    place. A layer fails with a `Refusal`; one table turns refusals into answers.
//! 4. [`policy`] is what the layers ask: pure rules without async, I/O, clock or random numbers of ours.
//! 5. [`portal`] answers the account endpoints and what is published, inside the pipeline, behind the same layers as
//!    every route.
//! 6. [`store`] keeps the facts that outlive a request: users, sessions, keys, audit, failed logins, what is used of
//!    quotas; in memory what was revoked and the counters of limits; in Redis, for several gateways, such counters and
//!    calls to read the feed.
//! 7. [`upstream`] forwards what was authorised: clusters, health checks, connections kept, time-outs. It also fetches
//!    the keys of other issuers, exports spans and delivers messages to webhooks.
//! 8. [`telemetry`] sees everything: metrics, access log, health, the spans of sampled requests. The admin listener's
//!    requests are answered there, past the pipeline, but for the admin API's, which go through it.
//!
//! [`clock`] is where time and randomness are read. [`cli`] is the command line; `main.rs` puts it all together:
//! command line, configuration, log, app, run. docs/architecture.md tells the same at more length, and who may know
//! whom.

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod edge;
pub mod gate;
pub mod policy;
pub mod portal;
pub mod store;
pub mod telemetry;
pub mod upstream;
