//! What the zone derives from what it holds: services and workloads from dataplanes, addresses and names for services,
//! authorities for identities.
//!
//! All of it is computed in one go and written in one commit, so that a new workload is one revision with everything
//! that follows from it, and not a cascade of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::watch;
use tracing::{debug, warn};
use zonal_catalogue::derive::{self, Op as DerivedOp};
use zonal_catalogue::hostnames::{Generator, evaluate, with_hostnames};
use zonal_catalogue::identities::IdentityRecord;
use zonal_catalogue::vips::{Allocator, Range, with_vip};
use zonal_catalogue::{MeshCatalogue, status};
use zonal_model::{Key, Kind, Resource, labels};
use zonal_process::{CancellationToken, Clock};
use zonal_store::{Batch, Change, Expect, Op, Revision, Snapshot, Store, StoreError};

use crate::authorities::Authorities;
use crate::insights::is_online;
use crate::metrics::ZoneMetrics;

const DESTINATIONS: [Kind; 3] = [
    Kind::MeshService,
    Kind::MeshMultiZoneService,
    Kind::MeshExternalService,
];

/// How often what follows from a change is derived again, because what was written, or what others wrote meanwhile, has
/// consequences of its own. Two or three times is usual.
const ROUNDS_MAX: usize = 32;

/// Up to where everything that follows has been derived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Revisions up to this one have been looked at.
    pub seen: Revision,
    /// What followed from them is in this revision, or earlier.
    pub written: Revision,
}

/// Derives and writes until told to stop. One per zone: replicas elect who does it.
pub(crate) struct Controllers {
    settings: derive::Settings,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    authorities: Authorities,
    /// When an authority has to be replaced.
    authorities_due: Option<Timestamp>,
    allocators: BTreeMap<Kind, Allocator>,
    settled: watch::Sender<Settled>,
    metrics: ZoneMetrics,
}

