//! The catalogue of one mesh as one zone sees it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use zonal_model::{Key, Kind, Kri, Labels, Resource, labels};

use crate::dataplane::DataplaneRecord;
use crate::form::ZoneAddressForm;
use crate::service::{Selector, Service, ServiceEndpoints};

/// One difference between two states of the store.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// It is there now, in this form.
    Put(&'a Resource),
    /// It is gone.
    Removed(&'a Key),
}

/// What a batch of changes did to the catalogue. Names without section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogueChanges {
    /// Services that came, went, or differ in anything but their endpoints.
    pub services: BTreeSet<Kri>,
    /// Services whose endpoints differ.
    pub endpoints: BTreeSet<Kri>,
}

impl CatalogueChanges {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.endpoints.is_empty()
    }
}

type LabelPair = (Arc<str>, Arc<str>);

/// Where an ingress of another zone is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ZoneAddress {
    pub(crate) zone: Arc<str>,
    pub(crate) address: Arc<str>,
    pub(crate) port: u16,
}

/// Services and endpoints of one mesh as one zone sees them, kept up to date change by change.
///
/// A clone shares everything that does not change, so keeping the catalogue of an earlier revision is cheap.
#[derive(Clone, Debug)]
pub struct MeshCatalogue {
    mesh: Arc<str>,
    pub(crate) zone: Arc<str>,
    pub(crate) services: OrdMap<Kri, Arc<Service>>,
    endpoints: OrdMap<Kri, Arc<ServiceEndpoints>>,
    service_by_key: OrdMap<Key, Kri>,
    services_by_name: OrdMap<(Kind, Arc<str>), OrdSet<Kri>>,
    /// Local services by one label pair of their selector, or by `("", name)` for a single dataplane.
    services_by_selector: OrdMap<LabelPair, OrdSet<Kri>>,
    multi_zone: OrdSet<Kri>,
    external: OrdSet<Kri>,
    pub(crate) dataplanes: OrdMap<Arc<str>, Arc<DataplaneRecord>>,
    dataplanes_by_label: OrdMap<LabelPair, OrdSet<Arc<str>>>,
    pub(crate) zone_addresses: OrdMap<Key, Arc<ZoneAddress>>,
    pub(crate) mesh_identities: OrdSet<Key>,
    unreadable: OrdSet<Key>,
    /// Addresses of host names that dataplanes and zone addresses use.
    pub(crate) resolved: OrdMap<Arc<str>, Arc<str>>,
}

impl MeshCatalogue {
    /// An empty catalogue.
    #[must_use]
    pub fn new(mesh: &str, zone: &str) -> Self {
        Self {
            mesh: mesh.into(),
            zone: zone.into(),
            services: OrdMap::new(),
            endpoints: OrdMap::new(),
            service_by_key: OrdMap::new(),
            services_by_name: OrdMap::new(),
            services_by_selector: OrdMap::new(),
            multi_zone: OrdSet::new(),
            external: OrdSet::new(),
            dataplanes: OrdMap::new(),
            dataplanes_by_label: OrdMap::new(),
            zone_addresses: OrdMap::new(),
            mesh_identities: OrdSet::new(),
            unreadable: OrdSet::new(),
            resolved: OrdMap::new(),
        }
    }

