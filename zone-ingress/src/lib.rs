//! The way into a zone: routes other zones' TLS connections to the right sidecar by server name,
//! without ending TLS.
//!
//! ```text
//! caller ──▶ worker ──hello──▶ server name ──routes──▶ endpoint ══bytes both ways══▶ sidecar
//!                                              ▲
//!            zone-cp ──incremental ADS──▶ feed ┴──▶ state file (read again at the next start)
//! ```
//!
//! Start at [`run()`]; the data path is [`proxy::Proxy`], the control path is [`feed::Feed`].
//!
//! Always true: no byte is lost, reordered or counted wrongly; a change of routes touches no open
//! connection; what a stranger sends costs a bounded amount; without a control plane the last
//! routes are served, and their age is told.
//!
//! Deliberately absent: keys and certificates (TLS goes through from end to end), HTTP, policies.

pub mod admin;
pub mod ads;
pub mod buffers;
pub mod config;
pub mod connection;
pub mod copy;
pub mod feed;
pub mod gate;
pub mod hello;
pub mod limits;
pub mod metrics;
pub mod outcome;
pub mod proxy;
pub mod register;
pub mod routes;
pub mod run;
pub mod socket;
pub mod state;
pub mod status;
pub mod times;
pub mod wire;
pub mod worker;

pub use run::run;
