//! A whole federation on one machine, of real processes and real Envoys, and the story it tells.
//!
//! ```text
//! Federation ── starts ──▶ global-cp, zone-cp…, zone-ingress…, (workload + sidecar + Envoy)…
//!     ▲
//!   story: apply, call, break, look
//! ```
//!
//! Start at [`Federation`]; [`story::tell`] is what `cargo xtask demo` shows and what the end-to-end test runs.
//!
//! Always true: all state lies under one temporary folder, every address is a loopback address of this federation's own
//! block, and dropping the federation ends every process it started.
//!
//! Deliberately absent: mocks.

mod addresses;
pub mod calls;
pub mod crashes;
mod federation;
mod process;
mod report;
pub mod story;
mod tools;
mod zonal;

pub use addresses::Block;
pub use calls::{Answer, Caller, Outcome, Tally};
pub use federation::{Federation, Options, WorkloadSpec};
pub use process::Process;
pub use report::Report;
pub use tools::{Tools, wait_for};
pub use zonal::Zonal;
