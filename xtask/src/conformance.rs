//! `cargo xtask conformance`: the language-neutral cases, one line of counts for each suite.

use std::path::PathBuf;

use crate::command;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder with the cases; otherwise `ZONAL_CONFORMANCE` or `../shared/conformance`.
    #[arg(long)]
    cases: Option<PathBuf>,
    /// Only this suite; may be given several times.
    #[arg(long)]
    suite: Vec<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut runner = command::cargo(&[
        "run",
        "--quiet",
        "--package",
        "zonal-testkit",
        "--bin",
        "conformance",
        "--",
    ]);
    if let Some(cases) = &args.cases {
        runner.env("ZONAL_CONFORMANCE", cases);
    }
    for suite in &args.suite {
        runner.args(["--suite", suite]);
    }
    command::run(&mut runner)
}
