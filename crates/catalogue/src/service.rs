//! A service, its ports and its endpoints.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use zonal_model::{Key, Kind, Kri, Labels, Resource, labels, sni};

use crate::form::{DestinationStatusForm, ExternalForm, PortForm, ServiceForm};

/// Something a proxy can send traffic to: a MeshService, MeshMultiZoneService or MeshExternalService.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Under which it is stored here.
    pub key: Key,
    /// Its identifier, without section; the same in every zone.
    pub kri: Kri,
    /// Its labels.
    pub labels: Labels,
    /// When this store first kept it; the older one wins where a reference means several.
    pub created: Timestamp,
    /// MeshService: made by this zone, so its proxies are reached directly.
    pub local: bool,
    /// Its ports; exactly one for an external service.
    pub ports: Vec<Port>,
    /// The virtual addresses that this zone gave it.
    pub vips: Vec<IpAddr>,
    /// The host names that this zone gave it.
    pub hostnames: Vec<Arc<str>>,
    /// The SPIFFE identities its proxies may show, sorted. For a multi-zone service those of all its members.
    pub identities: Vec<Arc<str>>,
    /// Whether its own zone says that it can answer.
    pub available: bool,
    /// Whether every proxy of it accepts mTLS: from the status where it is local, always true else.
    pub tls_ready: bool,
    /// MeshService: which proxies it has. MeshMultiZoneService: which services.
    pub selector: Selector,
    /// MeshMultiZoneService: the services that its selector matches, in order.
    pub members: Vec<Kri>,
    /// MeshExternalService: what it leads to.
    pub external: Option<External>,
}

/// How a service says whom it consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// Nobody.
    None,
    /// One dataplane by stored name.
    Dataplane(Arc<str>),
    /// Dataplanes (or services, for a multi-zone one) with all these labels.
    Labels(Labels),
}

impl Selector {
    /// Whether it means what has this name and these labels.
    #[must_use]
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        match self {
            Self::None => false,
            Self::Dataplane(wanted) => **wanted == *name,
            Self::Labels(wanted) => wanted
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value)),
        }
    }
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name, or its number as text: the section of identifiers and server names.
    pub name: Arc<str>,
    /// Its number.
    pub number: u16,
    /// Which inbound of a proxy serves it.
    pub target: TargetPort,
    /// What is spoken.
    pub protocol: Protocol,
    /// The server name under which ingresses know it. Not checked: see [`Port::sni_valid`].
    pub sni: Arc<str>,
}

impl Port {
    /// Whether the server name can be sent: each part one DNS label, 253 characters at most.
    #[must_use]
    pub fn sni_valid(&self) -> bool {
        let label = |part: &str| {
            !part.is_empty()
                && part.len() <= 63
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !part.starts_with('-')
                && !part.ends_with('-')
        };
        self.sni.len() <= 253 && self.sni.split('.').all(label)
    }
}

/// Which inbound serves a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// The inbound of that port.
    Number(u16),
    /// The inbound of that name.
    Name(Arc<str>),
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Bytes.
    #[default]
    Tcp,
    /// HTTP/1.1.
    Http,
    /// HTTP/2.
    Http2,
    /// gRPC.
    Grpc,
}

impl Protocol {
    /// Anything unknown, and nothing, is bytes.
    #[must_use]
    pub fn parse(text: Option<&str>) -> Self {
        match text.map(str::to_ascii_lowercase).as_deref() {
            Some("http") => Self::Http,
            Some("http2") => Self::Http2,
            Some("grpc") => Self::Grpc,
            _ => Self::Tcp,
        }
    }

