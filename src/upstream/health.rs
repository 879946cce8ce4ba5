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
    known: Arc<Known>,
}

/// What is known of a cluster as a whole: at the start there is nothing that one outcome could be an exception to.
#[derive(Debug, Default)]
pub struct Known {
    /// Every endpoint has been checked once: from now on a failure must repeat itself.
    pub checked: AtomicBool,
    /// Every endpoint has been healthy at once: from now on a recovery must last.
    pub well: AtomicBool,
}

impl HttpCheck {
    /// A check of `cluster` as its settings say, and as strict as what is `known` allows.
    #[must_use]
    pub fn new(
        cluster: Arc<settings::Cluster>,
        check: settings::HealthCheck,
        client: Client,
        endpoints: Arc<arc_swap::ArcSwap<Endpoints>>,
        known: Arc<Known>,
    ) -> Self {
        Self { cluster, check, client, endpoints, known }
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
        match success {
            true if self.known.well.load(Ordering::Relaxed) => self.check.healthy_after,
            false if self.known.checked.load(Ordering::Relaxed) => self.check.unhealthy_after,
            _ => 1,
        }
    }
}