    /// The catalogue of all `resources` of the mesh; other meshes and kinds are passed over.
    pub fn of<'a>(
        mesh: &str,
        zone: &str,
        resources: impl IntoIterator<Item = &'a Resource>,
    ) -> Self {
        let mut catalogue = Self::new(mesh, zone);
        catalogue.apply(resources.into_iter().map(Change::Put));
        catalogue
    }

    /// The mesh.
    #[must_use]
    pub fn mesh(&self) -> &Arc<str> {
        &self.mesh
    }

    /// The zone whose view this is.
    #[must_use]
    pub fn zone(&self) -> &Arc<str> {
        &self.zone
    }

    /// All services in the order of their identifiers.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// One service; the identifier's section does not matter.
    #[must_use]
    pub fn service(&self, kri: &Kri) -> Option<&Arc<Service>> {
        match self.services.get(kri) {
            Some(service) => Some(service),
            None if kri.section.is_empty() => None,
            None => self.services.get(&kri.clone().without_section()),
        }
    }

    /// The service stored under that key.
    #[must_use]
    pub fn service_of_key(&self, key: &Key) -> Option<&Arc<Service>> {
        self.services.get(self.service_by_key.get(key)?)
    }

    /// The endpoints of a service as this zone's sidecars use them; the identifier's section does not matter. For an
    /// external service these are the zone's egresses.
    #[must_use]
    pub fn endpoints(&self, kri: &Kri) -> Arc<ServiceEndpoints> {
        let found = self
            .endpoints
            .get(kri)
            .or_else(|| self.endpoints.get(&kri.clone().without_section()));
        found.map(Arc::clone).unwrap_or_default()
    }

    /// The services of that kind with all these labels, oldest first. The display name also counts as a label where it
    /// is not written.
    #[must_use]
    pub fn find(&self, kind: Kind, wanted: &Labels) -> Vec<Arc<Service>> {
        let named = wanted.get(labels::DISPLAY_NAME).map(|name| {
            self.services_by_name
                .get(&(kind, name.as_str().into()))
                .cloned()
                .unwrap_or_default()
        });
        let matches = |service: &&Arc<Service>| {
            service.kri.kind == kind
                && wanted
                    .iter()
                    .all(|(key, value)| match service.labels.get(key) {
                        Some(have) => have == value,
                        None => key == labels::DISPLAY_NAME && service.kri.name == *value,
                    })
        };
        let mut found: Vec<Arc<Service>> = match named {
            Some(kris) => kris
                .iter()
                .filter_map(|kri| self.services.get(kri))
                .filter(matches)
                .cloned()
                .collect(),
            None => self.services.values().filter(matches).cloned().collect(),
        };
        found.sort_by(|a, b| (a.created, &a.kri).cmp(&(b.created, &b.kri)));
        found
    }

    /// One dataplane of this zone's store by stored name.
    #[must_use]
    pub fn dataplane(&self, name: &str) -> Option<&Arc<DataplaneRecord>> {
        self.dataplanes.get(name)
    }

    /// All dataplanes by stored name.
    pub fn dataplanes(&self) -> impl Iterator<Item = &Arc<DataplaneRecord>> {
        self.dataplanes.values()
    }

    /// The dataplanes that a local service consists of, by name.
    #[must_use]
    pub fn members(&self, service: &Service) -> Vec<Arc<DataplaneRecord>> {
        match &service.selector {
            Selector::None => Vec::new(),
            Selector::Dataplane(name) => self.dataplanes.get(name).cloned().into_iter().collect(),
            Selector::Labels(wanted) => {
                // The rarest pair leaves the least to look at.
                let smallest = wanted
                    .iter()
                    .map(|(key, value)| {
                        let pair = (Arc::from(key.as_str()), Arc::from(value.as_str()));
                        self.dataplanes_by_label.get(&pair)
                    })
                    .min_by_key(|names| names.map_or(0, OrdSet::len));
                match smallest {
                    None => self.dataplanes.values().cloned().collect(),
                    Some(None) => Vec::new(),
                    Some(Some(names)) => names
                        .iter()
                        .filter_map(|name| self.dataplanes.get(name))
                        .filter(|dataplane| {
                            service.selector.matches(&dataplane.name, &dataplane.labels)
                        })
                        .cloned()
                        .collect(),
                }
            }
        }
    }

    /// Dataplanes and services whose spec is not what their kind has; they are as if they were not there.
    pub fn unreadable(&self) -> impl Iterator<Item = &Key> {
        self.unreadable.iter()
    }

    /// Host names used as addresses that have no address yet: what stands there is offered to nobody until
    /// [`resolve`](Self::resolve) says where it is.
    #[must_use]
    pub fn unresolved_names(&self) -> BTreeSet<Arc<str>> {
        self.names()
            .into_iter()
            .filter(|name| !self.resolved.contains_key(name))
            .collect()
    }

    /// All host names used as addresses.
    #[must_use]
    pub fn names(&self) -> BTreeSet<Arc<str>> {
        let of_dataplanes = self.dataplanes.values().flat_map(|dataplane| {
            dataplane
                .inbounds
                .iter()
                .map(|inbound| &inbound.address)
                .chain(dataplane.listeners.iter().map(|listener| &listener.address))
        });
        let of_zones = self.zone_addresses.values().map(|zone| &zone.address);
        of_dataplanes
            .chain(of_zones)
            .filter(|address| !is_ip(address))
            .cloned()
            .collect()
    }

    /// Says where a host name is now, or that it is nowhere.
    pub fn resolve(&mut self, name: &str, address: Option<IpAddr>) -> CatalogueChanges {
        let before = self.resolved.get(name).cloned();
        let after: Option<Arc<str>> = address.map(|address| address.to_string().into());
        if before == after {
            return CatalogueChanges::default();
        }
        match after {
            Some(address) => self.resolved.insert(name.into(), address),
            None => self.resolved.remove(name),
        };
        // Names change rarely; finding out who uses one costs more than looking at all.
        let all: BTreeSet<Kri> = self.services.keys().cloned().collect();
        self.refresh(
            &Dirty {
                members: BTreeSet::new(),
                endpoints: all,
            },
            CatalogueChanges::default(),
        )
    }

    /// Takes changes over and says which services they touched.
    pub fn apply<'a>(&mut self, changes: impl IntoIterator<Item = Change<'a>>) -> CatalogueChanges {
        let mut dirty = Dirty::default();
        let mut said = CatalogueChanges::default();
        for change in changes {
            let (key, resource) = match change {
                Change::Put(resource) => (&resource.key, Some(resource)),
                Change::Removed(key) => (key, None),
            };
            if *key.mesh != *self.mesh {
                continue;
            }
            self.unreadable.remove(key);
            match key.kind {
                Kind::Dataplane => {
                    let record = resource.and_then(DataplaneRecord::read);
                    self.note_unreadable(key, resource.is_some() && record.is_none());
                    self.put_dataplane(&key.name, record, &mut dirty);
                }
                Kind::MeshService | Kind::MeshMultiZoneService | Kind::MeshExternalService => {
                    let service = resource.and_then(Service::read);
                    self.note_unreadable(key, resource.is_some() && service.is_none());
                    self.put_service(key, service, &mut dirty, &mut said);
                }
                Kind::MeshZoneAddress => {
                    let address = resource.and_then(|resource| self.read_zone_address(resource));
                    self.put_zone_address(key, address, &mut dirty);
                }
                Kind::MeshIdentity => {
                    let had = !self.mesh_identities.is_empty();
                    match resource {
                        Some(_) => self.mesh_identities.insert(key.clone()),
                        None => self.mesh_identities.remove(key),
                    };
                    if had == self.mesh_identities.is_empty() {
                        dirty.endpoints.extend(self.services.keys().cloned());
                    }
                }
                _ => {}
            }
        }
        self.refresh(&dirty, said)
    }

    fn note_unreadable(&mut self, key: &Key, is: bool) {
        if is {
            self.unreadable.insert(key.clone());
        }
    }

    fn put_dataplane(
        &mut self,
        name: &Arc<str>,
        record: Option<DataplaneRecord>,
        dirty: &mut Dirty,
    ) {
        let old = self.dataplanes.get(name).cloned();
        if old.as_deref() == record.as_ref() {
            return;
        }
        let new = record.map(Arc::new);
        for dataplane in [&old, &new].into_iter().flatten() {
            self.dirty_services_of(dataplane, dirty);
        }
        if let Some(old) = &old {
            for pair in pairs(&old.labels) {
                remove_from(&mut self.dataplanes_by_label, &pair, name);
            }
        }
        match new {
            None => {
                self.dataplanes.remove(name);
            }
            Some(new) => {
                for pair in pairs(&new.labels) {
                    self.dataplanes_by_label
                        .entry(pair)
                        .or_default()
                        .insert(Arc::clone(name));
                }
                self.dataplanes.insert(Arc::clone(name), new);
            }
        }
    }

    /// Marks the services that a dataplane is or was part of.
    fn dirty_services_of(&self, dataplane: &DataplaneRecord, dirty: &mut Dirty) {
        let own_name = (Arc::from(""), Arc::clone(&dataplane.name));
        let everything = (Arc::from(""), Arc::from(""));
        for pair in pairs(&dataplane.labels).chain([own_name, everything]) {
            for kri in self.services_by_selector.get(&pair).into_iter().flatten() {
                let selects = self.services.get(kri).is_some_and(|service| {
                    service.selector.matches(&dataplane.name, &dataplane.labels)
                });
                if selects {
                    self.dirty_service(kri, dirty);
                }
            }
        }
        if dataplane.listeners.iter().any(|listener| listener.egress) {
            dirty.endpoints.extend(self.external.iter().cloned());
        }
    }

    /// Marks a service and the multi-zone services it is part of.
    fn dirty_service(&self, kri: &Kri, dirty: &mut Dirty) {
        dirty.endpoints.insert(kri.clone());
        for multi_zone in &self.multi_zone {
            let contains = self
                .services
                .get(multi_zone)
                .is_some_and(|service| service.members.binary_search(kri).is_ok());
            if contains {
                dirty.endpoints.insert(multi_zone.clone());
            }
        }
    }

    fn put_service(
        &mut self,
        key: &Key,
        service: Option<Service>,
        dirty: &mut Dirty,
        said: &mut CatalogueChanges,
    ) {
        let old = self.service_of_key(key).cloned();
        if let (Some(old), Some(new)) = (&old, &service) {
            // Members and identities of a multi-zone service are computed, not read.
            let same = if new.kri.kind == Kind::MeshMultiZoneService {
                let mut read = (**old).clone();
                read.members.clear();
                read.identities.clear();
                read == *new
            } else {
                **old == *new
            };
            if same {
                return;
            }
        }
        for service in old.as_deref().into_iter().chain(&service) {
            said.services.insert(service.kri.clone());
            dirty.endpoints.insert(service.kri.clone());
            match service.kri.kind {
                Kind::MeshService => {
                    for kri in &self.multi_zone {
                        let selects = self.services.get(kri).is_some_and(|multi_zone| {
                            multi_zone
                                .selector
                                .matches(&service.key.name, &service.labels)
                        });
                        if selects {
                            dirty.members.insert(kri.clone());
                        }
                    }
                }
                Kind::MeshMultiZoneService => {
                    dirty.members.insert(service.kri.clone());
                }
                _ => {}
            }
        }
        if let Some(old) = old {
            self.forget_service(&old);
        }
        if let Some(service) = service {
            self.remember_service(service);
        }
    }

    fn forget_service(&mut self, service: &Service) {
        let kri = &service.kri;
        self.services.remove(kri);
        self.service_by_key.remove(&service.key);
        let name = (kri.kind, Arc::from(service.display_name()));
        if let Some(kris) = self.services_by_name.get_mut(&name) {
            kris.remove(kri);
        }
        if let Some(pair) = selector_pair(service) {
            remove_from(&mut self.services_by_selector, &pair, kri);
        }
        self.multi_zone.remove(kri);
        self.external.remove(kri);
    }

    fn remember_service(&mut self, service: Service) {
        let kri = service.kri.clone();
        match kri.kind {
            Kind::MeshMultiZoneService => {
                self.multi_zone.insert(kri.clone());
            }
            Kind::MeshExternalService => {
                self.external.insert(kri.clone());
            }
            _ => {}
        }
        if let Some(pair) = selector_pair(&service) {
            self.services_by_selector
                .entry(pair)
                .or_default()
                .insert(kri.clone());
        }
        let name = (kri.kind, Arc::from(service.display_name()));
        self.services_by_name
            .entry(name)
            .or_default()
            .insert(kri.clone());
        self.service_by_key.insert(service.key.clone(), kri.clone());
        self.services.insert(kri, Arc::new(service));
    }

    /// The address of another zone's ingress; `None` for our own, and for one whose zone is not known.
    fn read_zone_address(&self, resource: &Resource) -> Option<ZoneAddress> {
        let zone = resource.zone().filter(|zone| *zone != &*self.zone)?;
        let spec: ZoneAddressForm = resource.spec.typed().ok()?;
        Some(ZoneAddress {
            zone: zone.into(),
            address: spec.address.into(),
            port: spec.port,
        })
    }

    fn put_zone_address(&mut self, key: &Key, address: Option<ZoneAddress>, dirty: &mut Dirty) {
        let old = self.zone_addresses.get(key).cloned();
        if old.as_deref() == address.as_ref() {
            return;
        }
        let zones: BTreeSet<Arc<str>> = old
            .as_deref()
            .into_iter()
            .chain(&address)
            .map(|address| Arc::clone(&address.zone))
            .collect();
        match address {
            Some(address) => self.zone_addresses.insert(key.clone(), Arc::new(address)),
            None => self.zone_addresses.remove(key),
        };
        for service in self.services.values() {
            if !service.local && zones.contains(service.zone()) {
                self.dirty_service(&service.kri, dirty);
            }
        }
    }

    /// Computes again what changes left uncertain, and notes what really differs.
    fn refresh(&mut self, dirty: &Dirty, mut said: CatalogueChanges) -> CatalogueChanges {
        let mut endpoints = dirty.endpoints.clone();
        for kri in &dirty.members {
            if self.refresh_members(kri) {
                said.services.insert(kri.clone());
            }
            endpoints.insert(kri.clone());
        }
        for kri in endpoints {
            let old = self.endpoints.get(&kri).cloned();
            let new = self
                .services
                .get(&kri)
                .map(|service| self.find_endpoints(service));
            if old.as_deref() == new.as_ref() {
                continue;
            }
            match new {
                Some(new) => self.endpoints.insert(kri.clone(), Arc::new(new)),
                None => self.endpoints.remove(&kri),
            };
            said.endpoints.insert(kri);
        }
        said
    }

    /// Finds the members of a multi-zone service and what callers have to accept; whether that differs from before.
    fn refresh_members(&mut self, kri: &Kri) -> bool {
        let Some(service) = self.services.get(kri) else {
            return false;
        };
        let mut members = Vec::new();
        let mut identities: BTreeSet<Arc<str>> = BTreeSet::new();
        for member in self.services.values() {
            if member.kri.kind == Kind::MeshService
                && service.selector.matches(&member.key.name, &member.labels)
            {
                members.push(member.kri.clone());
                identities.extend(member.identities.iter().cloned());
            }
        }
        let identities: Vec<Arc<str>> = identities.into_iter().collect();
        if service.members == members && service.identities == identities {
            return false;
        }
        let mut service = Service::clone(service);
        service.members = members;
        service.identities = identities;
        self.services.insert(kri.clone(), Arc::new(service));
        true
    }
}

