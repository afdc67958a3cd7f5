//! A made-up world in which the whole federation lives in one thread, from a seed.
//!
//! ```text
//! seed ──▶ people, faults ──▶ ┌ global ── links ── zones ── links ── proxies ┐ ──▶ checkers ──▶ Report or Failure
//!                             └ real cores and stores, made-up shells, time  ┘
//! ```
//!
//! Start at [`run`](fn@run). A run is a busy time, in which people change things and links and processes break; then a
//! quiet time, in which everything has to come right. The checkers ask, during and after it: do all stores hold what
//! they should; did something removed come back; was anything deleted that its owner kept; did anyone see what it should
//! not; did a receipt claim what no proxy uses; did one bad resource harm another; did messages grow with changes
//! instead of resources; did anybody stop or go round in circles.
//!
//! Whether the checkers would see anything is asked by `hunt` (feature `mutants`): it switches on a known bug and counts
//! the seeds until one shows it.
//!
//! Always true: the same seed is the same run, step for step (compare [`Report::trace_hash`]); the cores (`kds`, `delta`,
//! `federation`, `catalogue`, the stores and the ledger of receipts) are those of the control planes and not copies; the
//! checkers' rules are written down a second time and do not ask the code under test.
//!
//! Deliberately absent: sockets, threads, real time, and Envoy's messages (proxies take a small made-up configuration).
#![allow(
    clippy::indexing_slicing,
    reason = "a world that counts its own zones wrongly should stop at once"
)]

mod faults;
mod global;
mod keeper;
mod link;
#[cfg(feature = "mutants")]
mod mutants;
mod oracle;
mod proxy;
mod run;
mod time;
mod trace;
mod views;
mod work;
mod world;
mod zone;

#[cfg(feature = "mutants")]
pub use mutants::{Hunt, hunt};
pub use oracle::Violation;
pub use run::{Failure, Options, Report, run};
pub use world::Size;
