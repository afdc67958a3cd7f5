//! What the control plane told us, and the routes that follow from it.
//!
//! A core: batches go in, a table and refusals come out. One changed name costs that name, however
//! many there are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use zonal_delta::{Batch, Held, Interest, Name, Refused, TypeUrl, Version, Wanted};

use crate::hello::Sni;
use crate::routes::{Endpoints, LoadBook, Placed, Route, RouteTable};
use crate::wire::{Told, Type};

/// Whose words we understand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// Our own zone control plane: one resource per server name.
    #[default]
    Zonal,
    /// A Kuma zone control plane: the listener and clusters of an Envoy ingress.
    Kuma,
}

/// Holds everything the control plane told, and derives the routes.
///
/// Always true: a route is replaced by another only when the other's endpoints are known; a refused
/// resource leaves what was there before; endpoints that no route names are forgotten.
#[derive(Debug)]
pub struct Feed {
    dialect: Dialect,
    loads: LoadBook,
    saved: Saved,
    /// What each server name should lead to, and which resource says so.
    wanted: BTreeMap<Sni, (Source, Arc<Route>)>,
    /// How many wanted and published routes name each cluster.
    uses: BTreeMap<Arc<str>, usize>,
    /// Wanted routes that wait for the endpoints of their cluster.
    waiting: BTreeMap<Arc<str>, BTreeSet<Sni>>,
    table: RouteTable,
    /// Clusters whose last use may have gone.
    unused: Vec<Arc<str>>,
    names_changed: bool,
}

/// Which resource something came from.
pub type Source = (Type, Name);

/// Everything that has to survive a restart. Shares structure with the feed it came from.
#[derive(Clone, Debug, Default)]
pub struct Saved {
    /// Resources that route names, or that were taken and say nothing to us.
    pub resources: OrdMap<Source, Arc<Resource>>,
    /// By cluster.
    pub assignments: OrdMap<Arc<str>, Assignment>,
}

/// One resource as it was taken.
#[derive(Debug)]
pub struct Resource {
    pub version: Version,
    pub routes: Vec<Arc<Route>>,
}

/// The endpoints of one cluster as they were taken.
#[derive(Clone, Debug)]
pub struct Assignment {
    pub source: Type,
    /// `None` after the control plane said that there is no such resource.
    pub version: Option<Version>,
    pub endpoints: Arc<Endpoints>,
}

