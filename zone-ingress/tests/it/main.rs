//! The zone ingress as its callers, services and operators meet it: real sockets on loopback.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a test may fail loudly"
)]

mod control;
mod data_path;
mod drain;
mod fake_control_plane;
mod harness;
mod hostile;
mod kuma;
mod process;
