//! Attack journeys: each against one gateway and against three on one PostgreSQL and one Redis. An attacker goes to all
//! gateways in turn and gets exactly so much, as docs/limits.md, docs/lockout.md and docs/overload.md say, and
//! docs/threats.md sums up (Attack journeys); honest clients are served meanwhile, at every gateway.
//!
//! [`spraying`], [`stuffing`] and [`hammering`] guess passwords; their clock stands still unless the journey moves it.
//! The others are attacks on processes: [`rotation`] and [`evasion`] look for a way around a limit, [`slow`] takes all
//! connections, [`broken_redis`] strikes when gateways cannot count together.

/// Each named journey against one gateway, and against three.
macro_rules! on_one_and_three {
    ($($name:ident),* $(,)?) => {
        mod on_one {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(crate::harness::site::Nodes::One).await;
                }
            )*
        }
        mod on_three {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(crate::harness::site::Nodes::Three).await;
                }
            )*
        }
    };
}

mod broken_redis;
mod evasion;
mod hammering;
mod rotation;
mod slow;
mod spraying;
mod stuffing;

use std::{cell::Cell, future::Future};

use crate::harness::{
    client::{Client, PASSWORD},
    gateway::standard,
    logins::{credentials, login},
    site::{Nodes, Site},
    upstream::Upstream,
};

/// The proxy in front: who comes from here says for whom.
const PROXY: &str = "127.0.0.9";

/// Where honest clients are.
const HOME: &str = "127.0.9.1";

/// Where an attacker with one address is.
const LAIR: &str = "127.0.0.2";

/// Gateways behind [`PROXY`] with the standard routes. Each call of the portal is counted by all together, in the shadow:
/// what is left of a limit would tell answers apart. The test's clock may leap further than the store is read by then.
fn yaml(nodes: Nodes, upstream: &Upstream, more: &str) -> String {
    format!(
        "listeners: {{public: {{bind: \"127.0.0.1:0\"}}, admin: {{bind: \"127.0.0.1:0\"}}, trusted_proxies: [{PROXY}]}}\n\
         limits: {{everybody: {{by: address, rate: 100000/s, burst: 100000, shadow: true, {}}}}}\nportal: {{limits: [everybody]}}\n\
         {}{more}{}",
        nodes.scope(0),
        nodes.shared_state(),
        standard(upstream).replace("{name: ask,", "{name: ask, revocation: {on_stale: allow},")
    )
}

/// Runs `honest` again and again for as long as the attack takes, and once at least.
async fn beside<T>(attack: impl Future<Output = T>, honest: impl AsyncFn()) -> T {
    let over = Cell::new(false);
    let attack = async {
        let outcome = attack.await;
        over.set(true);
        outcome
    };
    let honest = async {
        loop {
            honest().await;
            if over.get() {
                return;
            }
        }
    };
    tokio::join!(attack, honest).0
}

/// An honest user, at an address of its own.
struct Honest {
    client: Client,
    email: String,
    nodes: usize,
}

impl Honest {
    async fn register(site: &Site, nodes: Nodes, name: &str) -> Self {
        let honest = Self { client: site.client_at(HOME), email: format!("{name}@example.org"), nodes: nodes.count() };
        honest.client.register(&honest.email).await;
        honest
    }

    /// Logs in with the password alone, and asks every gateway something: all of it is served.
    async fn is_served(&self) {
        let tokens = self.client.login(&self.email).await;
        for _ in 0..self.nodes {
            self.client.get("/ask/a").bearer(&tokens.access).send().await.expect(200);
        }
    }

    /// Each of these logs in at every gateway, with the password alone.
    async fn get_in(&self, owners: &[&str]) {
        for email in owners {
            for _ in 0..self.nodes {
                login(&self.client, email, PASSWORD).await.expect(200);
            }
        }
    }
}

async fn register(client: &Client, email: &str, password: &str) {
    client.post("/auth/register").json(&credentials(email, password)).send().await.expect(201);
}
