//! Which services one proxy can reach, and at which of its own addresses.

use std::collections::BTreeSet;
use std::sync::Arc;

use zonal_model::{Kind, Kri, Labels, Resource, labels};

use crate::form::{BackendRefForm, DataplaneForm};
use crate::mesh::MeshCatalogue;
use crate::service::{Port, Service};

/// How a proxy catches what its workload sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboundMode {
    /// It listens at the addresses that its dataplane lists.
    Listed,
    /// It listens, really or by redirection, at the virtual addresses of everything it may reach.
    Virtual,
}

/// What a dataplane says about the services it wants.
#[derive(Clone, Debug, Default)]
pub struct ProxyReach {
    listed: Vec<Listed>,
    /// `None` without `transparentProxying`; inside, `None` without `reachableBackends`.
    reachable: Option<Option<Vec<Reference>>>,
    own: BTreeSet<(Arc<str>, u16)>,
}

#[derive(Clone, Debug)]
struct Listed {
    address: Arc<str>,
    port: u16,
    reference: Reference,
}

/// A reference to services, brought to labels.
#[derive(Clone, Debug)]
struct Reference {
    kind: Kind,
    labels: Labels,
    port: Option<u16>,
}

/// One address at which a proxy takes traffic for a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Outbound {
    /// The proxy's listening address, or the service's virtual one.
    pub address: Arc<str>,
    /// The port there.
    pub port: u16,
    /// The name of listener, cluster and endpoints. Its section is the port's name for virtual addresses, and what the
    /// dataplane wrote (the number, or nothing) for listed ones.
    pub kri: Kri,
    /// The service.
    pub service: Arc<Service>,
    /// Its port.
    pub service_port: Port,
}

impl Outbound {
    /// The destination as policies and endpoints know it: with the port's name.
    #[must_use]
    pub fn destination(&self) -> Kri {
        self.service.port_kri(&self.service_port)
    }
}

impl ProxyReach {
    /// Reads a Dataplane; `None` where its spec is not one.
    #[must_use]
    pub fn read(dataplane: &Resource) -> Option<Self> {
        let spec: DataplaneForm = dataplane.spec.typed().ok()?;
        let namespace = dataplane.label(labels::NAMESPACE);
        let networking = spec.networking;
        let own = networking
            .inbound
            .iter()
            .map(|inbound| {
                let address = match inbound.address.as_deref() {
                    Some(address) if !address.is_empty() => address,
                    _ => networking.address.as_str(),
                };
                (Arc::from(address), inbound.port)
            })
            .collect();
        let listed = networking
            .outbound
            .iter()
            .filter_map(|outbound| {
                let reference = Reference::read(outbound.backend_ref.as_ref()?, namespace)?;
                let address = match outbound.address.as_deref() {
                    Some(address) if !address.is_empty() => address,
                    _ => "127.0.0.1",
                };
                Some(Listed {
                    address: address.into(),
                    port: outbound.port,
                    reference,
                })
            })
            .collect();
        let reachable = networking.transparent_proxying.map(|transparent| {
            transparent.reachable_backends.map(|reachable| {
                reachable
                    .refs
                    .iter()
                    .filter_map(|form| Reference::read(form, namespace))
                    .collect()
            })
        });
        Some(Self {
            listed,
            reachable,
            own,
        })
    }

    /// The addresses at which the proxy takes traffic, in the order of their names.
    #[must_use]
    pub fn outbounds(&self, catalogue: &MeshCatalogue, mode: OutboundMode) -> Vec<Outbound> {
        let mut outbounds = match mode {
            OutboundMode::Listed => self.listed(catalogue),
            OutboundMode::Virtual => self.virtual_ones(catalogue),
        };
        outbounds.sort_by(|a, b| (&a.kri, &a.address, a.port).cmp(&(&b.kri, &b.address, b.port)));
        outbounds
    }

    /// The services on which the outbounds depend: every change of another one leaves them as they are. `None` means
    /// all of the mesh.
    #[must_use]
    pub fn services(&self, catalogue: &MeshCatalogue, mode: OutboundMode) -> Option<BTreeSet<Kri>> {
        match mode {
            OutboundMode::Virtual if self.selected(catalogue).is_none() => None,
            _ => Some(
                self.outbounds(catalogue, mode)
                    .into_iter()
                    .map(|outbound| outbound.service.kri.clone())
                    .collect(),
            ),
        }
    }

