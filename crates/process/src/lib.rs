//! What every program of the federation needs around its own work: tasks, drain, configuration, logs,
//! metrics, listeners and the clock.
//!
//! ```text
//! main ── config::Loader ──▶ what to run with
//!      ── net::bind ───────▶ listeners ──┐
//!      ── Tasks ◀── net::serve(…) ◀──────┘    essential: one ends, all stop, in order
//!            └────── finish(drain) ─────────▶ how many were cut
//! ```
//!
//! Start at [`Tasks`]; [`net::serve`] is the one accept loop for REST and gRPC.
//!
//! Always true: this is the only room that asks the machine for the time, the environment and signals, and
//! the only one that spawns; every task has a name and somebody who waits for it; every limit has a name.
//!
//! Deliberately absent: resources and policies; what a program does with its listeners.

pub mod admin;
pub mod backoff;
pub mod clock;
pub mod config;
pub mod control_plane;
pub mod files;
pub mod logs;
pub mod metrics;
pub mod net;
pub mod ready;
pub mod signals;
pub mod tasks;
pub mod tls;

pub use backoff::{Backoff, BackoffPolicy};
pub use clock::{Clock, ManualClock, RealClock};
pub use ready::Readiness;
pub use tasks::{Spawner, Tasks};
pub use tokio_util::sync::CancellationToken;
