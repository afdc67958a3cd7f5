//! What proxies are told, from the outside: golden meshes, and a real Envoy that has to accept them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

mod envoy;
mod golden;
mod world;
