//! A wire between the store and PostgreSQL that can swallow what is sent, as a dropped NAT entry or a dead host does.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use portcullis::store::StoreFault;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

/// Listens in a folder of its own, as `PostgreSQL` would.
pub(crate) struct Proxy {
    folder: TempDir,
    /// Connections still to go silent.
    silences: Arc<AtomicU32>,
}

impl Proxy {
    /// Forwards to the server whose URL this is. A connection on which `word` is sent goes silent then, while
    /// `silences` are left: it stays open, and nothing passes any more.
    pub(crate) fn before(url: &str, word: &'static str) -> Self {
        let (_, server) = url.rsplit_once("host=").unwrap();
        let server = PathBuf::from(server).join(".s.PGSQL.5432");
        let folder = TempDir::new().unwrap();
        let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
        let silences = Arc::new(AtomicU32::new(0));
        let shared = silences.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = UnixStream::connect(&server).await.unwrap();
                tokio::spawn(pass(client, server, word, shared.clone()));
            }
        });
        Self { folder, silences }
    }

    /// The same database, through here.
    pub(crate) fn url(&self, url: &str) -> String {
        let (database, _) = url.rsplit_once("host=").unwrap();
        format!("{database}host={}", self.folder.path().display())
    }

    /// How many connections will go silent from now on.
    pub(crate) fn silence(&self, connections: u32) {
        self.silences.store(connections, Ordering::SeqCst);
    }
}

async fn pass(client: UnixStream, server: UnixStream, word: &'static str, silences: Arc<AtomicU32>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let silent = Arc::new(AtomicBool::new(false));
    let hushed = silent.clone();
    let back = tokio::spawn(async move {
        let mut buffer = [0; 16_384];
        while let Ok(count) = from_server.read(&mut buffer).await {
            if hushed.load(Ordering::SeqCst) {
                // Not even the server's goodbye arrives.
                std::future::pending::<()>().await;
            }
            if count == 0 || to_client.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
    });
    let mut buffer = [0; 16_384];
    while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
        let sent = &buffer[..count];
        let fatal = sent.windows(word.len()).any(|window| window == word.as_bytes());
        if fatal && silences.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            silent.store(true, Ordering::SeqCst);
            // Holds both ends open for as long as the test runs.
            std::future::pending::<()>().await;
        }
        if to_server.write_all(sent).await.is_err() {
            break;
        }
    }
    back.abort();
}

/// What a lost store is told as.
pub(crate) fn is_unavailable<T>(answer: &Result<T, StoreFault>) -> bool {
    matches!(answer, Err(StoreFault::Unavailable(_)))
}
