//! Runs one Envoy beside one workload: registers it, keeps it running, watches the workload, drains it.
//!
//! ```text
//! Dataplane file ─template─▶ Dataplane ─POST /bootstrap─▶ zone-cp
//!                                │                           │ bootstrap
//!      probes of each inbound ◀──┤                           ▼
//!            │ Ready / NotReady  └──────▶ Lifecycle ──▶ Envoy process (restarted, drained)
//!            └──────POST /zonal/v1/health──▶ zone-cp
//! ```
//!
//! Start at [`lifecycle::Lifecycle`], the core that decides what happens next; [`run()`] is its shell.
//!
//! Always true: callers are told to leave before anything stops; an Envoy that dies is started again; the control
//! plane being away stops nothing that runs.
//!
//! Deliberately absent: what Envoy is configured with (see `xds`), who may join (see `zone-cp`).

pub mod args;
pub mod config;
pub mod control_plane;
pub mod dataplane;
pub mod envoy;
pub mod lifecycle;
pub mod probe;
pub mod report;
pub mod run;
pub mod status;
pub mod template;

pub use run::{Parts, RunError, run};
