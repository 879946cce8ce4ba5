//! Redis Sentinel: who is the master now. <https://redis.io/docs/latest/develop/reference/sentinel-clients/>
//!
//! The specification has a client believe the first sentinel that answers, and ask the server that it names for its
//! `ROLE`. A sentinel that is cut off from the others still names the old master, which may still say that it is one.
//! So all are asked at once, and more than half of those who name somebody are believed. When there is no such half,
//! the servers they name are asked what they are; of several that say master the one whose sentinel has seen the latest
//! failover counts (by its epoch, as sentinels settle it among themselves), else the one that is named first.
//!
//! Whoever it is counts once it has taken the probe, which writes: a replica does not.

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

/// A sentinel, by its place in the configuration, and whom it names.
type Vote = (usize, Address);

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

    /// Where the master is. The error is for the operator.
    pub(super) async fn master(&self) -> Result<Address, String> {
        let votes = self.votes().await?;
        if let Some(address) = majority(&votes) {
            return Ok(address.clone());
        }
        let votes = self.of_masters(votes).await;
        let first = votes.first().map(|(_, address)| address.clone());
        let latest = match distinct(&votes).len() {
            0 | 1 => None,
            _ => self.latest(votes).await,
        };
        latest.or(first).ok_or_else(|| "no sentinel names a master".to_owned())
    }

    /// Whom they name, all asked at once; an error when none names any.
    async fn votes(&self) -> Result<Vec<Vote>, String> {
        let answers = join_all(self.nodes.iter().map(|node| node.master_of(&self.service))).await;
        let mut why = "none is named".to_owned();
        let mut votes = Vec::new();
        for (sentinel, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(Some(address)) => votes.push((sentinel, address)),
                Ok(None) => why = format!("none knows a service {}", self.service),
                Err(error) => why = words(&error),
            }
        }
        if votes.is_empty() { Err(format!("no sentinel names a master: {why}")) } else { Ok(votes) }
    }

    /// Only those whose server says that it is a master; all, when none says so: it may not be ours to ask.
    async fn of_masters(&self, votes: Vec<Vote>) -> Vec<Vote> {
        let named = distinct(&votes);
        let asked = join_all(named.iter().map(|address| async move {
            match self.server(address) {
                Ok(server) => server.says_master().await.unwrap_or(false),
                Err(_) => false,
            }
        }));
        let says = asked.await;
        let masters: Vec<_> =
            named.into_iter().zip(says).filter_map(|(address, says)| says.then_some(address)).collect();
        if masters.is_empty() {
            return votes;
        }
        votes.into_iter().filter(|(_, address)| masters.contains(address)).collect()
    }

    /// Whom the sentinel names that has seen the latest failover, if one has.
    async fn latest(&self, votes: Vec<Vote>) -> Option<Address> {
        let epochs = join_all(
            votes.iter().filter_map(|(sentinel, _)| self.nodes.get(*sentinel)).map(|node| node.epoch_of(&self.service)),
        );
        let epochs: Vec<_> = epochs.await.into_iter().map(Result::ok).collect();
        let latest = epochs.iter().flatten().max()?;
        let mut seen = votes.into_iter().zip(&epochs).filter(|(_, epoch)| epoch.as_ref() == Some(latest));
        let ((_, address), _) = seen.next()?;
        // Two of one epoch settle nothing.
        seen.all(|((_, other), _)| other == address).then_some(address)
    }
}

/// Whom more than half of them name.
fn majority(votes: &[Vote]) -> Option<&Address> {
    let count = |address: &Address| votes.iter().filter(|(_, other)| other == address).count();
    votes.iter().map(|(_, address)| address).find(|address| count(address) * 2 > votes.len())
}

/// Each once, in the order of the sentinels.
fn distinct(votes: &[Vote]) -> Vec<Address> {
    let mut named: Vec<Address> = Vec::new();
    for (_, address) in votes {
        if !named.contains(address) {
            named.push(address.clone());
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(ports: &[u16]) -> Vec<Vote> {
        ports.iter().map(|port| ("10.0.0.1".to_owned(), *port)).enumerate().collect()
    }

    #[test]
    fn more_than_half_are_believed_and_nobody_if_there_is_no_such_half() {
        let port = |ports: &[u16]| majority(&named(ports)).map(|(_, port)| *port);
        assert_eq!(port(&[1, 2, 2]), Some(2));
        assert_eq!(port(&[3]), Some(3));
        assert_eq!(port(&[3, 3]), Some(3));
        for undecided in [&[][..], &[1, 2], &[1, 2, 3], &[1, 1, 2, 3], &[1, 1, 2, 2]] {
            assert_eq!(port(undecided), None, "{undecided:?}");
        }
    }

    #[test]
    fn each_server_that_is_named_is_asked_once() {
        let ports: Vec<_> = distinct(&named(&[2, 1, 2, 1, 3])).into_iter().map(|(_, port)| port).collect();
        assert_eq!(ports, [2, 1, 3]);
    }
}
