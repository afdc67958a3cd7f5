//! The one task that owns every view.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};
use zonal_catalogue::{Dependents, OutboundMode, ProxyReach};
use zonal_model::{Key, Kind, Kri};
use zonal_policy::{DataplanePolicies, Subject};
use zonal_process::{CancellationToken, Clock};
use zonal_store::{Change, Revision, Snapshot, Store, Watch};
use zonal_xds::{Cache, Dataplane, Identity, Node, Problem, ProxyView, feature, type_url};

use super::certificate::{self, Certificate};
use super::config::to_config;
use super::handle::{EngineHandle, INPUTS_MAX, Input, Progress, ProxyConfig, Session};
use super::mesh::{MeshState, Touched};
use super::place::{Placed, placed};
use crate::authorities::Authorities;
use crate::insights::{Insights, Report};
use crate::metrics::ZoneMetrics;
use crate::proxy::ProxyId;
use crate::receipts::Ledger;

/// Announced by our own ingress: it takes one small resource per server name instead of one large listener.
const FEATURE_INGRESS_ROUTES: &str = "feature-zonal-ingress-routes";

/// What an engine is told at the start.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// The zone.
    pub zone: Arc<str>,
}

struct Proxy {
    number: u64,
    node: Node,
    config: watch::Sender<Option<Arc<ProxyConfig>>>,
    superseded: CancellationToken,
    certificate: Option<Certificate>,
    reach: Option<ProxyReach>,
    subject: Option<Subject>,
    /// Policies route its traffic, so that a service that comes may be what a route means.
    is_routed: bool,
    /// Host names that its own Dataplane is placed at.
    host_names: BTreeSet<Arc<str>>,
    /// What was left out of its configuration, as the log says it.
    problems: BTreeSet<Problem>,
}

/// Turns changes of the store into configurations of proxies.
pub struct Engine {
    settings: EngineSettings,
    store: Arc<dyn Store>,
    watch: Watch,
    inputs: mpsc::Receiver<Input>,
    ledger: Arc<Mutex<Ledger>>,
    progress: watch::Sender<Progress>,
    clock: Arc<dyn Clock>,
    authorities: Authorities,
    snapshot: Arc<Snapshot>,
    meshes: BTreeMap<Arc<str>, MeshState>,
    proxies: BTreeMap<ProxyId, Proxy>,
    dependents: Dependents<ProxyId>,
    /// Where host names are.
    addresses: BTreeMap<Arc<str>, IpAddr>,
    cache: Cache,
    insights: Insights,
    metrics: ZoneMetrics,
    next_number: u64,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("proxies", &self.proxies.len())
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine over a store, and the handle by which streams reach it.
    #[must_use]
    pub fn new(
        settings: EngineSettings,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        insights: Insights,
    ) -> (Self, EngineHandle) {
        let (sender, inputs) = mpsc::channel(INPUTS_MAX);
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let (progress, progress_seen) = watch::channel(Progress::default());
        let watch = store.watch();
        let snapshot = store.snapshot();
        let mut engine = Self {
            settings,
            store,
            watch,
            inputs,
            ledger: Arc::clone(&ledger),
            progress,
            clock,
            authorities: Authorities::default(),
            snapshot: Arc::clone(&snapshot),
            meshes: BTreeMap::new(),
            proxies: BTreeMap::new(),
            dependents: Dependents::default(),
            addresses: BTreeMap::new(),
            cache: Cache::default(),
            insights,
            metrics: ZoneMetrics::default(),
            next_number: 1,
        };
        engine.read_authorities();
        for mesh in snapshot.list(Kind::Mesh) {
            engine.read_mesh(&mesh.resource.key.name);
        }
        engine.note(snapshot.revision(), BTreeSet::new());
        (
            engine,
            EngineHandle {
                inputs: sender,
                ledger,
                progress: progress_seen,
            },
        )
    }