/// Services whose parts have to be computed again.
#[derive(Debug, Default)]
struct Dirty {
    /// Multi-zone services with other members or members' identities.
    members: BTreeSet<Kri>,
    /// Services with other endpoints.
    endpoints: BTreeSet<Kri>,
}

pub(crate) fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

fn pairs(labels: &Labels) -> impl Iterator<Item = LabelPair> {
    labels
        .iter()
        .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
}

/// The pair under which a local service is found from its dataplanes.
fn selector_pair(service: &Service) -> Option<LabelPair> {
    if service.kri.kind != Kind::MeshService || !service.local {
        return None;
    }
    match &service.selector {
        Selector::None => None,
        Selector::Dataplane(name) => Some(("".into(), Arc::clone(name))),
        Selector::Labels(wanted) => {
            let pair = wanted
                .get_key_value(labels::WORKLOAD)
                .or_else(|| wanted.iter().next());
            Some(pair.map_or_else(
                || ("".into(), "".into()),
                |(key, value)| (key.as_str().into(), value.as_str().into()),
            ))
        }
    }
}

fn remove_from<K: Ord + Clone, V: Ord + Clone>(
    index: &mut OrdMap<K, OrdSet<V>>,
    key: &K,
    value: &V,
) {
    if let Some(set) = index.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            index.remove(key);
        }
    }
}
