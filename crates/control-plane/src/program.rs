//! What the `main` of both control planes is: arguments, configuration, log, signals, then the program itself.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use serde_json::Value;
use zonal_process::config::Problems;
use zonal_process::control_plane::{Common, Raw, load};
use zonal_process::{CancellationToken, logs, signals, tls};

/// Configuration: a file, then `ZONAL_…` (or Kuma's `KUMA_…`) variables.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration, YAML.
    #[arg(long, short, env = "ZONAL_CONFIG_FILE")]
    config: Option<PathBuf>,
}

/// A control plane's own configuration.
pub trait Configuration: Sized {
    /// Checks what the operator wrote.
    ///
    /// # Errors
    /// Every problem at once.
    fn from_raw(raw: &Raw) -> Result<Self, Problems>;

    /// The parts that both control planes have.
    fn common(&self) -> &Common;
}

/// Runs a control plane from the command line; the reason of a failure goes to the standard error.
pub async fn program<C: Configuration>(
    name: &str,
    run: impl AsyncFnOnce(C, Value, CancellationToken) -> anyhow::Result<()>,
) -> ExitCode {
    match start(run).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{name}: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn start<C: Configuration>(
    run: impl AsyncFnOnce(C, Value, CancellationToken) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    tls::install_provider();
    let loaded = load(arguments.config.as_deref())?;
    let config = C::from_raw(&loaded.raw)?;
    let common = config.common();
    logs::init(&common.log_level, common.log_format)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!(config = %loaded.effective, "starts");
    let stop = CancellationToken::new();
    signals::stop_on_signals(stop.clone())?;
    run(config, loaded.effective, stop).await
}

/// The reason of a failed start goes where errors go; where it cannot be written, nobody waits for it.
fn complain(text: &str) {
    let _said = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{text}\n"));
}
