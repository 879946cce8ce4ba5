//! What every test on the running gateway stands on: the gateway itself, a scripted upstream, a client that checks each
//! answer, and a clock that only the test moves. Gateways: [`gateway`] one, within the test; [`gateways`] one or two,
//! of which a journey need not know; [`site`] one or three under attack, as processes or by the test's clock; [`trio`]
//! three processes whose links fail.
//!
//! Nothing here sleeps, retries or knows a port beforehand: a test waits for something to happen, and [`soon`] turns a
//! wait that never ends into a failure with a name.

pub(crate) mod binary;
pub(crate) mod client;
pub(crate) mod clock;
pub(crate) mod gateway;
pub(crate) mod gateways;
pub(crate) mod h2;
pub(crate) mod honest;
pub(crate) mod identity;
pub(crate) mod invariants;
pub(crate) mod issuer;
pub(crate) mod link;
pub(crate) mod logins;
pub(crate) mod model;
pub(crate) mod nginx;
pub(crate) mod peer;
pub(crate) mod question;
pub(crate) mod raw;
pub(crate) mod site;
pub(crate) mod spans;
pub(crate) mod strict;
pub(crate) mod tls;
pub(crate) mod tokens;
pub(crate) mod trio;
pub(crate) mod upstream;
pub(crate) mod websocket;
pub(crate) mod wire;

use std::{future::Future, net::SocketAddr, time::Duration};

/// How long anything that must happen may take before the test fails. No test waits this long unless it fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for `future`; fails the test by name when it never comes.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    let Ok(output) = tokio::time::timeout(PATIENCE, future).await else {
        panic!("waited {PATIENCE:?} in vain for {what}");
    };
    output
}

/// Status and body of a page for operators, at this admin listener.
pub(crate) async fn page(admin: SocketAddr, path: &str) -> (u16, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let response = soon("the admin listener", client.get(format!("http://{admin}{path}")).send()).await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

/// The value of one line of `/metrics`; 0 when it is not there.
pub(crate) fn sample(metrics: &str, line: &str) -> f64 {
    let value = metrics.lines().find_map(|one| one.strip_prefix(line)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().unwrap())
}
