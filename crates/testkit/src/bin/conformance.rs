//! Runs the conformance suites: one line of counts for each, then what differs in the cases that fail.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is its output"
)]

use std::process::ExitCode;

use zonal_testkit::conformance::{
    SuiteResult, crosszone, envoyconfig, kds_full_sync, policy, resource_validation, rest_crud,
    wire,
};

type Suite = (&'static str, fn() -> Option<SuiteResult>);

const SUITES: [Suite; 9] = [
    ("wire", wire::wire_suite),
    ("kds-full-sync", kds_full_sync::kds_full_sync),
    ("rest-crud", rest_crud::rest_crud),
    ("rest-validation", rest_crud::rest_validation),
    ("resource-validation", resource_validation::run),
    ("policy-matchers", policy::policy_matchers),
    ("policy-rules", policy::policy_rules),
    ("crosszone", crosszone::crosszone),
    ("envoyconfig", envoyconfig::envoyconfig),
];

fn main() -> ExitCode {
    let wanted = match wanted() {
        Ok(wanted) => wanted,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    let mut all_passed = true;
    for (name, run) in SUITES {
        if !wanted.is_empty() && !wanted.iter().any(|suite| suite == name) {
            continue;
        }
        match run() {
            None => println!("{name}: skipped, the cases are absent"),
            Some(SuiteResult {
                passed,
                failed,
                skipped,
                ..
            }) => {
                println!(
                    "{name}: passed {passed}, failed {}, skipped {skipped}",
                    failed.len()
                );
                all_passed &= failed.is_empty();
                for (case, difference) in failed {
                    println!("--- {name} {case}\n{difference}");
                }
            }
        }
    }
    if all_passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The suites named by `--suite NAME`; none means all.
fn wanted() -> Result<Vec<String>, String> {
    let mut wanted = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let name = match (argument.strip_prefix("--suite="), argument.as_str()) {
            (Some(name), _) => name.to_owned(),
            (None, "--suite") => arguments.next().unwrap_or_default(),
            (None, other) => {
                return Err(format!("`{other}` is not understood: write `--suite NAME`"));
            }
        };
        if !SUITES.iter().any(|(known, _)| *known == name) {
            let known: Vec<_> = SUITES.iter().map(|(known, _)| *known).collect();
            return Err(format!(
                "`{name}` is no suite; there are {}",
                known.join(", ")
            ));
        }
        wanted.push(name);
    }
    Ok(wanted)
}