impl std::fmt::Debug for Controllers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controllers")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Controllers {
    /// Puts them together; the receiver tells how far they have come.
    #[must_use]
    pub(crate) fn new(
        settings: derive::Settings,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
    ) -> (Self, watch::Receiver<Settled>) {
        let (settled, receiver) = watch::channel(Settled::default());
        let allocators = DESTINATIONS
            .iter()
            .filter_map(|kind| Some((*kind, Allocator::new(Range::default_of(*kind)?))))
            .collect();
        let controllers = Self {
            settings,
            store,
            clock,
            authorities: Authorities::default(),
            authorities_due: None,
            allocators,
            settled,
            metrics: ZoneMetrics::default(),
        };
        (controllers, receiver)
    }

    /// The same, counted.
    #[must_use]
    pub(crate) fn with_metrics(mut self, metrics: ZoneMetrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Works until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut watch = self.store.watch();
        let mut due = self.settle(&self.store.snapshot()).await;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changes = watch.next() => {
                    let Ok(changes) = changes else { return };
                    // Our own commit comes back here too; it is settled already.
                    if changes.to.revision() <= self.settled.borrow().written {
                        continue;
                    }
                    let relevant =
                        changes.list().iter().any(matters);
                    if relevant {
                        due = self.settle(&changes.to).await;
                    } else {
                        let seen = changes.to.revision();
                        self.settled.send_modify(|settled| settled.seen = settled.seen.max(seen));
                    }
                }
                () = self.clock.sleep_until(due) => due = self.settle(&self.store.snapshot()).await,
            }
        }
    }

    /// Derives and writes until nothing is left to write; when to look again if nothing changes.
    async fn settle(&mut self, from: &Arc<Snapshot>) -> Option<std::time::Instant> {
        let mut snapshot = Arc::clone(from);
        for _ in 0..ROUNDS_MAX {
            let now = self.clock.wall();
            let batch = self.derive(&snapshot, now);
            let seen = snapshot.revision();
            if batch.is_empty() {
                self.settled.send_modify(|settled| {
                    settled.seen = settled.seen.max(seen);
                });
                return self.next_due(&snapshot, now);
            }
            let count = batch.ops.len();
            match self.store.commit(batch).await {
                Ok(committed) => {
                    self.metrics.derived(count);
                    debug!(
                        count,
                        revision = committed.revision.0,
                        "derived resources are kept"
                    );
                    self.settled.send_modify(|settled| {
                        settled.seen = settled.seen.max(committed.revision);
                        settled.written = settled.written.max(committed.revision);
                    });
                    if committed.revision == seen {
                        return self.next_due(&snapshot, now);
                    }
                    snapshot = committed.snapshot;
                }
                Err(StoreError::Conflict { .. }) => {
                    let newest = self.store.snapshot();
                    if newest.revision() == seen {
                        // The conflict is not with something newer, so looking again would find the same.
                        warn!("derived resources are in conflict with what is kept");
                        return None;
                    }
                    snapshot = newest;
                }
                Err(error) => {
                    warn!(%error, "derived resources cannot be kept; tried again with the next change");
                    return None;
                }
            }
        }
        warn!("what is derived does not come to rest; going on with the next change");
        None
    }

    /// When time alone makes something due: a service without proxies goes, an authority is replaced.
    fn next_due(&self, snapshot: &Snapshot, now: Timestamp) -> Option<std::time::Instant> {
        let services: Vec<&Resource> = snapshot
            .list(Kind::MeshService)
            .map(|stored| &stored.resource)
            .collect();
        let removal = derive::next_removal(&services, &self.settings);
        let due = [removal, self.authorities_due]
            .into_iter()
            .flatten()
            .min()?;
        let wait = std::time::Duration::try_from(due.duration_since(now)).unwrap_or_default();
        Some(self.clock.now() + wait)
    }

    fn derive(&mut self, snapshot: &Snapshot, now: Timestamp) -> Batch {
        let mut draft = Draft::new(snapshot, now);
        let reconciled = self
            .authorities
            .reconcile(snapshot, &self.settings.zone, now);
        self.authorities_due = reconciled.due;
        draft.take(reconciled.batch);
        let meshes: Vec<Arc<str>> = snapshot
            .list(Kind::Mesh)
            .map(|mesh| Arc::clone(&mesh.resource.key.name))
            .collect();
        for mesh in &meshes {
            self.derive_mesh(mesh, &mut draft);
        }
        self.address_and_name(&mut draft);
        draft.into_batch()
    }

    /// Workloads and services from dataplanes, and the statuses that follow.
    fn derive_mesh(&self, mesh: &str, draft: &mut Draft<'_>) {
        let dataplanes = draft.list(Kind::Dataplane, mesh);
        let dataplanes: Vec<&Resource> = dataplanes.iter().map(|d| &**d).collect();
        let workloads = draft.list(Kind::Workload, mesh);
        let stored: Vec<&Resource> = workloads.iter().map(|w| &**w).collect();
        draft.derived(derive::workloads(
            mesh,
            &dataplanes,
            &stored,
            &self.settings,
        ));
        let services = draft.list(Kind::MeshService, mesh);
        let stored: Vec<&Resource> = services.iter().map(|s| &**s).collect();
        let now = draft.now;
        draft.derived(derive::mesh_services(
            mesh,
            &dataplanes,
            &stored,
            now,
            &self.settings,
        ));

        let identities: Vec<IdentityRecord> = draft
            .list(Kind::MeshIdentity, mesh)
            .iter()
            .filter_map(|identity| IdentityRecord::read(identity))
            .collect();
        let trusted: BTreeSet<String> = draft
            .list(Kind::MeshTrust, mesh)
            .iter()
            .filter_map(|trust| {
                trust
                    .spec
                    .to_value()
                    .get("trustDomain")
                    .and_then(Value::as_str)
                    .map(str::to_owned)
            })
            .collect();
        let online: BTreeSet<Arc<str>> = draft
            .snapshot
            .list_in_mesh(Kind::DataplaneInsight, mesh)
            .filter(|insight| is_online(&insight.resource))
            .map(|insight| Arc::clone(&insight.resource.key.name))
            .collect();
        let around = status::Surroundings {
            zone: &self.settings.zone,
            identities: &identities,
            trusted: &trusted,
            online: &online,
        };
        let services = draft.list(Kind::MeshService, mesh);
        let catalogue = MeshCatalogue::of(
            mesh,
            &self.settings.zone,
            dataplanes
                .iter()
                .copied()
                .chain(services.iter().map(|s| &**s)),
        );
        for service in &services {
            let Some(record) = catalogue.service_of_key(&service.key) else {
                continue;
            };
            let members = catalogue.members(record);
            draft.put(status::mesh_service(service, &members, &around));
        }
        let services = draft.list(Kind::MeshService, mesh);
        for multi_zone in draft.list(Kind::MeshMultiZoneService, mesh) {
            draft.put(status::multi_zone_service(
                &multi_zone,
                services.iter().map(|s| &**s),
            ));
        }
        for workload in draft.list(Kind::Workload, mesh) {
            let members: Vec<_> = catalogue
                .dataplanes()
                .filter(|dataplane| {
                    dataplane.labels.get(labels::WORKLOAD).map(String::as_str)
                        == Some(&*workload.key.name)
                })
                .cloned()
                .collect();
            draft.put(status::workload(&workload, &members, &online));
        }
    }

    /// Virtual addresses and host names of all destinations.
    fn address_and_name(&mut self, draft: &mut Draft<'_>) {
        for kind in DESTINATIONS {
            let services = draft.list_all(kind);
            if let Some(allocator) = self.allocators.get_mut(&kind) {
                allocator.retire(draft.going(kind));
                let assigned = allocator.assign(services.iter().map(|service| &**service));
                for service in &services {
                    if let Some(vip) = assigned.get(&service.key) {
                        let mut changed = Resource::clone(service);
                        changed.status = Some(with_vip(service, *vip));
                        draft.put(Some(changed));
                    }
                }
            }
            let generators: Vec<Generator> = draft
                .snapshot
                .list(Kind::HostnameGenerator)
                .filter_map(|stored| Generator::read(&stored.resource))
                .collect();
            let services = draft.list_all(kind);
            let of_kind: Vec<&Resource> = services.iter().map(|service| &**service).collect();
            let named = evaluate(&generators, &of_kind, &self.settings.zone);
            for service in &services {
                if let Some(names) = named.get(&service.key) {
                    draft.put(with_hostnames(service, names));
                }
            }
        }
    }
}

