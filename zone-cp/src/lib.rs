//! The zone's control plane: keeps the zone's copy, works without global, and configures the zone's proxies.
//!
//! ```text
//! global ◀──KDS──▶ store ──▶ controllers (services, workloads, addresses, names, authorities)
//!                    │  ▲                                   │
//!                    │  └───────────── derived ◀────────────┘
//!                    ▼
//!                  views ──▶ ADS ──▶ Envoys, zone-ingress ──ACK──▶ receipts ──KDS──▶ global
//! ```
//!
//! Start at [`run`] for the assembly, [`views::Engine`] for what makes a change reach a proxy.
//!
//! Always true: everything is woken by the step before it; a proxy keeps its last good configuration whatever happens
//! here; a receipt counts what proxies have answered and nothing else.
//!
//! Deliberately absent: what Envoy's messages look like (see `xds`), what crosses the border (see `federation`).

mod authorities;
mod config;
mod controllers;
mod convergence;
pub mod dp;
mod generated_authority;
mod identify;
mod insights;
mod inspect;
pub mod kds;
mod leave;
mod lifecycle;
mod membership;
mod metrics;
mod offline;
mod own_name;
pub mod proxy;
pub mod receipts;
mod resolver;
mod rest;
mod run;
mod to_global;
pub mod views;

pub use config::{Config, GlobalConfig};
pub use metrics::ZoneMetrics;
pub use run::{Listeners, run};
