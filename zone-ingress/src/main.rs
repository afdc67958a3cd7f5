//! The zone ingress as a program.

use std::process::ExitCode;

use clap::Parser;
use tracing::error;
use zonal_process::{CancellationToken, RealClock, logs, signals, tls};
use zone_ingress::config::{Args, Config};
use zone_ingress::run::{Listeners, run};

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(problem) = logs::init(&args.log, args.log_format()) {
        complain(&problem);
        return ExitCode::from(2);
    }
    tls::install_provider();
    let config = match Config::from_args(args) {
        Ok(config) => config,
        Err(problems) => {
            complain(&problems);
            return ExitCode::from(2);
        }
    };
    match start(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            error!(error = format!("{problem:#}"), "zone ingress ends");
            ExitCode::FAILURE
        }
    }
}

fn start(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        signals::stop_on_signals(stop.clone())?;
        let listeners = Listeners::bind(&config)?;
        run(config, listeners, RealClock::shared(), stop)
            .await
            .map(drop)
    })
}

/// There is no log yet, and a person waits for the words; where they cannot be written, nobody does.
fn complain(problem: &dyn std::fmt::Display) {
    let _said = std::io::Write::write_fmt(
        &mut std::io::stderr(),
        format_args!("zone-ingress: {problem}\n"),
    );
}
