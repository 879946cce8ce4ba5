//! Active health checks: a GET over a new connection of the cluster's own connector, since whether an endpoint still
//! takes connections is part of the question.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use http::{
    Request,
    header::{CONNECTION, HOST},
};
use pingora_error::{Error, ErrorType};
use pingora_load_balancing::{Backend, health_check::HealthCheck};
use tokio::time::timeout;

use crate::{
    clock::Tick,
    config::settings,
    gate::body::GateBody,
    upstream::{
        connect::Connector,
        discovery::Endpoints,
        line::{Line, Missed, Patience},
    },
};

/// Checks one endpoint: any 2xx within the time-out is healthy.
pub struct HttpCheck {
    cluster: Arc<settings::Cluster>,
    check: settings::HealthCheck,
    connector: Connector,
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
        connector: Connector,
        endpoints: Arc<arc_swap::ArcSwap<Endpoints>>,
        known: Arc<Known>,
    ) -> Self {
        Self { cluster, check, connector, endpoints, known }
    }

    async fn get(&self, target: &Backend) -> Result<(), String> {
        let address = target.addr.as_inet().copied().ok_or("not an internet address")?;
        let endpoint = self.endpoints.load().get(&address).cloned().ok_or("no longer in the cluster")?;
        let request = Request::get(&self.check.path)
            .header(HOST, endpoint.host.clone())
            .header(CONNECTION, "close")
            .header("user-agent", "portcullis-health-check")
            .body(GateBody::Empty)
            .map_err(|error| error.to_string())?;
        let asked = async {
            // A connection of its own: whether the endpoint still takes new ones is part of the question.
            let stream = self.connector.connect(&endpoint).await.map_err(|error| error.to_string())?;
            let mut line = Line::over(stream).await.map_err(|error| error.to_string())?;
            let patience = Patience { first_byte: self.check.timeout, total: None, upload: None, may_switch: false };
            line.send(request, Tick::from_nanos(0), patience).await.map_err(|missed| match missed {
                Missed::Failed(error) => error.to_string(),
                Missed::NeverSent(_) => "the connection was closed".to_owned(),
                Missed::FirstByte | Missed::Total => "no answer in time".to_owned(),
                Missed::Cut(reason) => reason.as_str().to_owned(),
            })
        };
        let response = timeout(self.check.timeout, asked).await.map_err(|_| "no answer in time")??;
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
