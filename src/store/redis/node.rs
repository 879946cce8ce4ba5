//! One Redis server: how it is reached, and whether it was there when it was last asked.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwapOption;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisConnectionInfo, RedisError,
    RedisResult, Value, aio::MultiplexedConnection,
};
use tokio::{sync::Semaphore, time::timeout};

use super::{AT_ONCE, CONNECT};
use crate::store::calls::Server;

/// As whom somebody is spoken to.
pub(super) struct Login<'a> {
    pub(super) username: Option<&'a str>,
    pub(super) password: Option<&'a str>,
}

/// See the module.
pub(super) struct Node {
    pub(super) client: Client,
    pub(super) server: Server,
    /// `None` while it is lost.
    connection: ArcSwapOption<MultiplexedConnection>,
    pub(super) questions: Semaphore,
}

impl Node {
    pub(super) fn new(client: Client) -> Self {
        let server = server_of(client.get_connection_info().addr());
        Self { client, server, connection: ArcSwapOption::empty(), questions: Semaphore::new(AT_ONCE) }
    }

    /// Another server of the same cluster: reached in the same way, with the same name and password.
    pub(super) fn beside(&self, host: &str, port: u16) -> RedisResult<Self> {
        let info = self.client.get_connection_info();
        let address = match info.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => ConnectionAddr::TcpTls {
                host: host.to_owned(),
                port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            _ => ConnectionAddr::Tcp(host.to_owned(), port),
        };
        Ok(Self::new(Client::open(info.clone().set_addr(address).into_connection_info()?)?))
    }

    /// A sentinel: reached in the same way, but by a name and password of its own, and without a database.
    pub(super) fn sentinel(&self, host: &str, port: u16, login: &Login<'_>) -> RedisResult<Self> {
        let beside = self.beside(host, port)?;
        let mut redis = RedisConnectionInfo::default();
        if let Some(username) = login.username {
            redis = redis.set_username(username);
        }
        if let Some(password) = login.password {
            redis = redis.set_password(password);
        }
        let info = beside.client.get_connection_info().clone().set_redis_settings(redis);
        Ok(Self::new(Client::open(info)?))
    }

    pub(super) fn is_at(&self, host: &str, port: u16) -> bool {
        self.server.address == host && self.server.port == Some(port)
    }

    pub(super) fn is_up(&self) -> bool {
        self.connection.load().is_some()
    }

    pub(super) fn connection(&self) -> Option<Arc<MultiplexedConnection>> {
        self.connection.load_full()
    }

    /// It answers on this one.
    pub(super) fn found(&self, connection: Arc<MultiplexedConnection>) {
        self.connection.store(Some(connection));
    }

    /// Drops this connection; whether it was the one in use.
    pub(super) fn lose(&self, connection: &Arc<MultiplexedConnection>) -> bool {
        let before = self.connection.compare_and_swap(connection, None);
        before.as_ref().is_some_and(|held| Arc::ptr_eq(held, connection))
    }

    pub(super) async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        // The deadline is ours: it holds for the whole question, waiting for the connection included.
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(None);
        let connecting = self.client.get_multiplexed_async_connection_with_config(&config);
        // A server that is frozen takes the connection and then says nothing.
        match timeout(CONNECT, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(RedisError::from((ErrorKind::Io, "no connection in time"))),
        }
    }

    /// Whom this sentinel takes for the master of a service, on a connection of its own. No request waits for it.
    pub(super) async fn master_of(&self, service: &str) -> RedisResult<Option<(String, u16)>> {
        let mut connection = self.connect().await?;
        let mut ask = redis::cmd("SENTINEL");
        match timeout(CONNECT, ask.arg("get-master-addr-by-name").arg(service).query_async(&mut connection)).await {
            Ok(told) => told,
            Err(_) => Err(RedisError::from((ErrorKind::Io, "no answer in time"))),
        }
    }

    /// How many failovers of the service this sentinel has seen or heard of, as it counts them.
    pub(super) async fn epoch_of(&self, service: &str) -> RedisResult<u64> {
        let mut connection = self.connect().await?;
        let mut ask = redis::cmd("SENTINEL");
        let told = timeout(CONNECT, ask.arg("master").arg(service).query_async(&mut connection)).await;
        let told: HashMap<String, String> =
            told.unwrap_or_else(|_| Err(RedisError::from((ErrorKind::Io, "no answer in time"))))?;
        let epoch = told.get("config-epoch").and_then(|epoch| epoch.parse().ok());
        epoch.ok_or_else(|| RedisError::from((ErrorKind::UnexpectedReturnType, "no config-epoch")))
    }

    /// Whether this server takes itself for a master, on a connection of its own. No request waits for it.
    pub(super) async fn says_master(&self) -> RedisResult<bool> {
        let mut connection = self.connect().await?;
        match timeout(CONNECT, redis::cmd("ROLE").query_async::<Vec<Value>>(&mut connection)).await {
            Ok(role) => Ok(matches!(role?.first(), Some(Value::BulkString(word)) if word == b"master")),
            Err(_) => Err(RedisError::from((ErrorKind::Io, "no role in time"))),
        }
    }

    /// What it takes for the map of its cluster, on a connection of its own. No request waits for it.
    pub(super) async fn slots(&self) -> RedisResult<Vec<Value>> {
        let mut connection = self.connect().await?;
        let mut ask = redis::cmd("CLUSTER");
        match timeout(CONNECT, ask.arg("SLOTS").query_async(&mut connection)).await {
            Ok(told) => told,
            Err(_) => Err(RedisError::from((ErrorKind::Io, "no map in time"))),
        }
    }
}

fn server_of(address: &ConnectionAddr) -> Server {
    match address {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Server { address: host.clone(), port: Some(*port) }
        }
        ConnectionAddr::Unix(path) => Server { address: path.to_string_lossy().into_owned(), port: None },
        _ => Server { address: String::new(), port: None },
    }
}

/// Where a server of a cluster sends those who ask for what it does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Redirect {
    /// Empty: where the one is that said so.
    pub(super) host: String,
    pub(super) port: u16,
    /// For this question only: the key is on its way.
    pub(super) asking: bool,
}

impl Redirect {
    pub(super) fn of(error: &RedisError) -> Option<Self> {
        let (address, _) = error.redirect_node()?;
        let (host, port) = address.rsplit_once(':')?;
        Some(Self { host: host.to_owned(), port: port.parse().ok()?, asking: error.code() == Some("ASK") })
    }
}
