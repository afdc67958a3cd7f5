//! The federated service catalogue: who offers what, reached how.
//!
//! ```text
//! services, dataplanes, ┐                      ┌ services with ports, server names, accepted identities
//! zone addresses, …     ┴──▶ MeshCatalogue ──▶ ┤ endpoints of each port: near ones directly, far ones through ingresses
//!        changes ─────────────────▶ apply ───▶ └ which services a change touched
//!
//! dataplanes ──derive──▶ services and workloads to keep ──status, vips, hostnames──▶ what is written beside them
//! ```
//!
//! Start at [`MeshCatalogue`], then [`Service`] and [`Endpoint`]. The functions of [`mod@derive`], [`status`], [`vips`],
//! [`hostnames`] and [`identities`] turn stored resources into those that a zone's control plane writes.
//!
//! Always true: one catalogue is one mesh as one zone sees it; the same resources give the same catalogue in whatever
//! order they came; an inbound that is not ready, drains or is ignored is offered to nobody; a far service whose
//! accepted identities are unknown is offered to nobody, because its callers could not tell it from another.
//!
//! Deliberately absent: Envoy messages, name resolution (see [`MeshCatalogue::unresolved_names`]), the store, clocks.

mod dataplane;
mod dependents;
pub mod derive;
mod endpoints;
mod form;
pub mod hostnames;
pub mod identities;
mod mesh;
mod reach;
mod service;
pub mod status;
pub mod vips;

pub use dataplane::{DataplaneRecord, InboundRecord, ListenerRecord, Readiness};
pub use dependents::{Dependency, Dependents};
pub use mesh::{CatalogueChanges, Change, MeshCatalogue};
pub use reach::{Outbound, OutboundMode, ProxyReach};
pub use service::{
    Endpoint, External, ExternalEndpoint, Port, Protocol, Selector, Service, ServiceEndpoints,
    TargetPort, Way, is_local,
};
