//! The way to the services behind us: clusters, health, pooled connections, time-outs. No authentication here.
//!
//! [`forward`] is the pipeline's last service and takes only what carries the gate's permit. A [`cluster`] is a set of
//! endpoints ([`endpoint`], found by [`discovery`]), a way to pick one ([`balance`], on Pingora's load balancing),
//! active checks ([`health`]) and one pooled client over our own connector ([`connect`]), so that checks and traffic
//! share certificates and names. [`sever`] cuts the connection of an upload that was given up.

pub mod balance;
pub mod cluster;
pub mod connect;
pub mod discovery;
pub mod endpoint;
pub mod forward;
pub mod health;
pub mod sever;
