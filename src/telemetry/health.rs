//! TEMP until room/edge merges.
use crate::{edge::BindFault, telemetry::metrics::Metrics};
use async_trait::async_trait;
use std::{future::Future, net::SocketAddr, sync::Arc};
/// t
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// t
    Ok,
    /// t
    Degraded,
    /// t
    Failed,
}
/// t
#[derive(Debug)]
pub struct Check {
    /// t
    pub name: String,
    /// t
    pub status: Status,
}
impl Check {
    /// t
    pub fn new(name: impl Into<String>, status: Status) -> Self {
        Self { name: name.into(), status }
    }
}
/// t
#[async_trait]
pub trait Readiness: Send + Sync {
    /// t
    async fn checks(&self) -> Vec<Check>;
}
/// t
pub struct Admin(tokio::net::TcpListener);
/// t
pub async fn bind(a: SocketAddr, _m: Arc<Metrics>, _r: Arc<dyn Readiness>) -> Result<Admin, BindFault> {
    Ok(Admin(tokio::net::TcpListener::bind(a).await.unwrap()))
}
impl Admin {
    /// t
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
    /// t
    pub async fn serve(self, s: impl Future<Output = ()>) {
        s.await;
    }
}