impl Feed {
    /// Knows nothing yet.
    pub fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            loads: LoadBook::default(),
            saved: Saved::default(),
            wanted: BTreeMap::new(),
            uses: BTreeMap::new(),
            waiting: BTreeMap::new(),
            table: RouteTable::default(),
            unused: Vec::new(),
            names_changed: false,
        }
    }

    /// Takes over what an earlier process knew. Only into an empty feed.
    pub fn restore(
        &mut self,
        resources: impl IntoIterator<Item = (Source, Version, Vec<Route>)>,
        assignments: impl IntoIterator<Item = (Arc<str>, Type, Version, Vec<Placed>)>,
    ) {
        let mut touched = BTreeSet::new();
        for (source, version, routes) in resources {
            if self.interesting(source.0) && self.conflict(&source, &routes).is_none() {
                self.keep(&source, version, routes, &mut touched);
            }
        }
        for (cluster, source, version, placed) in assignments {
            if source == Type::Cluster || self.uses.contains_key(&cluster) {
                self.assign(&cluster, source, Some(version), placed);
            }
        }
        self.settle(touched);
    }

    /// What to ask the control plane for, and what of it is here already.
    pub fn interests(&self) -> Vec<Interest> {
        let held = |wanted: Type| -> Held {
            let of_type = self
                .saved
                .resources
                .iter()
                .filter(|((kind, _), _)| *kind == wanted);
            of_type
                .map(|((_, name), kept)| (name.clone(), kept.version.clone()))
                .collect()
        };
        let all = |kind: Type| Interest {
            type_url: TypeUrl::from(kind.url()),
            wanted: Wanted::All,
            held: held(kind),
        };
        let assignments = Interest {
            type_url: TypeUrl::from(Type::Endpoints.url()),
            wanted: Wanted::Names(self.names()),
            held: self
                .saved
                .assignments
                .iter()
                .filter(|(_, assignment)| assignment.source == Type::Endpoints)
                .filter_map(|(name, a)| Some((Name::from(Arc::clone(name)), a.version.clone()?)))
                .collect(),
        };
        match self.dialect {
            Dialect::Zonal => vec![all(Type::Route), assignments],
            Dialect::Kuma => vec![all(Type::Cluster), assignments, all(Type::Listener)],
        }
    }

    /// Takes one batch; gives what was refused and why. Everything else of it is in the table.
    pub fn apply(&mut self, batch: &Batch) -> Vec<Refused> {
        let kind = Type::ALL
            .into_iter()
            .find(|kind| kind.url() == batch.type_url.as_str());
        let Some(kind) = kind else { return Vec::new() };
        let mut refused = Vec::new();
        let mut told = Vec::new();
        for upsert in &batch.upserts {
            match kind.parse(upsert.name.as_str(), &upsert.body) {
                Ok(what) => told.push((upsert.name.clone(), upsert.version.clone(), what)),
                Err(reason) => refused.push(Refused {
                    name: upsert.name.clone(),
                    reason,
                }),
            }
        }
        if kind == Type::Endpoints {
            self.apply_assignments(told, &batch.removals);
        } else {
            self.apply_resources(kind, told, batch, &mut refused);
        }
        refused
    }

    /// The routes as they are now.
    pub fn table(&self) -> &RouteTable {
        &self.table
    }

    /// Everything that has to survive a restart.
    pub fn saved(&self) -> Saved {
        self.saved.clone()
    }

    /// The clusters whose endpoints are wanted, when they changed since the last call.
    pub fn changed_names(&mut self) -> Option<BTreeSet<Name>> {
        std::mem::take(&mut self.names_changed).then(|| self.names())
    }

    /// Whether every route has heard of its endpoints.
    pub fn is_settled(&self) -> bool {
        self.uses
            .keys()
            .all(|cluster| self.saved.assignments.contains_key(cluster))
    }

    fn names(&self) -> BTreeSet<Name> {
        let inside = |cluster: &Arc<str>| {
            let known = self.saved.assignments.get(cluster);
            known.is_some_and(|assignment| assignment.source == Type::Cluster)
        };
        let clusters = self.uses.keys().filter(|cluster| !inside(cluster));
        clusters
            .map(|cluster| Name::from(Arc::clone(cluster)))
            .collect()
    }

    fn interesting(&self, kind: Type) -> bool {
        match self.dialect {
            Dialect::Zonal => kind == Type::Route,
            Dialect::Kuma => matches!(kind, Type::Listener | Type::Cluster),
        }
    }

    fn apply_resources(
        &mut self,
        kind: Type,
        told: Vec<(Name, Version, Told)>,
        batch: &Batch,
        refused: &mut Vec<Refused>,
    ) {
        let mut touched = BTreeSet::new();
        for name in &batch.removals {
            self.forget(&(kind, name.clone()), &mut touched);
        }
        if let Some(complete) = &batch.complete {
            let held = self.saved.resources.keys();
            let gone: Vec<Source> = held
                .filter(|(held, name)| *held == kind && !complete.contains(name))
                .cloned()
                .collect();
            for source in &gone {
                self.forget(source, &mut touched);
            }
        }
        // Names may move between resources of one batch, so all let go before any takes.
        for (name, _, _) in &told {
            self.release(&(kind, name.clone()), &mut touched);
        }
        for (name, version, what) in told {
            let source = (kind, name);
            let routes = match what {
                Told::Routes(routes) => routes,
                Told::Endpoints(placed) => {
                    self.assign(
                        &source.1.as_str().into(),
                        kind,
                        Some(version.clone()),
                        placed,
                    );
                    Vec::new()
                }
                Told::Nothing => Vec::new(),
            };
            match self.conflict(&source, &routes) {
                None => self.keep(&source, version, routes, &mut touched),
                Some(reason) => {
                    refused.push(Refused {
                        name: source.1.clone(),
                        reason,
                    });
                    self.reclaim(&source, &mut touched);
                }
            }
        }
        self.settle(touched);
    }

    fn apply_assignments(&mut self, told: Vec<(Name, Version, Told)>, removals: &[Name]) {
        for (name, version, what) in told {
            // Late answers to what is not wanted any more are not kept.
            if let (Told::Endpoints(placed), true) = (what, self.uses.contains_key(name.as_str())) {
                self.assign(
                    &name.as_str().into(),
                    Type::Endpoints,
                    Some(version),
                    placed,
                );
            }
        }
        for name in removals {
            if self.uses.contains_key(name.as_str()) {
                self.assign(&name.as_str().into(), Type::Endpoints, None, Vec::new());
            }
        }
    }

    fn assign(
        &mut self,
        cluster: &Arc<str>,
        source: Type,
        version: Option<Version>,
        placed: Vec<Placed>,
    ) {
        let endpoints = Arc::new(Endpoints::new(placed, &self.loads));
        self.table
            .clusters
            .insert(Arc::clone(cluster), Arc::clone(&endpoints));
        let assignment = Assignment {
            source,
            version,
            endpoints,
        };
        self.saved
            .assignments
            .insert(Arc::clone(cluster), assignment);
        if let Some(waiting) = self.waiting.remove(cluster) {
            self.settle(waiting);
        }
    }

    /// Whether another resource routes one of the names already.
    fn conflict(&self, source: &Source, routes: &[Route]) -> Option<String> {
        routes
            .iter()
            .find_map(|route| match self.wanted.get(&route.sni) {
                Some((other, _)) if other != source => Some(format!(
                    "sni: `{}` is routed by `{}` already",
                    route.sni, other.1
                )),
                _ => None,
            })
    }

    fn keep(
        &mut self,
        source: &Source,
        version: Version,
        routes: Vec<Route>,
        touched: &mut BTreeSet<Sni>,
    ) {
        let routes: Vec<Arc<Route>> = routes.into_iter().map(Arc::new).collect();
        let resource = Resource { version, routes };
        self.saved
            .resources
            .insert(source.clone(), Arc::new(resource));
        self.reclaim(source, touched);
    }

    /// Makes the resource's routes wanted.
    fn reclaim(&mut self, source: &Source, touched: &mut BTreeSet<Sni>) {
        let Some(resource) = self.saved.resources.get(source).map(Arc::clone) else {
            return;
        };
        for route in &resource.routes {
            // The name may have gone to another resource while this one was refused.
            if self
                .wanted
                .get(&route.sni)
                .is_some_and(|(other, _)| other != source)
            {
                continue;
            }
            self.hold(&route.cluster);
            let before = self
                .wanted
                .insert(route.sni.clone(), (source.clone(), Arc::clone(route)));
            if let Some((_, before)) = before {
                self.drop_hold(&before.cluster);
            }
            touched.insert(route.sni.clone());
        }
    }

    /// Lets go of the resource's routes, and remembers the resource.
    fn release(&mut self, source: &Source, touched: &mut BTreeSet<Sni>) {
        let Some(resource) = self.saved.resources.get(source).map(Arc::clone) else {
            return;
        };
        for route in &resource.routes {
            if self
                .wanted
                .get(&route.sni)
                .is_some_and(|(owner, _)| owner == source)
            {
                self.wanted.remove(&route.sni);
                touched.insert(route.sni.clone());
                self.drop_hold(&route.cluster);
            }
        }
    }

    fn forget(&mut self, source: &Source, touched: &mut BTreeSet<Sni>) {
        self.release(source, touched);
        self.saved.resources.remove(source);
        if source.0 == Type::Cluster && !self.uses.contains_key(source.1.as_str()) {
            self.forget_cluster(source.1.as_str());
        }
    }

    /// Publishes what is wanted for these names, unless its endpoints are still unknown and
    /// something else serves the name meanwhile.
    fn settle(&mut self, touched: impl IntoIterator<Item = Sni>) {
        for sni in touched {
            let before = self.table.routes.get(&sni).map(Arc::clone);
            match self.wanted.get(&sni).map(|(_, route)| Arc::clone(route)) {
                None => {
                    if let Some(before) = before {
                        self.table.routes.remove(&sni);
                        self.drop_hold(&before.cluster);
                    }
                }
                Some(route) => {
                    let known = self.saved.assignments.contains_key(&route.cluster);
                    if !known {
                        let waiting = self.waiting.entry(Arc::clone(&route.cluster));
                        waiting.or_default().insert(sni.clone());
                        if before.is_some() {
                            continue;
                        }
                    }
                    self.hold(&route.cluster);
                    self.table.routes.insert(sni, route);
                    if let Some(before) = before {
                        self.drop_hold(&before.cluster);
                    }
                }
            }
        }
        self.sweep();
    }

    fn hold(&mut self, cluster: &Arc<str>) {
        let uses = self.uses.entry(Arc::clone(cluster)).or_insert_with(|| {
            self.names_changed = true;
            0
        });
        *uses += 1;
    }

    fn drop_hold(&mut self, cluster: &Arc<str>) {
        let Some(uses) = self.uses.get_mut(cluster) else {
            return;
        };
        *uses = uses.saturating_sub(1);
        if *uses == 0 {
            // Somebody may still take it in the same batch.
            self.unused.push(Arc::clone(cluster));
        }
    }

    /// Forgets the clusters that nobody names any more.
    fn sweep(&mut self) {
        for cluster in std::mem::take(&mut self.unused) {
            if self.uses.get(&cluster) != Some(&0) {
                continue;
            }
            self.uses.remove(&cluster);
            self.waiting.remove(&cluster);
            self.names_changed = true;
            let inside = self.saved.assignments.get(&cluster);
            // A cluster with its endpoints inside stays as long as its resource does.
            if inside.is_some_and(|assignment| assignment.source != Type::Cluster) {
                self.forget_cluster(&cluster);
            }
        }
    }

    fn forget_cluster(&mut self, cluster: &str) {
        self.saved.assignments.remove(cluster);
        self.table.clusters.remove(cluster);
    }
}

#[cfg(test)]
mod tests;
