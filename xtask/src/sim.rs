//! `cargo xtask sim`: the simulation, many seeds or one.

use crate::command;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// Only this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Print each step.
    #[arg(long)]
    trace: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut sim = command::cargo(&[
        "run",
        "--quiet",
        "--release",
        "--package",
        "zonal-sim",
        "--bin",
        "sim",
        "--",
        "--seeds",
    ]);
    sim.arg(args.seeds.to_string());
    if let Some(seed) = args.seed {
        sim.args(["--seed", &seed.to_string()]);
    }
    if args.trace {
        sim.arg("--trace");
    }
    command::run(&mut sim)
}
