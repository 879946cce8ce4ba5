//! Active health checks: a GET over the cluster's own client, so that checks see what traffic would see.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use http::{Request, header::HOST};
use pingora_error::{Error, ErrorType};
use pingora_load_balancing::{Backend, health_check::HealthCheck};
use tokio::time::timeout;

use crate::{
    config::settings,
    gate::body::GateBody,
    upstream::{cluster::Client, discovery::Endpoints},
};

/// Checks one endpoint: any 2xx within the time-out is healthy.
pub struct HttpCheck {
    cluster: Arc<settings::Cluster>,
    check: settings::HealthCheck,
    client: Client,
    endpoints: Arc<arc_swap::ArcSwap<Endpoints>>,
    settled: Arc<AtomicBool>,
}

impl HttpCheck {
    /// A check of `cluster` as its settings say. Until `settled`, one outcome decides: at the start nothing is known
    /// that a single failure could be an exception to.
    #[must_use]
    pub fn new(
        cluster: Arc<settings::Cluster>,
        check: settings::HealthCheck,
        client: Client,
        endpoints: Arc<arc_swap::ArcSwap<Endpoints>>,
        settled: Arc<AtomicBool>,
    ) -> Self {
        Self { cluster, check, client, endpoints, settled }
    }

    async fn get(&self, target: &Backend) -> Result<(), String> {
        let address = target.addr.as_inet().copied().ok_or("not an internet address")?;
        let endpoint = self.endpoints.load().get(&address).cloned().ok_or("no longer in the cluster")?;
        let scheme = if self.cluster.tls.is_some() { "https" } else { "http" };
        let uri = format!("{scheme}://{}{}", endpoint.authority, self.check.path);
        let request = Request::get(uri)
            .header(HOST, endpoint.host.clone())
            .header("user-agent", "portcullis-health-check")
            .body(GateBody::Empty)
            .map_err(|error| error.to_string())?;
        let response = timeout(self.check.timeout, self.client.request(request)).await;
        let response = response.map_err(|_| "no answer in time")?.map_err(|error| error.to_string())?;
        if response.status().is_success() { Ok(()) } else { Err(format!("answered {}", response.status())) }
    }
}

#[async_trait]
impl HealthCheck for HttpCheck {
    async fn check(&self, target: &Backend) -> pingora_error::Result<()> {
        self.get(target).await.map_err(|why| Error::explain(ErrorType::Custom("UnhealthyEndpoint"), why))
    }

    async fn health_status_change(&self, target: &Backend, healthy: bool) {
        let endpoint = target.addr.to_string();
        tracing::warn!(cluster = %self.cluster.name, endpoint, healthy, "an endpoint's health changed");
    }

    fn health_threshold(&self, success: bool) -> usize {
        match (self.settled.load(Ordering::Relaxed), success) {
            (false, _) => 1,
            (true, true) => self.check.healthy_after,
            (true, false) => self.check.unhealthy_after,
        }
    }
}
