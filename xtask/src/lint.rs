//! `cargo xtask lint`: everything that can be told without running a test.

use crate::{command, protos, tidy};

pub(crate) fn run() -> anyhow::Result<()> {
    command::run(&mut command::cargo(&["fmt", "--all", "--check"]))?;
    tidy::run()?;
    protos::check()?;
    let mut features = vec!["zonal-sim/mutants"];
    if command::exists("protoc", "--version") {
        features.extend(["global-cp/etcd", "zone-cp/etcd"]);
    } else {
        command::say("skipped: the code that talks to etcd (its client needs `protoc` to build)");
    }
    command::run(&mut command::cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--features",
        &features.join(","),
        "--",
        "-D",
        "warnings",
    ]))?;
    if command::exists("cargo-deny", "--version") {
        command::run(&mut command::cargo(&[
            "deny", "check", "licenses", "bans", "sources",
        ]))?;
    } else {
        command::say(
            "skipped: dependency rules (no `cargo-deny`; `cargo install cargo-deny` brings it)",
        );
    }
    Ok(())
}
