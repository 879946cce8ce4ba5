//! From configured names to addresses, again and again: one name may have several, and each is an endpoint.
//!
//! A failing look-up keeps the addresses it last gave: a DNS outage must not empty a cluster.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora_load_balancing::{Backend, discovery::ServiceDiscovery};
use rustls::pki_types::ServerName;

use crate::{config::settings, upstream::endpoint::Endpoint};

/// The endpoints of a cluster by address.
pub type Endpoints = HashMap<SocketAddr, Arc<Endpoint>>;

/// Finds a cluster's endpoints and publishes them.
pub struct Discovery {
    cluster: Arc<settings::Cluster>,
    endpoints: Arc<ArcSwap<Endpoints>>,
}

impl Discovery {
    /// Discovery for `cluster`, which publishes into `endpoints`.
    #[must_use]
    pub fn new(cluster: Arc<settings::Cluster>, endpoints: Arc<ArcSwap<Endpoints>>) -> Self {
        Self { cluster, endpoints }
    }

    async fn resolve(&self) -> Endpoints {
        let known = self.endpoints.load();
        let mut found = Endpoints::new();
        for configured in &self.cluster.endpoints {
            let authority = &configured.authority;
            match tokio::net::lookup_host(authority.as_str()).await {
                Ok(addresses) => {
                    for address in addresses {
                        let endpoint = known.get(&address).cloned().or_else(|| self.endpoint(configured, address));
                        if let Some(endpoint) = endpoint {
                            found.insert(address, endpoint);
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(cluster = %self.cluster.name, endpoint = %authority, %error, "name not resolved");
                    let kept = known.iter().filter(|(_, old)| old.host.as_bytes() == authority.as_str().as_bytes());
                    found.extend(kept.map(|(address, old)| (*address, Arc::clone(old))));
                }
            }
        }
        found
    }

    fn endpoint(&self, configured: &settings::Endpoint, address: SocketAddr) -> Option<Arc<Endpoint>> {
        let fixed = self.cluster.tls.as_ref().and_then(|tls| tls.server_name.clone());
        let host = configured.authority.host().trim_matches(['[', ']']);
        let name = fixed.or_else(|| ServerName::try_from(host.to_owned()).ok());
        Endpoint::new(address, &configured.authority, name, self.cluster.pool_idle_per_endpoint).map(Arc::new)
    }
}

#[async_trait]
impl ServiceDiscovery for Discovery {
    async fn discover(&self) -> pingora_error::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        let endpoints = self.resolve().await;
        let mut backends = BTreeSet::new();
        for address in endpoints.keys() {
            backends.insert(Backend::new(&address.to_string())?);
        }
        self.endpoints.store(Arc::new(endpoints));
        Ok((backends, HashMap::new()))
    }
}
