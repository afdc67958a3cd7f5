//! Stories of real processes: what holds while parts of a federation die and come back.
//!
//! They run one after the other, each with a federation of its own, and wait for conditions, never for time to pass.
#![allow(
    clippy::print_stdout,
    clippy::panic,
    reason = "a test fails by panicking, and one that is skipped says so aloud"
)]

mod control_planes;
mod ingress;
mod refusals;
mod sidecars;
mod stage;
mod whole_story;
mod zone_life;
