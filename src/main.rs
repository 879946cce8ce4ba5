//! The binary: command line → configuration → app → run.

use std::{error::Error, io::Write, path::Path, process::ExitCode, sync::Arc};

use clap::Parser;
use portcullis::{
    app::{App, Follow, Rim, Stop, commands},
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
        Command::Serve { config } => with(&config, |settings| drive(settings.workers, run(&config, settings))),
        Command::Check { config } => with(&config, |_| ExitCode::SUCCESS),
        Command::Schema => say(&format!("{:#}", config::schema())),
        Command::Beside(command) => with(command.config(), |settings| {
            let out = &mut std::io::stdout().lock();
            drive(Some(1), async {
                Ok(u8::from(!commands::run(&command, &settings, &Rim::system(), out).await?).into())
            })
        }),
        Command::Health { admin } => u8::from(!lives(&admin).unwrap_or(false)).into(),
    }
}

fn with(path: &Path, work: impl FnOnce(Settings) -> ExitCode) -> ExitCode {
    let broken = |errors: config::ConfigErrors| {
        complain(&errors.to_string());
        ExitCode::from(BROKEN_CONFIGURATION)
    };
    config::load(path, &ProcessEnvironment).map_or_else(broken, work)
}

/// Runs to the end.
fn drive(workers: Option<usize>, work: impl Future<Output = Result<ExitCode, Box<dyn Error>>>) -> ExitCode {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    workers.map(|workers| builder.worker_threads(workers));
    match builder.enable_all().build().map_err(Into::into).and_then(|runtime| runtime.block_on(work)) {
        Ok(code) => code,
        Err(fault) => {
            complain(&format!("portcullis: {fault}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(config: &Path, settings: Settings) -> Result<ExitCode, Box<dyn Error>> {
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
    Ok(ExitCode::SUCCESS)
}

fn say(text: &str) -> ExitCode {
    if writeln!(std::io::stdout(), "{text}").is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
