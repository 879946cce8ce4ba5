//! The binary: arguments in, one service out. Exits 64 on bad arguments, 0 after SIGINT or SIGTERM.

use std::{io::IsTerminal, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use rag_demo::{
    documents,
    identity::Expected,
    jwks::{Jwks, Options},
    search::Library,
    service::{Service, router},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// A small RAG service that verifies the gateway's identity token.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where to listen. Only the gateway needs to reach it.
    #[arg(long, default_value = "127.0.0.1:9621")]
    bind: SocketAddr,
    /// Where the gateway publishes its keys.
    #[arg(long, default_value = "http://127.0.0.1:8080/.well-known/jwks.json")]
    jwks_url: String,
    /// The gateway's issuer (`iss`).
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    issuer: String,
    /// This service's name at the gateway (`aud`).
    #[arg(long, default_value = "rag")]
    audience: String,
    /// A JSON file of documents; without it, those shipped with the example.
    #[arg(long)]
    documents: Option<PathBuf>,
    /// Pause between two word groups of an answer, in milliseconds.
    #[arg(long, default_value_t = 40)]
    pace_ms: u64,
    /// Believe an e-mail address that the gateway has not verified. Whoever registers an address first then reads
    /// its documents: for trying things out on one machine, nowhere else.
    #[arg(long)]
    accept_unverified_email: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            tracing::error!("{why}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), String> {
    let text = match &arguments.documents {
        None => documents::shipped().to_owned(),
        Some(path) => std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?,
    };
    let jwks = Arc::new(Jwks::new(&arguments.jwks_url, Options::default()).map_err(|error| error.to_string())?);
    if arguments.accept_unverified_email {
        tracing::warn!("unverified e-mail addresses are believed: for trying things out only");
    }
    let service = Service {
        library: Library::new(documents::parse(&text)?),
        jwks: Arc::clone(&jwks),
        expected: Expected {
            issuer: arguments.issuer,
            audience: arguments.audience,
            accept_unverified_email: arguments.accept_unverified_email,
        },
        pace: Duration::from_millis(arguments.pace_ms),
    };
    let listener = TcpListener::bind(arguments.bind).await.map_err(|error| format!("{}: {error}", arguments.bind))?;
    let mut stop = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    tokio::spawn(async move { jwks.fetch_first().await });
    tracing::info!(bind = %arguments.bind, "listening");
    axum::serve(listener, router(Arc::new(service)))
        .with_graceful_shutdown(async move {
            tokio::select! { _ = tokio::signal::ctrl_c() => (), _ = stop.recv() => () }
        })
        .await
        .map_err(|error| error.to_string())
}
