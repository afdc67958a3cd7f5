//! Where each service is reached: proxies of this zone directly, those of others through their ingresses.

use std::collections::BTreeMap;
use std::sync::Arc;

use zonal_model::{Kind, Labels, labels};

use crate::dataplane::Readiness;
use crate::mesh::{MeshCatalogue, is_ip};
use crate::service::{Endpoint, Service, ServiceEndpoints, Way};

/// A tag of older versions that says nothing any more.
const SERVICE_TAG: &str = "kuma.io/service";
/// The key under which an endpoint's metadata names what is spoken there.
const PROTOCOL_TAG: &str = "kuma.io/protocol";

impl MeshCatalogue {
    pub(crate) fn find_endpoints(&self, service: &Service) -> ServiceEndpoints {
        let mut by_port: BTreeMap<Arc<str>, Vec<Endpoint>> = service
            .ports
            .iter()
            .map(|port| (Arc::clone(&port.name), Vec::new()))
            .collect();
        match service.kri.kind {
            Kind::MeshMultiZoneService => {
                for kri in &service.members {
                    let Some(member) = self.services.get(kri) else {
                        continue;
                    };
                    if !member.local && !member.available {
                        continue;
                    }
                    // Members come before multi-zone services in the order of kinds, so theirs are up to date.
                    for (name, endpoints) in self.endpoints(kri).ports() {
                        if let Some(list) = by_port.get_mut(name) {
                            list.extend(endpoints.iter().cloned());
                        }
                    }
                }
            }
            Kind::MeshExternalService => {
                let egresses = self.egresses(&service.labels);
                for list in by_port.values_mut() {
                    list.clone_from(&egresses);
                }
            }
            _ if service.local => self.add_direct(service, &mut by_port),
            _ if service.identities.is_empty() || self.mesh_identities.is_empty() => {}
            _ => {
                let ingresses = self.ingresses(service.zone());
                for list in by_port.values_mut() {
                    list.clone_from(&ingresses);
                }
            }
        }
        ServiceEndpoints::new(by_port)
    }

    fn add_direct(&self, service: &Service, by_port: &mut BTreeMap<Arc<str>, Vec<Endpoint>>) {
        for dataplane in self.members(service) {
            for port in &service.ports {
                let Some(inbound) = dataplane.serving(&port.target) else {
                    continue;
                };
                if inbound.readiness != Readiness::Ready {
                    continue;
                }
                let Some(address) = self.address(&inbound.address) else {
                    continue;
                };
                let mut metadata = (*dataplane.labels).clone();
                metadata.remove(SERVICE_TAG);
                if inbound.protocol_named {
                    metadata.insert(
                        PROTOCOL_TAG.to_owned(),
                        inbound.protocol.as_str().to_owned(),
                    );
                }
                if let Some(list) = by_port.get_mut(&port.name) {
                    list.push(Endpoint {
                        zone: dataplane.zone.clone(),
                        address,
                        port: inbound.port,
                        priority: 0,
                        metadata: Arc::new(metadata),
                        way: Way::Direct(Arc::clone(&dataplane.name)),
                    });
                }
            }
        }
    }

    /// Where the ingresses of a zone are.
    fn ingresses(&self, zone: &str) -> Vec<Endpoint> {
        let metadata = Arc::new(Labels::from([(labels::ZONE.to_owned(), zone.to_owned())]));
        self.zone_addresses
            .values()
            .filter(|address| *address.zone == *zone)
            .filter_map(|address| {
                Some(Endpoint {
                    zone: Some(Arc::clone(&address.zone)),
                    address: self.address(&address.address)?,
                    port: address.port,
                    priority: 1,
                    metadata: Arc::clone(&metadata),
                    way: Way::Ingress,
                })
            })
            .collect()
    }

    /// Where the egresses of this zone are.
    fn egresses(&self, labels: &Labels) -> Vec<Endpoint> {
        let metadata = Arc::new(labels.clone());
        self.dataplanes
            .values()
            .filter(|dataplane| {
                dataplane
                    .zone
                    .as_ref()
                    .is_none_or(|zone| *zone == self.zone)
            })
            .flat_map(|dataplane| &dataplane.listeners)
            .filter(|listener| listener.egress && listener.ready)
            .filter_map(|listener| {
                Some(Endpoint {
                    zone: None,
                    address: self.address(&listener.address)?,
                    port: listener.port,
                    priority: 0,
                    metadata: Arc::clone(&metadata),
                    way: Way::Egress,
                })
            })
            .collect()
    }

    fn address(&self, text: &Arc<str>) -> Option<Arc<str>> {
        if is_ip(text) {
            Some(Arc::clone(text))
        } else {
            self.resolved.get(text).cloned()
        }
    }
}
