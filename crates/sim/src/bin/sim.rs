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
    /// See whether the seeds catch the bugs that they should.
    #[cfg(feature = "mutants")]
    #[arg(long)]
    mutants: bool,
    /// Switch this bug on.
    #[cfg(feature = "mutants")]
    #[arg(long, value_parser = mutant)]
    mutant: Option<zonal_mutants::Mutant>,
}

#[cfg(feature = "mutants")]
fn mutant(name: &str) -> Result<zonal_mutants::Mutant, String> {
    let all = zonal_mutants::Mutant::ALL;
    let known = all.iter().find(|known| format!("{known:?}") == name);
    known
        .copied()
        .ok_or_else(|| format!("there is none of this name; there are {all:?}"))
}

fn main() -> ExitCode {
    let args = Args::parse();
    #[cfg(feature = "mutants")]
    match (args.mutants, args.mutant) {
        (true, mutant) => return hunts::run(mutant, args.seeds),
        (false, Some(mutant)) => return mutant.during(|| seeds(&args)).0,
        (false, None) => {}
    }
    seeds(&args)
}

fn seeds(args: &Args) -> ExitCode {
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

#[cfg(feature = "mutants")]
mod hunts {
    use std::collections::BTreeMap;
    use std::num::NonZeroUsize;
    use std::process::ExitCode;
    use std::sync::{Mutex, PoisonError};
    use std::thread;

    use zonal_mutants::Mutant;
    use zonal_sim::{Hunt, hunt};

    /// Hunts one mutant or all of them on all cores, and prints a table.
    pub(super) fn run(only: Option<Mutant>, seeds: u64) -> ExitCode {
        let all: Vec<Mutant> = match only {
            Some(mutant) => vec![mutant],
            None => Mutant::ALL.to_vec(),
        };
        let next = Mutex::new(all.iter().copied());
        let hunts = Mutex::new(BTreeMap::new());
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(|| {
                    loop {
                        let mutant = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                        let Some(mutant) = mutant else { break };
                        let hunt = hunt(mutant, 0..seeds);
                        let mut hunts = hunts.lock().unwrap_or_else(PoisonError::into_inner);
                        hunts.insert(mutant, hunt);
                    }
                });
            }
        });
        let hunts = hunts.into_inner().unwrap_or_else(PoisonError::into_inner);
        print(&hunts);
        if hunts.values().all(|hunt| hunt.caught.is_some()) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn print(hunts: &BTreeMap<Mutant, Hunt>) {
        println!("| mutant | caught by | at seed | seeds run | what is wrong |");
        println!("| --- | --- | ---: | ---: | --- |");
        for (mutant, hunt) in hunts {
            let (by, at) = match &hunt.caught {
                Some((seed, violation)) => (violation.checker.to_owned(), seed.to_string()),
                None => {
                    let by = format!("**nobody**; {} seeds came by it", hunt.met);
                    (by, String::new())
                }
            };
            let (seeds, words) = (hunt.seeds, mutant.words());
            println!("| {mutant:?} | {by} | {at} | {seeds} | {words} |");
        }
        let caught = hunts.values().filter(|hunt| hunt.caught.is_some()).count();
        println!("\n{caught} of {} mutants are caught", hunts.len());
    }
}
