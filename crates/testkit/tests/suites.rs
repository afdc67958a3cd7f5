//! Every suite that needs no other process passes as a whole, or says aloud that its folder is absent.
#![allow(
    clippy::print_stdout,
    reason = "the counts belong to the output of the test"
)]

use zonal_testkit::conformance::{
    SuiteResult, crosszone, envoyconfig, policy, resource_validation, rest_crud,
};

/// `at_least` guards against a folder that moved: a suite without cases passes nothing.
#[track_caller]
fn passes(name: &str, result: Option<SuiteResult>, at_least: usize) {
    let Some(result) = result else {
        println!("{name}: skipped, its folder is absent");
        return;
    };
    println!("{result}");
    assert!(result.failed.is_empty(), "{result}");
    assert!(result.passed >= at_least, "{result}");
}

#[test]
fn rest_crud_answers_as_recorded() {
    passes("rest-crud", rest_crud::rest_crud(), 1);
}

#[test]
fn rest_validation_answers_as_recorded() {
    passes("rest-validation", rest_crud::rest_validation(), 1);
}

#[test]
fn violations_are_those_clients_know() {
    passes("resource-validation", resource_validation::run(), 1);
}

#[test]
fn policies_touch_whom_they_should() {
    passes("policy-matchers", policy::policy_matchers(), 60);
}

#[test]
fn policies_merge_as_they_should() {
    passes("policy-rules", policy::policy_rules(), 30);
}

#[test]
fn a_recorded_federation_is_configured_alike() {
    passes("crosszone", crosszone::crosszone(), 1);
}

#[test]
fn every_policy_configures_envoy_alike() {
    passes("envoyconfig", envoyconfig::envoyconfig(), 1);
}
