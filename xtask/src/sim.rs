//! `cargo xtask sim`: the simulation, many seeds or one; with `--mutants` whether it would notice anything.

use crate::command;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many seeds. With `--mutants` each bug gets so many, and 300 unless said otherwise.
    #[arg(long)]
    seeds: Option<u64>,
    /// Only this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Print each step.
    #[arg(long)]
    trace: bool,
    /// See whether the seeds catch the bugs that they should, each in turn.
    #[arg(long)]
    mutants: bool,
    /// Switch one bug on.
    #[arg(long)]
    mutant: Option<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let with_mutants = args.mutants || args.mutant.is_some();
    let mut sim = command::cargo(&["run", "--quiet", "--release", "--package", "zonal-sim"]);
    sim.args(["--bin", "sim"]);
    if with_mutants {
        sim.args(["--features", "mutants"]);
    }
    let seeds = args.seeds.unwrap_or(if with_mutants { 300 } else { 200 });
    sim.args(["--", "--seeds", &seeds.to_string()]);
    if let Some(seed) = args.seed {
        sim.args(["--seed", &seed.to_string()]);
    }
    if args.trace {
        sim.arg("--trace");
    }
    if args.mutants {
        sim.arg("--mutants");
    }
    if let Some(mutant) = &args.mutant {
        sim.args(["--mutant", mutant]);
    }
    command::run(&mut sim)
}
