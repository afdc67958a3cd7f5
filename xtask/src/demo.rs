//! `cargo xtask demo`: builds, brings Envoy, and starts the federation that tells its story.

use std::os::unix::process::CommandExt as _;

use crate::{command, envoy};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// End after the story, with status 0 if every step went as told.
    #[arg(long)]
    once: bool,
    /// How many zones, at least 2.
    #[arg(long, default_value_t = 2)]
    zones: u8,
    /// Keep the temporary folder with all state and logs.
    #[arg(long)]
    keep: bool,
    /// After the story, kill processes at its steps and see that it goes on: every process at every step, or so many
    /// crashes by chance.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "all")]
    crashes: Option<String>,
    /// Where the moments of crashes come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let envoy = envoy::bring()?;
    command::run(&mut command::cargo(&[
        "build",
        "--workspace",
        "--bins",
        "--exclude",
        "xtask",
    ]))?;
    let folder = command::target().join("debug");
    let mut demo = std::process::Command::new(folder.join("zonal-demo"));
    demo.env("ZONAL_ENVOY", envoy).env("ZONAL_BIN_DIR", &folder);
    if args.once {
        demo.arg("--once");
    }
    if args.keep {
        demo.arg("--keep");
    }
    demo.args(["--zones", &args.zones.to_string()]);
    if let Some(crashes) = &args.crashes {
        demo.args(["--crashes", crashes, "--seed", &args.seed.to_string()]);
    }
    // Takes our place, so that Ctrl-C and the exit status are the demo's own.
    Err(anyhow::Error::from(demo.exec()).context("cannot start the demo"))
}
