//! `pingora-proxy` with nothing in its hooks: one worker thread, its own keep-alive pool upstream, no TLS built in.

use std::net::{Ipv4Addr, SocketAddr};

use async_trait::async_trait;
use pingora_core::{
    Result,
    modules::http::HttpModules,
    server::{Server, configuration::ServerConf},
    upstreams::peer::HttpPeer,
};
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};
use portcullis_bare::{Failure, Ports};

/// Sends everything to one upstream.
struct Bare {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    /// None: the default is the compression module, switched off.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }
}

fn main() -> Result<(), Failure> {
    let ports = Ports::from_args()?;
    let settings = ServerConf {
        threads: 1,
        // SIGTERM ends it at once; the default waits for minutes.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, settings);
    server.bootstrap();
    let bare = Bare { upstream: (Ipv4Addr::LOCALHOST, ports.upstream).into() };
    let mut service = http_proxy_service(&server.configuration, bare);
    service.add_tcp(&format!("127.0.0.1:{}", ports.own));
    server.add_service(service);
    server.run_forever()
}