    /// As specs and metadata write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
        }
    }

    /// Whether requests can be told apart.
    #[must_use]
    pub const fn is_http(self) -> bool {
        !matches!(self, Self::Tcp)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an external service leads to.
#[derive(Clone, Debug, PartialEq)]
pub struct External {
    /// Its hosts.
    pub endpoints: Vec<ExternalEndpoint>,
    /// `spec.tls` as written; `null` without it.
    pub tls: Value,
}

/// A host outside the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalEndpoint {
    /// Address or host name.
    pub address: Arc<str>,
    /// Its port.
    pub port: u16,
    /// 0 is used first.
    pub priority: u32,
}

/// One place that serves a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The zone it is in, where that is known. Endpoints are sorted by it, then address as text, then port.
    pub zone: Option<Arc<str>>,
    /// An IP address.
    pub address: Arc<str>,
    /// The port there.
    pub port: u16,
    /// 0 is used first; those of other zones have 1.
    pub priority: u32,
    /// Labels for choosing among endpoints: the dataplane's with the port's protocol, or the zone of an ingress.
    pub metadata: Arc<Labels>,
    /// What stands there.
    pub way: Way,
}

/// What stands at an endpoint's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// The proxy of that dataplane.
    Direct(Arc<str>),
    /// An ingress of another zone.
    Ingress,
    /// An egress of this zone.
    Egress,
}

/// The endpoints of all ports of one service, by the port's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceEndpoints {
    by_port: BTreeMap<Arc<str>, Arc<[Endpoint]>>,
}

impl ServiceEndpoints {
    pub(crate) fn new(by_port: BTreeMap<Arc<str>, Vec<Endpoint>>) -> Self {
        let by_port = by_port
            .into_iter()
            .map(|(port, mut endpoints)| {
                endpoints.sort_by(|a, b| {
                    (&a.zone, &a.address, a.port).cmp(&(&b.zone, &b.address, b.port))
                });
                endpoints.dedup_by(|a, b| {
                    (&a.zone, &a.address, a.port) == (&b.zone, &b.address, b.port)
                });
                (port, endpoints.into())
            })
            .collect();
        Self { by_port }
    }

    /// The endpoints of a port; none for a port that does not exist.
    #[must_use]
    pub fn port(&self, name: &str) -> Arc<[Endpoint]> {
        self.by_port
            .get(name)
            .map_or_else(|| Arc::from([]), Arc::clone)
    }

    /// All ports.
    pub fn ports(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<[Endpoint]>)> {
        self.by_port.iter()
    }

    /// Those of a port that are proxies of this zone: what this zone's ingress forwards to.
    #[must_use]
    pub fn direct(&self, name: &str) -> Vec<Endpoint> {
        self.by_port
            .get(name)
            .into_iter()
            .flat_map(|endpoints| endpoints.iter())
            .filter(|endpoint| matches!(endpoint.way, Way::Direct(_)))
            .cloned()
            .collect()
    }
}

/// Whether a MeshService was made by this zone; what came from elsewhere came through global.
#[must_use]
pub fn is_local(resource: &Resource) -> bool {
    matches!(resource.label(labels::ORIGIN), None | Some("" | "zone"))
}

