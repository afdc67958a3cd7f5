//! Dataplane: one proxy, its inbounds, outbounds and zone proxy listeners.

use serde::{Deserialize, Serialize};

use super::{is_false, is_zero};
use crate::resource::Labels;

/// A proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataplaneSpec {
    /// Addresses and ports.
    pub networking: Networking,
}

/// Addresses and ports of a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Networking {
    /// The IP or DNS name that peers use.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Set for a delegated gateway, which has no inbounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Gateway>,
    /// Local services.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inbound: Vec<Inbound>,
    /// Explicit outbounds, used without transparent proxying.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outbound: Vec<Outbound>,
    /// Set where traffic is redirected to the proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transparent_proxying: Option<TransparentProxying>,
    /// The Envoy admin port, where it is not the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<Admin>,
    /// Listeners of a zone proxy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<Listener>,
}

/// A delegated gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gateway {
    /// Its tags.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub tags: Labels,
}

/// Whether an inbound takes traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum InboundState {
    /// It does.
    #[default]
    Ready,
    /// Not now.
    NotReady,
    /// It has no listener and no endpoint.
    Ignored,
}

/// A local service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Inbound {
    /// The port Envoy listens on.
    #[serde(skip_serializing_if = "is_zero")]
    pub port: u32,
    /// The application's port; 0 means the same.
    #[serde(skip_serializing_if = "is_zero")]
    pub service_port: u32,
    /// The application's address; empty means the listener's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_address: String,
    /// The listener's address; empty means the proxy's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Older form of the state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// A probe Envoy runs for the control plane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_probe: Option<ServiceProbe>,
    /// Whether it takes traffic.
    #[serde(skip_serializing_if = "is_default")]
    pub state: InboundState,
    /// Its section name; empty means the port's number.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// `grpc`, `http`, `http2`, `tcp`; empty means tcp.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub protocol: String,
}

impl Inbound {
    /// The section name: its name, or the port's number where it has none.
    #[must_use]
    pub fn section_name(&self) -> String {
        if self.name.is_empty() {
            self.port.to_string()
        } else {
            self.name.clone()
        }
    }

    /// The application's port.
    #[must_use]
    pub fn service_port(&self) -> u32 {
        if self.service_port == 0 {
            self.port
        } else {
            self.service_port
        }
    }

    /// The address it listens on, given the proxy's.
    #[must_use]
    pub fn listener_address<'a>(&'a self, networking: &'a Networking) -> &'a str {
        if self.address.is_empty() {
            &networking.address
        } else {
            &self.address
        }
    }

    /// Whether it takes traffic: state `Ready`, and not said to be unhealthy in the older form.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == InboundState::Ready && self.health.as_ref().is_none_or(|health| health.ready)
    }
}

/// Older form of an inbound's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Whether it takes traffic.
    #[serde(skip_serializing_if = "is_false")]
    pub ready: bool,
}

/// A TCP probe of an inbound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceProbe {
    /// Protobuf's duration form, e.g. `5s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// Protobuf's duration form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Failures that make it unhealthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unhealthy_threshold: Option<u32>,
    /// Successes that make it healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthy_threshold: Option<u32>,
    /// Present for a TCP probe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<serde_json::Value>,
}

/// An explicit outbound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Outbound {
    /// The address it listens on; empty means 127.0.0.1.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// The port it listens on.
    #[serde(skip_serializing_if = "is_zero")]
    pub port: u32,
    /// The service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_ref: Option<BackendReference>,
}

impl Outbound {
    /// The address it listens on.
    #[must_use]
    pub fn listener_address(&self) -> &str {
        if self.address.is_empty() {
            "127.0.0.1"
        } else {
            &self.address
        }
    }
}

/// The service of an explicit outbound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackendReference {
    /// One of the three kinds of services.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Its stored name, unless labels are given.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its port.
    #[serde(skip_serializing_if = "is_zero")]
    pub port: u32,
    /// Its labels.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// Which addresses a redirected proxy listens on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpFamilyMode {
    /// As the proxy finds.
    #[default]
    UnSpecified,
    /// Both.
    DualStack,
    /// IPv4.
    IPv4,
    /// IPv6.
    IPv6,
}

/// How traffic is redirected to the proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TransparentProxying {
    /// The port incoming traffic is redirected to.
    #[serde(skip_serializing_if = "is_zero")]
    pub redirect_port_inbound: u32,
    /// The port outgoing traffic is redirected to.
    #[serde(skip_serializing_if = "is_zero")]
    pub redirect_port_outbound: u32,
    /// Services reached at their own addresses; `*` means all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub direct_access_services: Vec<String>,
    /// Address family.
    #[serde(skip_serializing_if = "is_default")]
    pub ip_family_mode: IpFamilyMode,
    /// The only services the proxy is configured for, where set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reachable_backends: Option<ReachableBackends>,
}

/// The services a proxy may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReachableBackends {
    /// The list; empty reaches nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refs: Vec<ReachableBackend>,
}

/// One entry of the services a proxy may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReachableBackend {
    /// One of the three kinds of services.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its port; absent means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u32>,
    /// Its labels.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// The Envoy admin interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Admin {
    /// Its port.
    #[serde(skip_serializing_if = "is_zero")]
    pub port: u32,
}

/// What a zone proxy's listener is for.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum ListenerType {
    /// Nobody said.
    #[default]
    Unspecified,
    /// Traffic that enters the zone.
    ZoneIngress,
    /// Traffic that leaves the mesh.
    ZoneEgress,
}

/// Whether a zone proxy's listener takes traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ListenerState {
    /// It does.
    #[default]
    Ready,
    /// Not now.
    NotReady,
}

/// A listener of a zone proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Listener {
    /// What it is for.
    #[serde(rename = "type", skip_serializing_if = "is_default")]
    pub listener_type: ListenerType,
    /// Where it listens.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Where it listens.
    #[serde(skip_serializing_if = "is_zero")]
    pub port: u32,
    /// Its section name; empty means the port's number.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Whether it takes traffic.
    #[serde(skip_serializing_if = "is_default")]
    pub state: ListenerState,
}

impl Listener {
    /// The section name: its name, or the port's number where it has none.
    #[must_use]
    pub fn section_name(&self) -> String {
        if self.name.is_empty() {
            self.port.to_string()
        } else {
            self.name.clone()
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
