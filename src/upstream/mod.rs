//! The way to the services behind us: clusters, health, idle connections, time-outs. No authentication here.
//!
//! A [`cluster`] is a set of endpoints ([`endpoint`], found by [`discovery`]), a way to pick one ([`balance`], on
//! Pingora's load balancing) and active checks ([`health`]). The way of a request: [`forward`], the pipeline's last
//! service, takes only what carries the gate's permit ([`crate::gate::authorise`]) and picks an endpoint; the endpoint
//! gives an idle connection, or [`connect`] makes one; over that [`line`] the request is sent and the answer flows
//! back; after its last byte the endpoint keeps the line until the next request or the sweep. A line that has switched
//! protocols becomes a tunnel (`upgrade`). What a sampled request's trace tells of all that is in `told`.
//!
//! Whatever else asks others over HTTP is here too: the keys of other [`issuers`] are fetched ([`fetch`]), ended spans
//! exported ([`collector`]), messages delivered to webhooks ([`webhook`]). (PostgreSQL and Redis are connected to by
//! `store`.) What a key set is worth is `policy`'s to say, and whose tokens a route takes the gate's.

pub mod balance;
pub mod cluster;
pub mod collector;
pub mod connect;
pub mod discovery;
pub mod endpoint;
pub mod fetch;
pub mod forward;
pub mod health;
pub mod issuers;
pub mod line;
mod told;
mod upgrade;
pub mod webhook;
