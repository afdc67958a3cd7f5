//! What tests share: the runners of the conformance suites, builders and fake peers.
//!
//! ```text
//! conformance folder ──runner──▶ SuiteResult: how many cases pass, and what differs in the others
//! ```
//!
//! Start at [`conformance`].
//!
//! Always true: a suite whose folder is absent is reported as skipped, never as passed.
//!
//! Deliberately absent: the cases themselves, which are not ours to ship. No crate depends on this one outside of tests.

pub mod conformance;
pub mod federation;