    /// The same, counted.
    #[must_use]
    pub fn with_metrics(mut self, metrics: ZoneMetrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Works until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let renewal = self.next_renewal();
            let clock = Arc::clone(&self.clock);
            tokio::select! {
                () = stop.cancelled() => return,
                changes = self.watch.next() => match changes {
                    Ok(changes) => self.advance(changes.to),
                    Err(_closed) => return,
                },
                input = self.inputs.recv() => match input {
                    Some(input) => self.take(input),
                    None => return,
                },
                () = clock.sleep_until(renewal) => self.renew(),
            }
            // A thousand views may just have been rebuilt: let the others have their turn.
            tokio::task::yield_now().await;
        }
    }

    fn take(&mut self, input: Input) {
        let now = self.clock.wall();
        match input {
            Input::Connect { node, reply } => {
                // The proxy's own Dataplane was written just now: it must be in the snapshot we compute from.
                let newest = self.store.snapshot();
                self.advance(newest);
                let session = self.connect(node);
                // If the stream is gone already, its end is what it tells next.
                let _gone = reply.send(session);
            }
            Input::Disconnect { id, number } => {
                if self
                    .proxies
                    .get(&id)
                    .is_some_and(|proxy| proxy.number == number)
                {
                    self.proxies.remove(&id);
                    self.metrics.connected(self.proxies.len());
                    self.dependents.remove(&id);
                    self.ledger().disconnected(&id, now);
                    self.insights.report(id, Report::Disconnected { at: now });
                    self.bump();
                }
            }
            Input::Acked {
                id,
                number,
                reflects,
                still_refuses,
                sent,
            } => {
                if self
                    .proxies
                    .get(&id)
                    .is_some_and(|proxy| proxy.number == number)
                {
                    self.ledger().acked(&id, reflects, still_refuses, now);
                    self.insights.report(id, Report::Answered { sent, at: now });
                    self.bump();
                }
            }
            Input::Nacked {
                id,
                number,
                reflects,
                type_url,
                message,
            } => {
                if let Some(proxy) = self.proxies.get(&id)
                    && proxy.number == number
                {
                    self.ledger()
                        .nacked(&id, reflects, type_url.as_str(), &message);
                    self.bump();
                }
            }
            Input::Resolved { name, address } => self.resolved(&name, address),
            Input::Inspect { id, reply } => {
                let config = self
                    .proxies
                    .get(&id)
                    .and_then(|proxy| proxy.config.borrow().clone());
                let _gone = reply.send(config);
            }
        }
    }

    fn connect(&mut self, node: Node) -> Session {
        let id = ProxyId::new(&node.mesh, &node.name);
        let number = self.next_number;
        self.next_number += 1;
        let (config, newest) = watch::channel(None);
        let superseded = CancellationToken::new();
        let now = self.clock.wall();
        self.insights.report(
            id.clone(),
            Report::Connected {
                metadata: Box::new(node.metadata.clone()),
                at: now,
            },
        );
        let proxy = Proxy {
            number,
            node,
            config,
            superseded: superseded.clone(),
            certificate: None,
            reach: None,
            subject: None,
            is_routed: false,
            host_names: BTreeSet::new(),
            problems: BTreeSet::new(),
        };
        if let Some(older) = self.proxies.insert(id.clone(), proxy) {
            older.superseded.cancel();
        }
        self.metrics.connected(self.proxies.len());
        self.ledger().connected(id.clone());
        self.rebuild(&id);
        self.bump();
        Session {
            id,
            number,
            config: newest,
            superseded,
        }
    }

    /// Brings every view up to a newer snapshot.
    fn advance(&mut self, newest: Arc<Snapshot>) {
        if newest.revision() <= self.snapshot.revision() && newest.epoch() == self.snapshot.epoch()
        {
            return;
        }
        let changes = newest.changes_since(&self.snapshot);
        self.snapshot = newest;
        let authorities_changed = changes
            .iter()
            .any(|change| matches!(change.key.kind, Kind::MeshIdentity | Kind::Secret));
        if authorities_changed {
            self.read_authorities();
        }
        let mut affected = BTreeSet::new();
        let mut by_mesh: BTreeMap<Arc<str>, Vec<&Change>> = BTreeMap::new();
        for change in &changes {
            match change.key.kind {
                Kind::Mesh => self.mesh_changed(change, &mut affected),
                kind if concerns_proxies(kind) => {
                    by_mesh
                        .entry(Arc::clone(&change.key.mesh))
                        .or_default()
                        .push(change);
                }
                _ => {}
            }
        }
        for (mesh, changes) in by_mesh {
            if !self.meshes.contains_key(&mesh) {
                // Resources may come before their mesh; until then nobody is configured from them. A zone on its own
                // may also hold proxies of a mesh that is only now complete.
                self.read_mesh(&mesh);
                affected.extend(self.of_mesh(&mesh));
                continue;
            }
            let snapshot = Arc::clone(&self.snapshot);
            let Some(state) = self.meshes.get_mut(&mesh) else {
                continue;
            };
            let touched = state.apply(&mesh, &changes, &snapshot);
            affected.extend(self.concerned(&mesh, &touched));
        }
        let rebuilt: BTreeSet<ProxyId> =
            affected.into_iter().filter(|id| self.rebuild(id)).collect();
        debug!(
            revision = self.snapshot.revision().0,
            changes = changes.len(),
            proxies = rebuilt.len(),
            "views are up to date"
        );
        self.note(self.snapshot.revision(), rebuilt);
    }

    fn mesh_changed(&mut self, change: &Change, affected: &mut BTreeSet<ProxyId>) {
        let mesh = Arc::clone(&change.key.name);
        if change.new.is_some() {
            self.read_mesh(&mesh);
        } else {
            self.meshes.remove(&mesh);
        }
        affected.extend(self.of_mesh(&mesh));
    }

    fn read_mesh(&mut self, mesh: &Arc<str>) {
        let mut state = MeshState::read(mesh, &self.settings.zone, &self.snapshot);
        for (name, address) in &self.addresses {
            // Whoever asked for the reading rebuilds everyone.
            drop(state.resolve(name, Some(*address)));
        }
        self.meshes.insert(Arc::clone(mesh), state);
    }

    fn resolved(&mut self, name: &Arc<str>, address: Option<IpAddr>) {
        let before = match address {
            Some(address) => self.addresses.insert(Arc::clone(name), address),
            None => self.addresses.remove(name),
        };
        if before == address {
            return;
        }
        let touched: Vec<(Arc<str>, Touched)> = self
            .meshes
            .iter_mut()
            .map(|(mesh, state)| (Arc::clone(mesh), state.resolve(name, address)))
            .collect();
        let mut affected: BTreeSet<ProxyId> = self
            .proxies
            .iter()
            .filter(|(_, proxy)| proxy.host_names.contains(name))
            .map(|(id, _)| id.clone())
            .collect();
        for (mesh, touched) in touched {
            affected.extend(self.concerned(&mesh, &touched));
        }
        let rebuilt = affected.into_iter().filter(|id| self.rebuild(id)).collect();
        self.note(self.snapshot.revision(), rebuilt);
    }

    fn of_mesh(&self, mesh: &str) -> Vec<ProxyId> {
        self.proxies
            .keys()
            .filter(|id| *id.mesh == *mesh)
            .cloned()
            .collect()
    }

    /// The proxies whose configuration a batch of changes may alter.
    fn concerned(&self, mesh: &str, touched: &Touched) -> BTreeSet<ProxyId> {
        if touched.is_empty() {
            return BTreeSet::new();
        }
        if touched.everyone {
            return self.of_mesh(mesh).into_iter().collect();
        }
        let mut concerned = self.dependents.of(&touched.dependencies);
        if touched.policies.is_empty() && touched.services.is_empty() && !touched.targets {
            return concerned;
        }
        let Some(state) = self.meshes.get(mesh) else {
            return concerned;
        };
        for (id, proxy) in self.proxies.iter().filter(|(id, _)| *id.mesh == *mesh) {
            if concerned.contains(id) {
                continue;
            }
            let selected = proxy
                .subject
                .as_ref()
                .is_some_and(|subject| state.any_selects(&touched.policies, subject));
            let meant = proxy
                .reach
                .as_ref()
                .is_some_and(|reach| state.may_mean(reach, &touched.services));
            if selected || meant || (touched.targets && proxy.is_routed) {
                concerned.insert(id.clone());
            }
        }
        concerned
    }

    /// Computes a proxy's configuration; whether it is another one than before. What cannot be computed leaves the
    /// proxy with what it has.
    fn rebuild(&mut self, id: &ProxyId) -> bool {
        let Some(state) = self.meshes.get(&id.mesh) else {
            return false;
        };
        let Some(proxy) = self.proxies.get_mut(id) else {
            return false;
        };
        let key = Key::new(Kind::Dataplane, &id.mesh, &id.name);
        let Some(stored) = self.snapshot.get(&key) else {
            return false;
        };
        let resource = &stored.resource;
        let began = self.clock.now();
        let Placed { at, host_names } = placed(resource, &self.addresses);
        proxy.host_names = host_names;
        let Some(resource) = at.as_deref() else {
            note_problems(
                id,
                &mut proxy.problems,
                &[nowhere(&proxy.host_names, &self.addresses)],
            );
            return false;
        };
        let (dataplane, subject) = match (
            Dataplane::read(resource),
            Subject::from_dataplane(resource),
        ) {
            (Ok(dataplane), Ok(subject)) => (dataplane, subject),
            (Err(error), _) | (_, Err(error)) => {
                warn!(proxy = %id, %error, "the Dataplane cannot be read: its proxy keeps what it has");
                return false;
            }
        };
        let reach = ProxyReach::read(resource).unwrap_or_default();
        let mode = outbound_mode(&proxy.node, &dataplane);
        let outbounds = reach.outbounds(&state.catalogue, mode);
        let policies = DataplanePolicies::new(&state.policies, &state.targets, &subject, false);
        let now = self.clock.wall();
        let is_issued = certificate::refresh(
            &mut proxy.certificate,
            &self.authorities,
            &self.snapshot,
            resource,
            &self.settings.zone,
            now,
        );
        let certificate = proxy.certificate.as_ref();
        if let Some(issued) = certificate.filter(|_| is_issued) {
            self.metrics.certified();
            let report = Report::Certified {
                issued: issued.leaf.issued,
                expires: issued.leaf.expires,
                backend: issued.issuer.clone(),
            };
            self.insights.report(id.clone(), report);
        }
        let spiffe_id = certificate.map(|c| c.leaf.id.to_string());
        let identity = certificate
            .zip(spiffe_id.as_deref())
            .map(|(certificate, spiffe_id)| Identity {
                secret: &certificate.issuer,
                spiffe_id,
            });
        let view = ProxyView {
            mesh: &id.mesh,
            zone: &self.settings.zone,
            dataplane: &dataplane,
            node: &proxy.node,
            catalogue: &state.catalogue,
            outbounds: &outbounds,
            policies: &policies,
            targets: &state.targets,
            identity,
            trust: &state.trust,
            // No zone egress is served yet: nothing leads through one.
            egress_identities: &[],
            faults_exist: state.faults_exist,
            admin_tls: None,
        };
        let is_native_ingress = proxy.node.has(FEATURE_INGRESS_ROUTES);
        let generated = if is_native_ingress {
            zonal_xds::generate_native_ingress(&view, &self.cache)
        } else {
            zonal_xds::generate(&view, &self.cache)
        };
        note_problems(id, &mut proxy.problems, generated.problems());
        let is_ingress = !dataplane.zone_listeners.is_empty();
        // A route may lead to services that no outbound names.
        let routed = generated
            .of_type(type_url::ENDPOINTS)
            .keys()
            .filter_map(|name| name.parse::<Kri>().ok());
        let mut dependencies = state.dependencies(&key, &reach, mode, routed, is_ingress);
        if let Some(certificate) = certificate {
            dependencies.extend(certificate::dependencies(
                &certificate.identity,
                &self.snapshot,
            ));
        }
        self.dependents.set(id, dependencies);
        proxy.is_routed = [Kind::MeshHTTPRoute, Kind::MeshTCPRoute]
            .into_iter()
            .any(|kind| !policies.kind(kind).matched.is_empty());
        proxy.reach = Some(reach);
        proxy.subject = Some(subject);
        let before = proxy.config.borrow().clone();
        let secret = certificate.map(|c| (c.issuer.as_str(), &c.secret));
        let config = to_config(
            self.snapshot.revision(),
            &generated,
            secret,
            before.as_deref(),
        );
        let is_changed = before.as_ref().is_none_or(|before| before.differs(&config));
        let took = self.clock.now().saturating_duration_since(began);
        self.metrics.generated(took, is_changed);
        if !is_changed {
            return false;
        }
        proxy.config.send_replace(Some(Arc::new(config)));
        true
    }

    fn read_authorities(&mut self) {
        // What is to be written is the controllers' business; here only the issuers count.
        let now = self.clock.wall();
        drop(
            self.authorities
                .reconcile(&self.snapshot, &self.settings.zone, now),
        );
    }

    /// When the next certificate is due.
    fn next_renewal(&self) -> Option<std::time::Instant> {
        let held = || {
            self.proxies
                .values()
                .filter_map(|proxy| proxy.certificate.as_ref())
        };
        self.metrics
            .first_expiry(held().map(|c| c.leaf.expires).min());
        let due = held().map(|c| c.leaf.renew_at()).min()?;
        let wait = due.duration_since(self.clock.wall());
        let wait = std::time::Duration::try_from(wait).unwrap_or_default();
        Some(self.clock.now() + wait)
    }

    fn renew(&mut self) {
        let now = self.clock.wall();
        let due: Vec<ProxyId> = self
            .proxies
            .iter()
            .filter(|(_, proxy)| {
                proxy
                    .certificate
                    .as_ref()
                    .is_some_and(|certificate| certificate.leaf.needs_renewal(now))
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            self.rebuild(&id);
        }
        self.cache.sweep();
    }

    fn note(&self, revision: Revision, affected: BTreeSet<ProxyId>) {
        let now = self.clock.wall();
        self.ledger().computed(revision, affected, now);
        self.bump();
    }

    fn bump(&self) {
        self.progress.send_modify(|progress| progress.0 += 1);
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        // No method of the ledger leaves it half-changed.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says what is newly left out of a proxy's configuration, and what no longer is. The same again says nothing.
fn note_problems(id: &ProxyId, known: &mut BTreeSet<Problem>, now: &[Problem]) {
    let now: BTreeSet<Problem> = now.iter().cloned().collect();
    for problem in now.difference(known) {
        warn!(proxy = %id, about = problem.about, "{}", problem.text);
    }
    for problem in known.difference(&now) {
        info!(proxy = %id, about = problem.about, "no longer: {}", problem.text);
    }
    *known = now;
}

fn nowhere(host_names: &BTreeSet<Arc<str>>, addresses: &BTreeMap<Arc<str>, IpAddr>) -> Problem {
    let names: Vec<&str> = host_names
        .iter()
        .filter(|name| !addresses.contains_key(*name))
        .map(|name| &**name)
        .collect();
    Problem {
        about: "networking".to_owned(),
        text: format!(
            "`{}` has no address yet: its proxy keeps what it has",
            names.join("`, `")
        ),
    }
}

/// Kinds whose changes may alter what a proxy is told. The rest (insights, workloads, zones) never does.
fn concerns_proxies(kind: Kind) -> bool {
    kind.descriptor().policy.is_some()
        || matches!(
            kind,
            Kind::Dataplane
                | Kind::MeshService
                | Kind::MeshMultiZoneService
                | Kind::MeshExternalService
                | Kind::MeshZoneAddress
                | Kind::MeshIdentity
                | Kind::MeshTrust
                | Kind::Secret
        )
}

fn outbound_mode(node: &Node, dataplane: &Dataplane) -> OutboundMode {
    let in_metadata = node.has(feature::TRANSPARENT_PROXY_IN_METADATA) && node.redirect.is_some();
    if in_metadata || dataplane.redirect.is_some() || node.has(feature::BIND_OUTBOUNDS) {
        OutboundMode::Virtual
    } else {
        OutboundMode::Listed
    }
}
