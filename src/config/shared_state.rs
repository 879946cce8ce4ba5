//! `shared_state:` what several gateways share besides the store, and may lose: counters of limits and calls to read
//! the feed, in Redis.

use std::sync::Arc;

use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::{
    checks::{Checks, values},
    item::Item,
    secret::{LiteralOrSecret, Secret},
    settings::{Redis, Sentinel, SharedState},
    tls,
    units::Span,
    words::{FilePath, HostPort, KeyPrefix, Name, Text},
};

/// What may be lost and need not outlive the process: rate-limit counters. Without redis each gateway counts for itself,
/// so a client may use each limit once per gateway.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "SharedState")]
pub(super) struct RawSharedState {
    /// Redis 6.2 or later, or what speaks as it does (Valkey): one server or a cluster. It counts the limits whose scope
    /// is shared, and carries calls between gateways. Lost or slow, it costs no request: each gateway then counts for
    /// itself.
    redis: Option<Item<RawRedis>>,
}

/// How Redis is reached.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Redis")]
pub(super) struct RawRedis {
    /// `redis://host:6379/0`, `rediss://` for TLS or `redis+unix:///path`. Whoever can write there can lift every shared
    /// limit. A password belongs in the environment or a file: "${NAME}", {env: NAME} or {file: path}.
    url: Item<LiteralOrSecret>,
    /// PEM file with the only roots to trust, for rediss:// with a private CA. A relative path starts at this file's
    /// folder. Default: the operating system's roots.
    #[serde(default)]
    ca_file: Option<Item<FilePath>>,
    /// A Redis Cluster. url names one of its servers (or all of them, by one name); the others are learned from it and
    /// reached with the same scheme, user and password. A lost master costs the count of its own keys only, if the
    /// cluster allows it (cluster-require-full-coverage no).
    #[serde(default = "no")]
    cluster: Item<bool>,
    /// Sentinels that say which server is the master. Then url says how it is reached (scheme, user, password, database);
    /// its host is not used: write the service's name.
    #[serde(default)]
    sentinel: Option<Item<RawSentinel>>,
    /// Host and port of more servers of the cluster, asked when that of url is not there.
    #[serde(default = "nobody")]
    seeds: Item<Vec<Item<HostPort>>>,
    /// Put before every key, so that several installations can share one Redis. Gateways that share limits need the
    /// same.
    #[serde(default = "prefix")]
    prefix: Item<KeyPrefix>,
    /// How long a request waits for Redis before it is counted by this gateway alone, and all requests after it until
    /// Redis answers again.
    #[serde(default = "deadline")]
    deadline: Item<Span<1, 60_000>>,
    /// Time between two looks at a Redis that was lost. No request waits for them.
    #[serde(default = "retry")]
    retry: Item<Span<10, 60_000>>,
}

/// Redis Sentinel. All are asked at the start, whenever the master is lost, and every five seconds.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Sentinel")]
pub(super) struct RawSentinel {
    /// What the sentinels call the master (`sentinel monitor NAME`).
    service: Item<Name>,
    /// Host and port of each sentinel. With rediss:// they are spoken to over TLS too.
    servers: Item<Vec<Item<HostPort>>>,
    /// User at the sentinels, if they ask for one; that of the servers stands in url.
    #[serde(default)]
    username: Option<Item<Text>>,
    /// Password of the sentinels, if they ask for one: {file: path}, {env: NAME} or "${NAME}".
    #[serde(default)]
    password: Option<Item<Secret>>,
}

fn prefix() -> Item<KeyPrefix> {
    Item::of(KeyPrefix("portcullis:".to_owned()))
}

fn no() -> Item<bool> {
    Item::of(false)
}

fn nobody() -> Item<Vec<Item<HostPort>>> {
    Item::of(Vec::new())
}

fn deadline() -> Item<Span<1, 60_000>> {
    Item::of(Span::millis(25))
}

fn retry() -> Item<Span<10, 60_000>> {
    Item::of(Span::secs(1))
}

pub(super) fn check(item: Item<RawSharedState>, checks: &mut Checks) -> Option<SharedState> {
    let redis = match item.value?.redis {
        None => None,
        Some(redis) => Some(check_redis(redis, checks)?),
    };
    Some(SharedState { redis })
}

fn check_redis(item: Item<RawRedis>, checks: &mut Checks) -> Option<Redis> {
    let raw = item.value?;
    let url = checks.required(raw.url.clone(), &item.at, "url", "e.g. redis://127.0.0.1:6379");
    let scheme = url.as_ref().map(|url| scheme(&url.0));
    if let Some(Err(message)) = &scheme {
        checks.error(&raw.url.at, *message);
    }
    let ca = match &raw.ca_file {
        None => Some(None),
        Some(ca) => match scheme {
            Some(Ok("rediss")) => read_ca(ca, checks).map(Some),
            Some(Ok(_)) => {
                checks.error(&ca.at, "contradicts url: it is not rediss://");
                None
            }
            _ => None,
        },
    };
    let cluster = check_cluster(&raw, scheme, url.as_ref().map(|url| &url.0), checks);
    let sentinel = check_sentinel(&raw, scheme, checks);
    let (prefix, deadline, retry) = (raw.prefix.value?.0, raw.deadline.value?.0, raw.retry.value?.0);
    scheme?.ok()?;
    Some(Redis {
        url: url?.0,
        ca: ca?,
        cluster: cluster.ok()?,
        sentinel: sentinel.ok()?,
        prefix: prefix.into(),
        deadline,
        retry,
    })
}

