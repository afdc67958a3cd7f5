//! The resource API against recorded requests and answers.

#![allow(clippy::print_stdout)]

use zonal_testkit::conformance::{SuiteResult, rest_crud};

#[track_caller]
fn check(result: Option<SuiteResult>, accepted: &[&str]) {
    let Some(result) = result else {
        println!("skipped: the conformance folder is absent");
        return;
    };
    println!("{result}");
    let mut unexpected = Vec::new();
    for (case, problem) in &result.failed {
        if !accepted.contains(&case.as_str()) {
            unexpected.push(format!("{case}: {problem}"));
        }
    }
    assert!(unexpected.is_empty(), "{}", unexpected.join("\n\n"));
}

#[test]
fn rest_crud_answers_as_recorded() {
    check(rest_crud::rest_crud(), &[]);
}

#[test]
fn rest_validation_answers_as_recorded() {
    check(rest_crud::rest_validation(), &[]);
}
