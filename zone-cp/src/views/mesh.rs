//! What the engine keeps of one mesh, brought up to date change by change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use zonal_catalogue::{
    CatalogueChanges, Change as CatalogueChange, Dependency, MeshCatalogue, OutboundMode,
    ProxyReach,
};
use zonal_model::{Key, Kind, Kri, Resource};
use zonal_policy::{Policies, Subject, Targets};
use zonal_store::{Change, Snapshot};
use zonal_xds::TrustDomain;

/// One mesh as this zone sees it.
#[derive(Debug)]
pub(super) struct MeshState {
    pub(super) catalogue: MeshCatalogue,
    pub(super) policies: Policies,
    pub(super) targets: Arc<Targets>,
    pub(super) trust: Vec<TrustDomain>,
    /// Some policy injects faults into somebody.
    pub(super) faults_exist: bool,
}

/// Whom a batch of changes of one mesh concerns.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Every proxy of the mesh.
    pub(super) everyone: bool,
    /// Those that depend on any of these.
    pub(super) dependencies: BTreeSet<Dependency>,
    /// Policies before and after, to be matched with each proxy.
    pub(super) policies: Vec<Resource>,
    /// Services that are new or relabelled: a proxy may mean one of them by a name that meant nothing before.
    pub(super) services: Vec<Kri>,
    /// What references in policies can mean has changed.
    pub(super) targets: bool,
}

impl Touched {
    pub(super) fn is_empty(&self) -> bool {
        !self.everyone
            && self.dependencies.is_empty()
            && self.policies.is_empty()
            && self.services.is_empty()
            && !self.targets
    }

    fn note(&mut self, moved: CatalogueChanges) {
        for kri in moved.services.iter().chain(&moved.endpoints) {
            self.dependencies.insert(Dependency::Service(kri.clone()));
            self.dependencies
                .insert(Dependency::AllServices(kri.mesh.clone()));
        }
        self.services.extend(moved.services);
    }
}

impl MeshState {
    /// Reads a whole mesh.
    pub(super) fn read(mesh: &str, zone: &str, snapshot: &Snapshot) -> Self {
        let of_mesh = |kind: &Kind| {
            snapshot
                .list_in_mesh(*kind, mesh)
                .map(|stored| &stored.resource)
                .collect::<Vec<_>>()
        };
        Self {
            catalogue: MeshCatalogue::of(mesh, zone, Kind::ALL.iter().flat_map(of_mesh)),
            policies: Policies::new(Kind::ALL.iter().flat_map(of_mesh)),
            targets: Arc::new(Targets::new(mesh, Kind::ALL.iter().flat_map(of_mesh))),
            trust: read_trust(mesh, snapshot),
            faults_exist: any_faults(mesh, snapshot),
        }
    }

    /// Takes the mesh's changes over and says whom they concern.
    pub(super) fn apply(
        &mut self,
        mesh: &str,
        changes: &[&Change],
        snapshot: &Snapshot,
    ) -> Touched {
        let mut touched = Touched::default();
        let mut targets_changed = false;
        let mut trust_changed = false;
        for change in changes {
            let kind = change.key.kind;
            let said = |resource: &Option<Arc<zonal_store::Stored>>| {
                resource.as_ref().map(|stored| stored.resource.clone())
            };
            if kind.descriptor().policy.is_some() {
                match &change.new {
                    Some(stored) => self.policies.put(&stored.resource),
                    None => self.policies.remove(&change.key),
                }
                touched.policies.extend(said(&change.old));
                touched.policies.extend(said(&change.new));
            }
            match kind {
                Kind::MeshHTTPRoute => targets_changed = true,
                Kind::MeshService | Kind::MeshMultiZoneService | Kind::MeshExternalService => {
                    targets_changed |= is_other_target(change);
                }
                Kind::MeshTrust => trust_changed = true,
                Kind::MeshFaultInjection => {
                    let exist = any_faults(mesh, snapshot);
                    touched.everyone |= exist != self.faults_exist;
                    self.faults_exist = exist;
                }
                Kind::MeshIdentity => touched.everyone = true,
                Kind::Dataplane => {
                    touched
                        .dependencies
                        .insert(Dependency::Resource(change.key.clone()));
                }
                // Authorities' keys: who holds a certificate of theirs depends on them.
                Kind::Secret => {
                    touched
                        .dependencies
                        .insert(Dependency::Resource(change.key.clone()));
                }
                _ => {}
            }
        }
        touched.targets = targets_changed;
        if targets_changed {
            let of_mesh = |kind: &Kind| {
                snapshot
                    .list_in_mesh(*kind, mesh)
                    .map(|stored| &stored.resource)
                    .collect::<Vec<_>>()
            };
            self.targets = Arc::new(Targets::new(mesh, Kind::ALL.iter().flat_map(of_mesh)));
        }
        if trust_changed {
            let trust = read_trust(mesh, snapshot);
            if trust != self.trust {
                self.trust = trust;
                touched.everyone = true;
            }
        }
        let moved = self
            .catalogue
            .apply(changes.iter().map(|change| match &change.new {
                Some(stored) => CatalogueChange::Put(&stored.resource),
                None => CatalogueChange::Removed(&change.key),
            }));
        touched.note(moved);
        touched
    }