/// The sentinels, if there are any. Of a mistake only that it is one is given.
fn check_sentinel(
    raw: &RawRedis,
    scheme: Option<Result<&'static str, &'static str>>,
    checks: &mut Checks,
) -> Result<Option<Sentinel>, ()> {
    let Some(item) = &raw.sentinel else { return Ok(None) };
    let at = &item.at;
    if raw.cluster.value == Some(true) {
        checks.error(at, "contradicts cluster: true; a cluster chooses its masters itself");
        return Err(());
    }
    if scheme == Some(Ok("redis+unix")) {
        checks.error(at, "contradicts url: the servers that sentinels name are reached over TCP");
        return Err(());
    }
    let sentinel = item.value.as_ref().ok_or(())?;
    let service = checks.required(sentinel.service.clone(), at, "service", "what sentinels call the master");
    let servers = checks.required(sentinel.servers.clone(), at, "servers", "host and port of each sentinel");
    if servers.as_ref().is_some_and(Vec::is_empty) {
        checks.error(&sentinel.servers.at, "empty; name at least one sentinel, better three");
        return Err(());
    }
    checks.no_repeats(servers.as_deref().unwrap_or_default());
    let username = match &sentinel.username {
        None => None,
        Some(name) => Some(Arc::from(name.value.as_ref().ok_or(())?.0.as_str())),
    };
    let password = match &sentinel.password {
        None => None,
        Some(password) => Some(password.value.as_ref().ok_or(())?.0.clone()),
    };
    let servers = servers.and_then(values).ok_or(())?.into_iter().map(|server| server.0).collect();
    Ok(Some(Sentinel { service: service.ok_or(())?.0.into(), servers, username, password }))
}

/// Whether it is a cluster, and who else tells its map. Of a mistake only that it is one is given.
fn check_cluster(
    raw: &RawRedis,
    scheme: Option<Result<&'static str, &'static str>>,
    url: Option<&SecretString>,
    checks: &mut Checks,
) -> Result<Option<Vec<(String, u16)>>, ()> {
    let is_cluster = raw.cluster.value.ok_or(())?;
    let seeds = raw.seeds.value.clone().and_then(values).ok_or(())?;
    let (at, wrong) = if !is_cluster {
        (&raw.seeds.at, (!seeds.is_empty()).then_some("only with cluster: true"))
    } else if scheme == Some(Ok("redis+unix")) {
        (&raw.cluster.at, Some("contradicts url: the servers of a cluster are reached over TCP"))
    } else {
        let database = url.is_some_and(|url| names_a_database(url.expose_secret()));
        (&raw.cluster.at, database.then_some("contradicts url: a cluster has no database but 0"))
    };
    if let Some(wrong) = wrong {
        checks.error(at, wrong);
        return Err(());
    }
    Ok(is_cluster.then(|| seeds.into_iter().map(|seed| seed.0).collect()))
}

fn names_a_database(url: &str) -> bool {
    let path = url.split_once("://").and_then(|(_, rest)| rest.split('?').next()?.split_once('/'));
    path.is_some_and(|(_, database)| !matches!(database, "" | "0"))
}

/// What is checked here is what we refuse; the driver reads the rest. No message quotes it: it may hold a password.
fn scheme(url: &SecretString) -> Result<&'static str, &'static str> {
    const EXPECTED: &str = "expected redis://host:port, rediss://host:port (TLS) or redis+unix:///path";
    let (scheme, rest) = url.expose_secret().split_once("://").ok_or(EXPECTED)?;
    let scheme = ["redis", "rediss", "redis+unix"].into_iter().find(|known| *known == scheme).ok_or(EXPECTED)?;
    if rest.contains('#') {
        return Err("a fragment (#…) means nothing here; write # in a password as %23");
    }
    let authority = rest.split(['/', '?']).next().unwrap_or("");
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let named = if scheme == "redis+unix" { authority.is_empty() && rest.len() > 1 } else { !host.is_empty() };
    if named { Ok(scheme) } else { Err(EXPECTED) }
}

fn read_ca(item: &Item<FilePath>, checks: &mut Checks) -> Option<Vec<u8>> {
    let pem = checks.pem(&item.at, &item.value.as_ref()?.0);
    let read = pem.and_then(|pem| tls::roots_of_file(&pem).map(|_| pem.content().to_vec()));
    read.map_err(|message| checks.error(&item.at, message)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_name_no_redis_are_refused_and_never_quoted() {
        for url in [
            "",
            "127.0.0.1:6379",
            "http://hunter2@x",
            "redis://",
            "redis:///0",
            "redis://:hunter2@/0",
            "redis+unix://hunter2/sock",
            "redis+unix:///",
            "rediss://:hunter2@x#insecure",
            "REDIS://x",
        ] {
            let refused = scheme(&url.into()).unwrap_err();
            assert!(!refused.contains("hunter2"), "{refused}");
        }
        for (url, expected) in [
            ("redis://127.0.0.1", "redis"),
            ("redis://user:p%23ss@cache:6379/3", "redis"),
            ("rediss://cache.example:6380?protocol=resp3", "rediss"),
            ("redis+unix:///run/redis.sock?db=1", "redis+unix"),
        ] {
            assert_eq!(scheme(&url.into()), Ok(expected));
        }
    }
}
