//! Starts a federation of real processes on this machine, tells its story, and keeps it running to be tried by hand.

use anyhow::Context as _;
use clap::Parser;
use zonal_e2e::{Federation, Options, Report, story};

/// A federation on this machine, telling its story.
#[derive(Debug, Parser)]
struct Arguments {
    /// End after the story.
    #[arg(long)]
    once: bool,
    /// How many zones, at least 2.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=100))]
    zones: u8,
    /// Keep the temporary folder with all state and logs.
    #[arg(long)]
    keep: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut federation = Federation::new(&Options::with_zones(arguments.zones.into()))?;
    if arguments.keep {
        federation.keep_folder();
    }
    // Dropping the federation ends every process, so an interrupt only has to reach the end of this function.
    tokio::select! {
        outcome = run(&mut federation, &arguments) => {
            if outcome.is_err() {
                federation.keep_folder();
                complain(&format!("state and logs are kept in `{}`", federation.folder().display()));
            }
            outcome
        }
        signal = tokio::signal::ctrl_c() => signal.context("cannot listen for Ctrl-C"),
        () = terminated() => Ok(()),
    }
}

async fn terminated() {
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

async fn run(federation: &mut Federation, arguments: &Arguments) -> anyhow::Result<()> {
    let report = Report::default();
    report.fact(&format!(
        "state and logs: {}",
        federation.folder().display()
    ));
    story::set_up(federation, &report).await?;
    story::tell(federation, &report).await?;
    if arguments.once {
        return federation.stop().await;
    }
    report.chapter('k', "it stays up until Ctrl-C; try it by hand");
    for line in story::by_hand(federation)? {
        report.fact(&line);
    }
    std::future::pending().await
}

#[expect(clippy::print_stderr, reason = "a failure is told where errors go")]
fn complain(text: &str) {
    eprintln!("{text}");
}
