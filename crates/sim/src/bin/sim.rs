//! Runs the simulation: many seeds, or one.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "printing is what this program does"
)]

use std::process::ExitCode;

use clap::Parser;
use zonal_sim::{Options, run};

/// Runs the made-up federation from seeds and checks its promises.
#[derive(Debug, Parser)]
struct Args {
    /// How many seeds, from 0 on.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// Only this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Print each step.
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seeds = match args.seed {
        Some(seed) => seed..seed + 1,
        None => 0..args.seeds,
    };
    let (mut kept, mut broken) = (0_u64, 0_u64);
    for seed in seeds {
        let mut options = Options::of_seed(seed);
        if args.trace {
            options.print = Some(|line| println!("{line}"));
        }
        match run(seed, &options) {
            Ok(report) => {
                kept += 1;
                if args.seed.is_some() {
                    println!(
                        "seed {seed}: {} steps, {} messages, {} s, hash {:016x}",
                        report.steps, report.messages, report.seconds, report.trace_hash
                    );
                }
            }
            Err(failure) => {
                broken += 1;
                if args.seed.is_some() {
                    eprintln!("{failure}");
                } else {
                    eprintln!("seed {seed}: {}", failure.violation);
                }
            }
        }
    }
    println!("{kept} seeds kept every promise, {broken} did not");
    if broken == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
