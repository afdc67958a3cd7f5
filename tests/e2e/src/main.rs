//! Starts a federation of real processes on this machine, tells its story, and keeps it running to be tried by hand.

use anyhow::Context as _;
use clap::Parser;
use zonal_e2e::crashes::{self, Plan};
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
    /// After the story, kill processes at its steps and see that it goes on: every process at every step, or so many
    /// crashes by chance.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "all")]
    crashes: Option<Crashes>,
    /// Where the moments of crashes come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Crashes(Plan);

impl std::str::FromStr for Crashes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self(Plan::Every));
        }
        let count = text.parse().map_err(|error| {
            format!("`{text}` is neither a number of crashes nor `all`: {error}")
        })?;
        Ok(Self(Plan::Chance(count)))
    }
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
    if let Some(Crashes(plan)) = arguments.crashes {
        report.chapter('k', "processes are killed at every step, and it goes on");
        let count = crashes::survive(federation, plan, arguments.seed, &report).await?;
        report.fact(&format!(
            "{count} crashes, and everything was right after each"
        ));
    }
    if arguments.once {
        return federation.stop().await;
    }
    report.chapter('l', "it stays up until Ctrl-C; try it by hand");
    for line in story::by_hand(federation)? {
        report.fact(&line);
    }
    std::future::pending().await
}

#[expect(clippy::print_stderr, reason = "a failure is told where errors go")]
fn complain(text: &str) {
    eprintln!("{text}");
}
