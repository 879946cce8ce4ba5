//! The binary: command line → configuration → app → run.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use clap::Parser;
use portcullis::{
    app::{App, Rim},
    cli::{Cli, Command},
    config::{self, ProcessEnvironment, settings::Settings},
    telemetry::{logging, metrics::Metrics},
};

/// `EX_CONFIG` would be 78; 64 (`EX_USAGE`) is what the operations page promises for a broken configuration.
const BROKEN_CONFIGURATION: u8 = 64;

fn main() -> ExitCode {
    // Before anything can install another provider.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match Cli::parse().command {
        Command::Serve { config } => load(&config).map_or_else(|code| code, serve),
        Command::Check { config } => load(&config).map_or_else(|code| code, |_| ExitCode::SUCCESS),
        Command::Schema => say(&format!("{:#}", config::schema())),
        Command::Health { admin } => {
            if lives(&admin).unwrap_or(false) {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn load(path: &Path) -> Result<Settings, ExitCode> {
    config::load(path, &ProcessEnvironment).map_err(|errors| {
        complain(&errors.to_string());
        ExitCode::from(BROKEN_CONFIGURATION)
    })
}

fn serve(settings: Settings) -> ExitCode {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(workers) = settings.workers {
        builder.worker_threads(workers);
    }
    let metrics = Arc::new(Metrics::new());
    let logging = match logging::install(&settings.telemetry, &metrics) {
        Ok(guard) => guard,
        Err(fault) => {
            complain(&format!("portcullis: {fault}"));
            return ExitCode::from(BROKEN_CONFIGURATION);
        }
    };
    let outcome = builder.enable_all().build().map_err(|error| error.to_string()).and_then(|runtime| {
        runtime.block_on(async {
            let running = App::start(settings, metrics, Rim::system()).await.map_err(|fault| fault.to_string())?;
            tracing::info!(public = %running.public_addr(), admin = %running.admin_addr(), "serving");
            portcullis::app::stop_asked().await;
            tracing::info!("draining");
            running.stop().await;
            Ok(())
        })
    });
    drop(logging);
    outcome.map_or_else(
        |fault: String| {
            complain(&format!("portcullis: {fault}"));
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn lives(admin: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(admin)?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(2)))?;
    write!(stream, "GET /livez HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    Ok(head == *b"HTTP/1.1 200")
}

fn say(text: &str) -> ExitCode {
    if writeln!(std::io::stdout(), "{text}").is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
