//! `cargo xtask test`: brings what the tests need and runs every test of the workspace.

use crate::etcd::Etcd;
use crate::{command, envoy};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only tests whose name contains this.
    filter: Option<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let envoy = envoy::bring()?;
    // The programs first, with the same features as the tests: end-to-end tests start them.
    command::run(&mut command::cargo(&[
        "build",
        "--workspace",
        "--bins",
        "--exclude",
        "xtask",
    ]))?;
    let mut test = command::cargo(&["test", "--workspace", "--no-fail-fast"]);
    test.env("ZONAL_ENVOY", envoy)
        .env("ZONAL_BIN_DIR", command::target().join("debug"));
    if let Some(filter) = &args.filter {
        test.args(["--", filter]);
    }
    command::run(&mut test)?;
    if args.filter.is_none() {
        // Apart, so that the programs of the end-to-end tests are built without any known bug in them.
        command::run(&mut command::cargo(&[
            "test",
            "--package",
            "zonal-sim",
            "--features",
            "mutants",
            "--test",
            "mutants",
        ]))?;
    }
    if let Some(etcd) = Etcd::start()? {
        let mut test = command::cargo(&[
            "test",
            "--package",
            "zonal-store",
            "--features",
            "etcd",
            "--test",
            "suite",
            "--test",
            "etcd",
        ]);
        command::run(test.env("ZONAL_TEST_ETCD", &etcd.endpoint))?;
    }
    Ok(())
}
