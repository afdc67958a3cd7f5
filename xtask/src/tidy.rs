//! What no compiler says: each crate has a first page, nothing unfinished lands, and the rooms keep to their
//! permissions.

use std::path::Path;

use anyhow::Context as _;

use crate::command;

/// Rooms that must not wait for anything, and what would make them.
const PURE: &[&str] = &[
    "model",
    "policy",
    "catalogue",
    "federation",
    "delta",
    "xds",
    "identity",
];
const IMPURE: &[&str] = &[
    "tokio",
    "hyper",
    "axum",
    "reqwest",
    "redb",
    "zonal-store",
    "zonal-process",
];

pub(crate) fn run() -> anyhow::Result<()> {
    let root = command::root();
    let mut complaints = Vec::new();
    for room in PURE {
        let manifest = root.join("crates").join(room).join("Cargo.toml");
        let text = std::fs::read_to_string(&manifest)
            .with_context(|| format!("cannot read `{}`", manifest.display()))?;
        let dependencies = text
            .split_once("[dependencies]")
            .map_or("", |(_, rest)| rest)
            .split("\n[")
            .next()
            .unwrap_or_default();
        for name in IMPURE {
            if dependencies.lines().any(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(['.', ' ', '=']))
            }) {
                complaints.push(format!(
                    "crates/{room} is pure and must not depend on `{name}`"
                ));
            }
        }
    }
    for folder in [
        "crates",
        "global-cp",
        "zone-cp",
        "zone-ingress",
        "sidecar",
        "cli",
        "kds-proto",
        "tests",
        "xtask",
        "examples",
    ] {
        look(&root.join(folder), &root, &mut complaints)?;
    }
    for file in [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        ".ci/run",
        "Cargo.lock",
    ] {
        if !root.join(file).is_file() {
            complaints.push(format!("`{file}` is missing"));
        }
    }
    anyhow::ensure!(
        complaints.is_empty(),
        "the tree is not tidy:\n  {}",
        complaints.join("\n  ")
    );
    Ok(())
}

fn look(folder: &Path, root: &Path, complaints: &mut Vec<String>) -> anyhow::Result<()> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot read `{}`", folder.display()))?
            .path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                look(&path, root, complaints)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read `{}`", path.display()))?;
            let shown = path
                .strip_prefix(root)
                .unwrap_or(&path)
                .display()
                .to_string();
            if path.ends_with("src/lib.rs") && !text.trim_start().starts_with("//!") {
                complaints.push(format!("`{shown}` has no first page"));
            }
            // Written in two parts so that this file does not complain about itself.
            for word in [
                concat!("todo", "!("),
                concat!("unimpl", "emented!("),
                concat!("#[ig", "nore"),
                concat!("FIX", "ME"),
            ] {
                if text.contains(word) {
                    complaints.push(format!("`{shown}` has `{word}`"));
                }
            }
        }
    }
    Ok(())
}
