//! What the catalogue knows of a dataplane.

use std::sync::Arc;

use serde_json::Value;
use zonal_model::{Labels, Resource, labels};

use crate::form::{DataplaneForm, InboundForm, ListenerForm};
use crate::service::{Protocol, TargetPort};

/// Whether an inbound may be offered to callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Yes.
    Ready,
    /// It said that it cannot answer.
    NotReady,
    /// It is going away: what it has goes on, nothing new comes.
    Draining,
    /// It is none of the mesh's business: no listener either.
    Ignored,
}

/// One inbound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundRecord {
    /// Its name, or its port as text.
    pub section: Arc<str>,
    /// Its own name.
    pub name: Option<Arc<str>>,
    /// Where its proxy listens.
    pub address: Arc<str>,
    /// The port there.
    pub port: u16,
    /// What is spoken.
    pub protocol: Protocol,
    /// Whether the dataplane says what is spoken; bytes otherwise.
    pub protocol_named: bool,
    /// Whether it may be offered.
    pub readiness: Readiness,
}

impl InboundRecord {
    /// Whether it serves a service's port.
    #[must_use]
    pub fn serves(&self, target: &TargetPort) -> bool {
        match target {
            TargetPort::Number(number) => self.port == *number,
            TargetPort::Name(name) => self.name.as_ref() == Some(name),
        }
    }
}

/// A listener of a zone proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerRecord {
    /// Egress, else ingress.
    pub egress: bool,
    /// Its name, or its port as text.
    pub section: Arc<str>,
    /// Where it listens.
    pub address: Arc<str>,
    /// The port there.
    pub port: u16,
    /// Whether it may be offered.
    pub ready: bool,
}

/// One dataplane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataplaneRecord {
    /// Its stored name.
    pub name: Arc<str>,
    /// All its labels.
    pub labels: Arc<Labels>,
    /// The zone its label names.
    pub zone: Option<Arc<str>>,
    /// Its inbounds, except those of workloads without a port.
    pub inbounds: Vec<InboundRecord>,
    /// Its zone proxy listeners.
    pub listeners: Vec<ListenerRecord>,
}

/// An inbound of this port stands for a workload that serves nothing.
const SERVICELESS_PORT: u16 = 49151;

impl DataplaneRecord {
    /// Reads a Dataplane; `None` where its spec is not one.
    #[must_use]
    pub fn read(resource: &Resource) -> Option<Self> {
        let spec: DataplaneForm = resource.spec.typed().ok()?;
        let own: Arc<str> = spec.networking.address.as_str().into();
        Some(Self {
            name: Arc::clone(&resource.key.name),
            labels: Arc::new(resource.meta.labels.clone()),
            zone: resource.zone().map(Arc::from),
            inbounds: spec
                .networking
                .inbound
                .iter()
                .filter(|inbound| inbound.port != SERVICELESS_PORT)
                .map(|inbound| read_inbound(inbound, &own))
                .collect(),
            listeners: spec
                .networking
                .listeners
                .iter()
                .filter_map(|listener| read_listener(listener, &own))
                .collect(),
        })
    }

    /// The group of proxies it belongs to.
    #[must_use]
    pub fn workload(&self) -> Option<&str> {
        self.labels.get(labels::WORKLOAD).map(String::as_str)
    }

    /// The first inbound that serves a service's port.
    #[must_use]
    pub fn serving(&self, target: &TargetPort) -> Option<&InboundRecord> {
        self.inbounds.iter().find(|inbound| inbound.serves(target))
    }

    /// Whether it has an inbound that may be offered.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.inbounds
            .iter()
            .any(|inbound| inbound.readiness == Readiness::Ready)
    }
}

fn section(name: Option<&str>, port: u16) -> Arc<str> {
    match name {
        Some(name) if !name.is_empty() => name.into(),
        _ => port.to_string().into(),
    }
}

fn own_or(address: Option<&str>, own: &Arc<str>) -> Arc<str> {
    match address {
        Some(address) if !address.is_empty() => address.into(),
        _ => Arc::clone(own),
    }
}

fn read_inbound(inbound: &InboundForm, own: &Arc<str>) -> InboundRecord {
    let unhealthy = inbound.health.as_ref().is_some_and(|health| !health.ready);
    let readiness = match enum_name(inbound.state.as_ref(), &["Ready", "NotReady", "Ignored"]) {
        "Ignored" => Readiness::Ignored,
        "Draining" => Readiness::Draining,
        "Ready" if !unhealthy => Readiness::Ready,
        _ => Readiness::NotReady,
    };
    InboundRecord {
        section: section(inbound.name.as_deref(), inbound.port),
        name: inbound
            .name
            .as_deref()
            .filter(|name| !name.is_empty())
            .map(Arc::from),
        address: own_or(inbound.address.as_deref(), own),
        port: inbound.port,
        protocol: Protocol::parse(inbound.protocol.as_deref()),
        protocol_named: inbound
            .protocol
            .as_ref()
            .is_some_and(|name| !name.is_empty()),
        readiness,
    }
}

fn read_listener(listener: &ListenerForm, own: &Arc<str>) -> Option<ListenerRecord> {
    let egress = match enum_name(
        listener.kind.as_ref(),
        &["Unspecified", "ZoneIngress", "ZoneEgress"],
    ) {
        "ZoneIngress" => false,
        "ZoneEgress" => true,
        _ => return None,
    };
    Some(ListenerRecord {
        egress,
        section: section(listener.name.as_deref(), listener.port),
        address: own_or(listener.address.as_deref(), own),
        port: listener.port,
        ready: enum_name(listener.state.as_ref(), &["Ready", "NotReady"]) == "Ready",
    })
}

/// An enum of a protobuf message in JSON: its name, its number, or absent for the first.
fn enum_name<'a>(value: Option<&'a Value>, names: &[&'a str]) -> &'a str {
    let first = names.first().copied().unwrap_or_default();
    match value {
        None | Some(Value::Null) => first,
        Some(Value::String(name)) => name,
        Some(number) => number
            .as_u64()
            .and_then(|number| usize::try_from(number).ok())
            .and_then(|number| names.get(number))
            .copied()
            .unwrap_or_default(),
    }
}
