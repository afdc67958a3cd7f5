//! Chores of the workspace, run as `cargo xtask <chore>`.
//!
//! ```text
//! cargo xtask protos            copies the Envoy API's .proto files that we generate from into kds-proto
//! cargo xtask protos --check    says which of the copied files differ from their source
//! ```
//!
//! Each chore is one module with a `Args` and a `run`; this file only chooses among them.
//!
//! Always true: a chore with `--check` changes nothing and fails when something would change.
//!
//! Deliberately absent: anything that a build or a test needs. The tree builds without this program.

mod protos;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "xtask", about = "Chores of the workspace")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Refreshes the vendored Envoy API files from the envoy-types package.
    Protos(protos::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().chore {
        Chore::Protos(args) => protos::run(&args),
    }
}
