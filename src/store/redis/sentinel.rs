//! Redis Sentinel: who is the master now. <https://redis.io/docs/latest/develop/reference/sentinel-clients/>
//!
//! All sentinels are asked at once and most of those who answer are believed: one that is cut off from the others still
//! names the old master. What they name counts once it has taken the probe, which writes: a replica does not.

use std::sync::Arc;

use futures_util::future::join_all;
use redis::RedisResult;
use secrecy::ExposeSecret;

use super::{
    node::{Login, Node},
    words,
};
use crate::config::settings;

/// See the module.
pub(super) struct Sentinels {
    service: Arc<str>,
    nodes: Vec<Node>,
    /// How the servers that they name are reached.
    like: Node,
}

/// Host and port.
type Address = (String, u16);

impl Sentinels {
    /// `like`: how their servers are reached; they themselves in the same way, but for name and password.
    pub(super) fn new(settings: &settings::Sentinel, like: Node) -> RedisResult<Self> {
        let login = Login {
            username: settings.username.as_deref(),
            password: settings.password.as_ref().map(ExposeSecret::expose_secret),
        };
        let nodes = settings.servers.iter().map(|(host, port)| like.sentinel(host, *port, &login));
        let nodes = nodes.collect::<RedisResult<_>>()?;
        Ok(Self { service: Arc::clone(&settings.service), nodes, like })
    }

    /// The server at this address.
    pub(super) fn server(&self, (host, port): &Address) -> RedisResult<Node> {
        self.like.beside(host, *port)
    }

    /// Where the master is, as most of those say who answer. The error is for the operator.
    pub(super) async fn master(&self) -> Result<Address, String> {
        let answers = join_all(self.nodes.iter().map(|node| node.master_of(&self.service))).await;
        let mut why = "none is named".to_owned();
        let mut named = Vec::new();
        for answer in answers {
            match answer {
                Ok(Some(address)) => named.push(address),
                Ok(None) => why = format!("none knows a service {}", self.service),
                Err(error) => why = words(&error),
            }
        }
        most(&named).ok_or_else(|| format!("no sentinel names a master: {why}"))
    }
}

/// What most of them are; of equally many the first.
fn most(named: &[Address]) -> Option<Address> {
    let count = |address: &Address| named.iter().filter(|other| *other == address).count();
    let most = named.iter().map(count).max()?;
    named.iter().find(|address| count(address) == most).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(ports: &[u16]) -> Vec<Address> {
        ports.iter().map(|port| ("10.0.0.1".to_owned(), *port)).collect()
    }

    #[test]
    fn most_are_believed_and_nobody_if_there_is_none() {
        assert_eq!(most(&named(&[1, 2, 2])).unwrap().1, 2);
        assert_eq!(most(&named(&[1, 2])).unwrap().1, 1);
        assert_eq!(most(&named(&[3])).unwrap().1, 3);
        assert_eq!(most(&[]), None);
    }
}
