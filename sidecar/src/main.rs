//! The program `sidecar`.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use sidecar::args::Args;
use sidecar::config::Config;
use sidecar::envoy::{self, GUARD_ARGUMENT};
use sidecar::{Parts, run};
use tracing::{info, warn};
use zonal_process::{CancellationToken, RealClock, logs, net, signals, tls};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let outcome = if arguments
        .next()
        .is_some_and(|first| first == GUARD_ARGUMENT)
    {
        Err(envoy::become_envoy(&arguments.collect::<Vec<_>>())).context("cannot become Envoy")
    } else {
        start()
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Logs may not have started; where words cannot be written, nobody waits for them.
fn complain(error: &anyhow::Error) {
    let _said =
        std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("error: {error:#}\n"));
}

#[tokio::main]
async fn start() -> anyhow::Result<()> {
    tls::install_provider();
    let args = Args::parse();
    let loaded = args.load(&|name| std::env::var(name).ok().filter(|text| !text.is_empty()))?;
    let level = loaded
        .raw
        .log
        .level
        .clone()
        .unwrap_or_else(|| "info".to_owned());
    logs::init(&level, loaded.raw.log.format.unwrap_or_default())?;
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    info!(configuration = %loaded.effective, "starting");
    let config = Config::from_raw(loaded.raw)?;
    let readiness = match config.readiness {
        Some(addr) => Some(net::bind(addr).await?),
        None => None,
    };
    let parts = Parts {
        readiness,
        clock: RealClock::shared(),
        guard: std::env::current_exe().ok(),
        seed: u64::from(std::process::id()),
    };
    let stop = CancellationToken::new();
    signals::stop_on_signals(stop.clone()).context("cannot listen for signals")?;
    run(config, parts, stop).await?;
    Ok(())
}