/// Whether something may follow from a change.
fn matters(change: &Change) -> bool {
    match change.key.kind {
        Kind::Mesh
        | Kind::Dataplane
        | Kind::MeshService
        | Kind::MeshMultiZoneService
        | Kind::MeshExternalService
        | Kind::MeshIdentity
        | Kind::MeshTrust
        | Kind::Secret
        | Kind::HostnameGenerator
        | Kind::Workload => true,
        // Only who is connected counts, not how many answers a proxy has given.
        Kind::DataplaneInsight => {
            let online = |stored: &Option<Arc<zonal_store::Stored>>| {
                stored
                    .as_ref()
                    .is_some_and(|stored| is_online(&stored.resource))
            };
            online(&change.old) != online(&change.new)
        }
        _ => false,
    }
}

/// A snapshot with what is to be written laid over it.
struct Draft<'a> {
    snapshot: &'a Snapshot,
    now: Timestamp,
    /// `None`: to be removed.
    written: BTreeMap<Key, Option<Arc<Resource>>>,
}

impl<'a> Draft<'a> {
    fn new(snapshot: &'a Snapshot, now: Timestamp) -> Self {
        Self {
            snapshot,
            now,
            written: BTreeMap::new(),
        }
    }

    fn put(&mut self, resource: Option<Resource>) {
        let Some(mut resource) = resource else { return };
        if self.snapshot.get(&resource.key).is_none() {
            // What is new is younger than everything that is there, where names go to the older one.
            resource.meta.creation_time = self.now;
        }
        self.written
            .insert(resource.key.clone(), Some(Arc::new(resource)));
    }

    fn derived(&mut self, ops: Vec<DerivedOp>) {
        for op in ops {
            match op {
                DerivedOp::Put(resource) => self.put(Some(resource)),
                DerivedOp::Remove(key) => {
                    self.written.insert(key, None);
                }
            }
        }
    }

    fn take(&mut self, batch: Batch) {
        for op in batch.ops {
            match op {
                Op::Put { resource, .. } => self.put(Some(resource)),
                Op::Remove { key, .. } => {
                    self.written.insert(key, None);
                }
            }
        }
    }

    /// What is removed of a kind.
    fn going(&self, kind: Kind) -> impl Iterator<Item = &Resource> {
        self.written
            .iter()
            .filter(move |(key, new)| key.kind == kind && new.is_none())
            .filter_map(|(key, _)| self.snapshot.get(key))
            .map(|stored| &stored.resource)
    }

    fn list(&self, kind: Kind, mesh: &str) -> Vec<Arc<Resource>> {
        self.over(kind, self.snapshot.list_in_mesh(kind, mesh), Some(mesh))
    }

    fn list_all(&self, kind: Kind) -> Vec<Arc<Resource>> {
        self.over(kind, self.snapshot.list(kind), None)
    }

    fn over<'b>(
        &self,
        kind: Kind,
        stored: impl Iterator<Item = &'b Arc<zonal_store::Stored>>,
        mesh: Option<&str>,
    ) -> Vec<Arc<Resource>> {
        let untouched = stored
            .filter(|stored| !self.written.contains_key(&stored.resource.key))
            .map(|stored| Arc::new(stored.resource.clone()));
        let written = self
            .written
            .iter()
            .filter(|(key, _)| key.kind == kind && mesh.is_none_or(|mesh| *key.mesh == *mesh))
            .filter_map(|(_, resource)| resource.clone());
        let mut all: Vec<Arc<Resource>> = untouched.chain(written).collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all
    }

    /// Each write only if nobody else wrote there meanwhile.
    fn into_batch(self) -> Batch {
        let mut batch = Batch::new();
        for (key, resource) in self.written {
            let stored = self.snapshot.get(&key);
            let expect = stored.map_or(Expect::Absent, |stored| Expect::Revision(stored.revision));
            batch = match resource {
                Some(resource) if stored.is_some_and(|s| !s.resource.differs(&resource)) => batch,
                Some(resource) => batch.put_if(Resource::clone(&resource), expect),
                None if stored.is_some() => batch.remove_if(key, expect),
                None => batch,
            };
        }
        batch
    }
}
