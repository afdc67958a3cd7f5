//! The global control plane: owns the policies, syncs them down to the zones, and collects what the zones have.
//!
//! ```text
//! people ──REST──▶ store ──KDS down──▶ zones
//!                    ▲ ◀──KDS up── their dataplanes, services, addresses, trust
//!                    └── receipts: which zone keeps which revision, whose proxies use it
//! ```
//!
//! Start at [`run`] for the assembly, [`kds::Kds`] for what zones talk to.
//!
//! Always true: a zone speaks for itself only; what a zone sent is the zone's and goes to the others as it is; a receipt
//! says what zones have said and nothing else.
//!
//! Deliberately absent: anything a zone needs in order to go on without it.

mod authorize;
mod config;
mod inspect;
mod joining;
pub mod kds;
mod run;

pub use config::Config;
pub use run::{Listeners, run};