    /// Takes over where a host name is and says whom it concerns.
    pub(super) fn resolve(&mut self, name: &str, address: Option<IpAddr>) -> Touched {
        let mut touched = Touched::default();
        touched.note(self.catalogue.resolve(name, address));
        touched
    }

    /// Whether a proxy could mean one of the services by what its Dataplane names.
    pub(super) fn may_mean(&self, reach: &ProxyReach, services: &[Kri]) -> bool {
        services
            .iter()
            .filter_map(|kri| self.catalogue.service(kri))
            .any(|service| reach.may_mean(service))
    }

    /// Whether one of the policies touches a proxy. A policy that cannot be read touches nobody.
    pub(super) fn any_selects(&self, policies: &[Resource], subject: &Subject) -> bool {
        policies.iter().any(|resource| {
            zonal_policy::Policy::read(resource)
                .is_ok_and(|policy| policy.touches(&self.policies, subject))
        })
    }

    /// What a proxy's configuration is made from, so that a change of anything else leaves it alone.
    pub(super) fn dependencies(
        &self,
        dataplane: &Key,
        reach: &ProxyReach,
        mode: OutboundMode,
        also: impl IntoIterator<Item = Kri>,
        is_ingress: bool,
    ) -> BTreeSet<Dependency> {
        let mut dependencies = BTreeSet::from([Dependency::Resource(dataplane.clone())]);
        match reach.services(&self.catalogue, mode) {
            Some(services) if !is_ingress => {
                dependencies.extend(services.into_iter().map(Dependency::Service));
            }
            _ => {
                dependencies.insert(Dependency::AllServices(dataplane.mesh.to_string()));
            }
        }
        dependencies.extend(
            also.into_iter()
                .map(|kri| Dependency::Service(kri.without_section())),
        );
        dependencies
    }
}

/// Whether a service changed in what references can name: its labels or ports, and not just its status.
fn is_other_target(change: &Change) -> bool {
    match (&change.old, &change.new) {
        (Some(old), Some(new)) => {
            let (old, new) = (&old.resource, &new.resource);
            old.meta.labels != new.meta.labels
                || old.spec.to_value().get("ports") != new.spec.to_value().get("ports")
                || old.spec.to_value().get("match") != new.spec.to_value().get("match")
        }
        _ => true,
    }
}

fn any_faults(mesh: &str, snapshot: &Snapshot) -> bool {
    snapshot
        .list_in_mesh(Kind::MeshFaultInjection, mesh)
        .next()
        .is_some()
}

/// The trust domains of a mesh, by name, each with all its authorities. A bundle that no proxy would take is left out:
/// one broken MeshTrust must not take the others' trust away.
fn read_trust(mesh: &str, snapshot: &Snapshot) -> Vec<TrustDomain> {
    let mut domains: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for stored in snapshot.list_in_mesh(Kind::MeshTrust, mesh) {
        let spec = stored.resource.spec.to_value();
        let Some(domain) = spec.get("trustDomain").and_then(Value::as_str) else {
            continue;
        };
        let bundles = spec.get("caBundles").and_then(Value::as_array);
        for pem in bundles
            .into_iter()
            .flatten()
            .filter_map(|bundle| bundle.pointer("/pem/value"))
        {
            let Some(pem) = pem.as_str() else { continue };
            match zonal_identity::Bundle::parse(pem) {
                Ok(bundle) if !bundle.is_empty() => {
                    domains
                        .entry(domain.to_owned())
                        .or_default()
                        .push(bundle.to_pem());
                }
                Ok(_) | Err(_) => tracing::warn!(
                    mesh,
                    name = %stored.resource.key.name,
                    "MeshTrust has a bundle without a usable certificate: it is left out"
                ),
            }
        }
    }
    domains
        .into_iter()
        .map(|(name, authorities_pem)| TrustDomain {
            name,
            authorities_pem,
        })
        .collect()
}
