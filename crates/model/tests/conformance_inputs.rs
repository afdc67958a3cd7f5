//! The resources that the conformance suites start from are read and are valid.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]
#![allow(
    clippy::print_stdout,
    reason = "the counts belong to the output of the test"
)]

use std::path::{Path, PathBuf};

use zonal_model::{parse, validate, yaml};

fn cases_dir() -> Option<PathBuf> {
    let folder = std::env::var_os("ZONAL_CONFORMANCE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance"),
        PathBuf::from,
    );
    folder.is_dir().then_some(folder)
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else {
            found.push(path);
        }
    }
}

#[test]
fn resources_that_others_start_from_are_valid() {
    let Some(folder) = cases_dir() else {
        println!("inputs of the conformance suites: skipped, the folder is absent");
        return;
    };
    let suites = [
        "crosszone",
        "kds-full-sync",
        "rest-crud",
        "rest-inspect",
        "envoyconfig",
        "policy-matchers",
    ];
    let mut files = Vec::new();
    for suite in suites {
        files_below(&folder.join(suite), &mut files);
    }
    let mut problems = Vec::new();
    let mut count = 0;
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let is_input = name.ends_with("input.yaml")
            || name.starts_with("resources.")
            || name.ends_with("policies.yaml")
            || name.ends_with("dataplane.yaml");
        if !is_input {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        for document in yaml::documents(&text).unwrap_or_else(|error| panic!("{name}: {error}")) {
            count += 1;
            match parse::stored(&document) {
                Ok(resource) => {
                    let violations = validate(&resource);
                    // Recorded certificates are replaced by a remark; one file is about names that break the rule.
                    let replaced = violations.0.iter().all(|v| v.field.ends_with("pem.value"))
                        && !text.contains("BEGIN CERTIFICATE");
                    if !violations.is_empty() && !replaced && !name.contains("noncompliant") {
                        problems.push(format!(
                            "{}: {}: {violations}",
                            file.display(),
                            resource.key
                        ));
                    }
                }
                Err(error) => problems.push(format!("{}: {error}", file.display())),
            }
        }
    }
    println!("{count} resources");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