impl Service {
    /// Reads a service; `None` for another kind, or one whose spec cannot be read.
    #[must_use]
    pub fn read(resource: &Resource) -> Option<Self> {
        let kri = Kri::of(resource)?;
        let status: DestinationStatusForm = resource
            .status
            .as_ref()
            .and_then(|status| status.typed().ok())
            .unwrap_or_default();
        let mut service = Self {
            key: resource.key.clone(),
            labels: resource.meta.labels.clone(),
            created: resource.meta.creation_time,
            local: false,
            ports: Vec::new(),
            vips: status
                .vips
                .iter()
                .chain(&status.vip)
                .filter_map(|vip| vip.ip.parse().ok())
                .collect(),
            hostnames: status
                .addresses
                .iter()
                .map(|a| a.hostname.as_str().into())
                .collect(),
            identities: Vec::new(),
            available: true,
            tls_ready: true,
            selector: Selector::None,
            members: Vec::new(),
            external: None,
            kri,
        };
        match resource.key.kind {
            Kind::MeshService => {
                let spec: ServiceForm = resource.spec.typed().ok()?;
                service.local = is_local(resource);
                service.ports = spec
                    .ports
                    .iter()
                    .map(|port| read_port(&service.kri, port))
                    .collect();
                service.identities = spec
                    .identities
                    .iter()
                    .filter(|identity| identity.kind == "SpiffeID")
                    .map(|identity| identity.value.as_str().into())
                    .collect();
                service.identities.sort();
                service.identities.dedup();
                service.available = spec.state.as_deref() == Some("Available");
                if service.local {
                    service.tls_ready = status.tls.is_some_and(|tls| tls.status == "Ready");
                }
                service.selector =
                    match (spec.selector.dataplane_ref, spec.selector.dataplane_labels) {
                        (Some(reference), _) => Selector::Dataplane(reference.name.into()),
                        (None, Some(labels)) => {
                            Selector::Labels(labels.match_labels.unwrap_or_default())
                        }
                        (None, None) => Selector::None,
                    };
            }
            Kind::MeshMultiZoneService => {
                let spec: ServiceForm = resource.spec.typed().ok()?;
                service.ports = spec
                    .ports
                    .iter()
                    .map(|port| read_port(&service.kri, port))
                    .collect();
                service.selector = spec
                    .selector
                    .mesh_service
                    .and_then(|selector| selector.match_labels)
                    .map_or(Selector::None, Selector::Labels);
            }
            Kind::MeshExternalService => {
                let spec: ExternalForm = resource.spec.typed().ok()?;
                let port = spec.r#match.port;
                service.ports = vec![read_port(
                    &service.kri,
                    &PortForm {
                        name: None,
                        port,
                        target_port: None,
                        app_protocol: spec.r#match.protocol,
                    },
                )];
                service.external = Some(External {
                    endpoints: spec
                        .endpoints
                        .into_iter()
                        .map(|endpoint| ExternalEndpoint {
                            address: endpoint.address.into(),
                            port: endpoint.port.unwrap_or(port),
                            priority: endpoint.priority.unwrap_or(0),
                        })
                        .collect(),
                    tls: spec.tls.unwrap_or(Value::Null),
                });
            }
            _ => return None,
        }
        Some(service)
    }

    /// The port of that name, or else of that number.
    #[must_use]
    pub fn port(&self, section: &str) -> Option<&Port> {
        self.ports
            .iter()
            .find(|port| *port.name == *section)
            .or_else(|| {
                self.ports
                    .iter()
                    .find(|port| port.number.to_string() == section)
            })
    }

    /// The identifier of one of its ports, as policies and endpoints know it.
    #[must_use]
    pub fn port_kri(&self, port: &Port) -> Kri {
        self.kri.clone().with_section(&*port.name)
    }

    /// The zone that made it; empty for what global made.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.kri.zone
    }

    /// The name given by whoever made it.
    #[must_use]
    pub fn display_name(&self) -> &str {
        &self.kri.name
    }
}

fn read_port(kri: &Kri, port: &PortForm) -> Port {
    let name: Arc<str> = match &port.name {
        Some(name) if !name.is_empty() => name.as_str().into(),
        _ => port.port.to_string().into(),
    };
    let target = match &port.target_port {
        Some(Value::Number(number)) => TargetPort::Number(
            number
                .as_u64()
                .and_then(|n| u16::try_from(n).ok())
                .filter(|n| *n > 0)
                .unwrap_or(port.port),
        ),
        Some(Value::String(name)) if !name.is_empty() => TargetPort::Name(name.as_str().into()),
        _ => TargetPort::Number(port.port),
    };
    Port {
        sni: sni(
            kri.kind,
            &kri.mesh,
            Some(&kri.zone),
            Some(&kri.namespace),
            &kri.name,
            &name,
        )
        .into(),
        name,
        number: port.port,
        target,
        protocol: Protocol::parse(port.app_protocol.as_deref()),
    }
}
