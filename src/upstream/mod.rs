//! The way to the services behind us: clusters, health, pooled connections, time-outs. No authentication here.
//!
//! [`forward`] is the pipeline's last service and takes only what carries the gate's permit. A [`cluster`] is a set of
//! endpoints ([`endpoint`], found by [`discovery`]), a way to pick one ([`balance`], on Pingora's load balancing) and
//! active checks ([`health`]). Checks and traffic share one connector ([`connect`]) and with it certificates and names;
//! a connection is a [`line`], which the exchange that uses it drives itself and its endpoint keeps when it is idle.

pub mod balance;
pub mod cluster;
pub mod connect;
pub mod discovery;
pub mod endpoint;
pub mod forward;
pub mod health;
pub mod line;