    /// Whether a service could be one that the dataplane names: then its coming, going or relabelling may change what
    /// the names mean.
    #[must_use]
    pub fn may_mean(&self, service: &Service) -> bool {
        let named = |reference: &Reference| reference.matches(service);
        self.listed.iter().any(|listed| named(&listed.reference))
            || match &self.reachable {
                Some(Some(references)) => references.iter().any(named),
                Some(None) | None => self.listed.is_empty(),
            }
    }

    fn listed(&self, catalogue: &MeshCatalogue) -> Vec<Outbound> {
        self.listed
            .iter()
            .filter_map(|listed| {
                let reference = &listed.reference;
                let service = catalogue
                    .find(reference.kind, &reference.labels)
                    .into_iter()
                    .next()?;
                let (section, port) = match reference.port {
                    Some(number) => {
                        let section = number.to_string();
                        let port = service.port(&section)?.clone();
                        (section, port)
                    }
                    None => match service.ports.as_slice() {
                        [only] => (String::new(), only.clone()),
                        _ => return None,
                    },
                };
                Some(Outbound {
                    address: Arc::clone(&listed.address),
                    port: listed.port,
                    kri: service.kri.clone().with_section(section),
                    service,
                    service_port: port,
                })
            })
            .collect()
    }

    fn virtual_ones(&self, catalogue: &MeshCatalogue) -> Vec<Outbound> {
        let selected = self.selected(catalogue);
        let mut outbounds = Vec::new();
        for service in catalogue.services() {
            for port in &service.ports {
                let kri = service.port_kri(port);
                let wanted = selected
                    .as_ref()
                    .is_none_or(|chosen| chosen.contains(&kri) || chosen.contains(&service.kri));
                if !wanted {
                    continue;
                }
                for vip in &service.vips {
                    let address: Arc<str> = vip.to_string().into();
                    if self.own.contains(&(Arc::clone(&address), port.number)) {
                        continue;
                    }
                    outbounds.push(Outbound {
                        address,
                        port: port.number,
                        kri: kri.clone(),
                        service: Arc::clone(service),
                        service_port: port.clone(),
                    });
                }
            }
        }
        outbounds
    }

    /// The services, or single ports of them, to which a transparent proxy is restricted.
    fn selected(&self, catalogue: &MeshCatalogue) -> Option<BTreeSet<Kri>> {
        let reachable = self.reachable.as_ref()?;
        let listed: Vec<Reference> = self
            .listed
            .iter()
            .map(|listed| listed.reference.clone())
            .collect();
        let listed = resolve_all(catalogue, &listed);
        if !listed.is_empty() {
            return Some(listed);
        }
        reachable
            .as_ref()
            .map(|references| resolve_all(catalogue, references))
    }
}

fn resolve_all(catalogue: &MeshCatalogue, references: &[Reference]) -> BTreeSet<Kri> {
    let mut kris = BTreeSet::new();
    for reference in references {
        for service in catalogue.find(reference.kind, &reference.labels) {
            match reference.port {
                None => {
                    kris.insert(service.kri.clone());
                }
                Some(number) => {
                    if let Some(port) = service.port(&number.to_string()) {
                        kris.insert(service.port_kri(port));
                    }
                }
            }
        }
    }
    kris
}

impl Reference {
    fn read(form: &BackendRefForm, own_namespace: Option<&str>) -> Option<Self> {
        let kind = match form.kind.as_str() {
            "MeshService" => Kind::MeshService,
            "MeshMultiZoneService" => Kind::MeshMultiZoneService,
            "MeshExternalService" => Kind::MeshExternalService,
            _ => return None,
        };
        let port = form.port.filter(|port| *port > 0);
        if !form.labels.is_empty() {
            return Some(Self {
                kind,
                labels: form.labels.clone(),
                port,
            });
        }
        if form.name.is_empty() {
            return None;
        }
        let mut labels = Labels::from([(labels::DISPLAY_NAME.to_owned(), form.name.clone())]);
        let namespace = Some(form.namespace.as_str())
            .filter(|n| !n.is_empty())
            .or(own_namespace);
        if let Some(namespace) = namespace {
            labels.insert(labels::NAMESPACE.to_owned(), namespace.to_owned());
        }
        Some(Self { kind, labels, port })
    }

    fn matches(&self, service: &Service) -> bool {
        service.kri.kind == self.kind
            && self
                .labels
                .iter()
                .all(|(key, value)| match service.labels.get(key) {
                    Some(have) => have == value,
                    None => key == labels::DISPLAY_NAME && service.kri.name == *value,
                })
    }
}
