//! `cargo xtask test`: brings what the tests need and runs every test of the workspace.

use crate::{command, envoy};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only tests whose name contains this.
    filter: Option<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let envoy = envoy::bring()?;
    if !command::exists("etcd", "--version") {
        command::say(
            "skipped: tests against a real etcd (no `etcd` on the PATH; Debian has it in `etcd-server`)",
        );
    }
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
    command::run(&mut test)
}
