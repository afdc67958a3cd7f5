//! Chores of the workspace, run as `cargo xtask <chore>`.
//!
//! ```text
//! cargo xtask demo              a federation on this machine, with real Envoys, telling its story
//! cargo xtask test              brings what the tests need and runs every test
//! cargo xtask lint              format, clippy, dependency rules, generated files, tidy checks
//! cargo xtask conformance       the language-neutral cases, counted
//! cargo xtask sim [--mutants]   a federation with made-up time and faults, from seeds
//! cargo xtask protos [--check]  refreshes the vendored Envoy API files
//! ```
//!
//! Each chore is one module with an `Args` and a `run`; this file only chooses among them.
//!
//! Always true: a chore brings what it needs, and says aloud what it skips and why; a chore with `--check` changes
//! nothing.
//!
//! Deliberately absent: anything that a build needs. The tree builds without this program.

mod command;
mod conformance;
mod demo;
mod envoy;
mod etcd;
mod lint;
mod protos;
mod sim;
mod test;
mod tidy;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "xtask", about = "Chores of the workspace")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Starts a federation on this machine with real Envoys, and tells its story.
    Demo(demo::Args),
    /// Brings what the tests need and runs every test of the workspace.
    Test(test::Args),
    /// Checks format, lints, dependency rules, generated files, and that the tree is tidy.
    Lint,
    /// Runs the conformance suites and counts.
    Conformance(conformance::Args),
    /// Runs the simulation from seeds.
    Sim(sim::Args),
    /// Refreshes the vendored Envoy API files from the envoy-types package.
    Protos(protos::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().chore {
        Chore::Demo(args) => demo::run(&args),
        Chore::Test(args) => test::run(&args),
        Chore::Lint => lint::run(),
        Chore::Conformance(args) => conformance::run(&args),
        Chore::Sim(args) => sim::run(&args),
        Chore::Protos(args) => protos::run(&args),
    }
}
