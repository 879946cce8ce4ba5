//! What the bare proxies share: their arguments, the accept loop of the two that serve with hyper, the allocator.
//!
//! None of them is a proxy to put anywhere: no time-outs, no limits, hop-by-hop fields pass as they came. What fails
//! closes the client's connection, which a load tool counts.

pub mod inline;

use std::{env, error::Error, net::Ipv4Addr, time::Duration};

use http::{Request, uri::PathAndQuery};
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::HttpService,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Why a proxy ended, or one request did.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Where a proxy listens and where it sends, both on 127.0.0.1.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// To listen on.
    pub own: u16,
    /// To send to.
    pub upstream: u16,
}

impl Ports {
    /// From the command line: `PORT UPSTREAM_PORT`.
    pub fn from_args() -> Result<Self, Failure> {
        let given: Vec<String> = env::args().skip(1).collect();
        match given.as_slice() {
            [own, upstream] => Ok(Self { own: own.parse()?, upstream: upstream.parse()? }),
            _ => Err("usage: PORT UPSTREAM_PORT".into()),
        }
    }
}

/// Serves HTTP/1.1 with hyper on one worker thread, until the process is ended.
pub fn serve<S, B>(port: u16, service: S) -> Result<(), Failure>
where
    S: HttpService<Incoming, ResBody = B> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Failure>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Failure>,
{
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    // Spawned: the thread that waits for `block_on` would be a second worker.
    runtime.block_on(runtime.spawn(accept(port, service)))?
}

async fn accept<S, B>(port: u16, service: S) -> Result<(), Failure>
where
    S: HttpService<Incoming, ResBody = B> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Failure>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Failure>,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Most likely out of descriptors: let connections end.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let service = service.clone();
        tokio::spawn(async move {
            if stream.set_nodelay(true).is_ok() {
                // A connection that ends with an error is the client's to count.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            }
        });
    }
}

/// A new connection to the upstream.
pub async fn connect(port: u16) -> Result<TokioIo<TcpStream>, Failure> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(stream))
}

/// What a request asks for, without scheme and authority.
pub fn target<B>(request: &Request<B>) -> PathAndQuery {
    request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))
}
