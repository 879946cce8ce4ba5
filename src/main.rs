//! The binary: command line → configuration → app → run.

use std::{error::Error, io::Write, path::Path, process::ExitCode, sync::Arc};

use clap::Parser;
use portcullis::{
    app::{App, Follow, Rim, Stop, audit},
    cli::{Cli, Command, lives},
    config::{self, ProcessEnvironment, settings::Settings},
    telemetry::{logging, metrics::Metrics},
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// `EX_CONFIG` would be 78; 64 (`EX_USAGE`) is what the operations page promises for a broken configuration.
const BROKEN_CONFIGURATION: u8 = 64;

fn main() -> ExitCode {
    // Before anything can install another provider.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match Cli::parse().command {
        Command::Serve { config } => load(&config).map_or_else(|code| code, |settings| serve(&config, settings)),
        Command::Check { config } => load(&config).map_or_else(|code| code, |_| ExitCode::SUCCESS),
        Command::Audit(command) => {
            let done = |settings| Ok(audit::blocking(&settings, &command, &mut std::io::stdout().lock())?);
            load(command.config()).map_or_else(|code| code, |settings| exit(done(settings)))
        }
        Command::Schema => say(&format!("{:#}", config::schema())),
        Command::Health { admin } => exit(Ok(lives(&admin).unwrap_or(false))),
    }
}

fn load(path: &Path) -> Result<Settings, ExitCode> {
    config::load(path, &ProcessEnvironment).map_err(|errors| {
        complain(&errors.to_string());
        ExitCode::from(BROKEN_CONFIGURATION)
    })
}

fn serve(config: &Path, settings: Settings) -> ExitCode {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(workers) = settings.workers {
        builder.worker_threads(workers);
    }
    exit(builder.enable_all().build().map_err(Into::into).and_then(|runtime| runtime.block_on(run(config, settings))))
}

fn exit(done: Result<bool, Box<dyn Error>>) -> ExitCode {
    match done {
        Ok(good) => ExitCode::from(u8::from(!good)),
        Err(fault) => {
            complain(&format!("portcullis: {fault}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(config: &Path, settings: Settings) -> Result<bool, Box<dyn Error>> {
    let metrics = Arc::new(Metrics::new());
    let _log = logging::install(&settings.telemetry, &metrics)?;
    let file = Follow::new(config, Arc::new(ProcessEnvironment))?;
    let mut stop = Stop::listen()?;
    let mut running = App::start(settings, metrics, Rim::system()).await?;
    tracing::info!(public = %running.public_addr(), admin = %running.admin_addr(), "serving");
    running.follow(file);
    stop.asked().await;
    tracing::info!("draining");
    running.stop().await;
    Ok(true)
}

fn say(text: &str) -> ExitCode {
    if writeln!(std::io::stdout(), "{text}").is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
