//! `zone-cp`: the control plane of one zone.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use zonal_process::{CancellationToken, RealClock, control_plane, logs, signals, tls};
use zone_cp::{Config, Listeners};

/// The control plane of one zone. Configuration: a file, then `ZONAL_…` (or Kuma's `KUMA_…`) variables.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration, YAML.
    #[arg(long, short, env = "ZONAL_CONFIG_FILE")]
    config: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match start().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("zone-cp: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn start() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    tls::install_provider();
    let loaded = control_plane::load(arguments.config.as_deref())?;
    let config = Config::from_raw(&loaded.raw)?;
    logs::init(&config.common.log_level, config.common.log_format)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!(config = %loaded.effective, "starts");
    let stop = CancellationToken::new();
    signals::stop_on_signals(stop.clone())?;
    let listeners = Listeners::bind(&config).await?;
    zone_cp::run(
        config,
        loaded.effective,
        listeners,
        Arc::new(RealClock),
        stop,
    )
    .await
}

#[expect(
    clippy::print_stderr,
    reason = "the reason of a failed start goes where errors go"
)]
fn complain(text: &str) {
    eprintln!("{text}");
}
