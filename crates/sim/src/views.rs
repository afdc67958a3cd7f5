//! What a zone makes of its store for its proxies, in a small made-up form, with the receipts of the real ledger.
//!
//! Each service and each timeout of the mesh is one resource of a proxy's configuration. Every other proxy sees the
//! services alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;
use zonal_delta::{
    Entry, Event as Told, Mark, Name, Offered, Settings, Source, TypeUrl, Version,
    wire as delta_wire,
};
use zonal_model::{Kind, Resource};
use zonal_store::{Revision, Snapshot, Store};
use zone_cp::proxy::ProxyId;
use zone_cp::receipts::Ledger;

use crate::link::{ConnId, End, Frame};
use crate::oracle::{Checked, violation, zone_name};
use crate::proxy::POISON;
use crate::world::World;
use crate::zone::MESH;

pub(crate) const SERVICE: &str = "sim.Service";
pub(crate) const TIMEOUT: &str = "sim.Timeout";
const TYPES: [(&str, Kind); 2] = [(SERVICE, Kind::MeshService), (TIMEOUT, Kind::MeshTimeout)];

/// Whether a proxy is told about a type.
pub(crate) fn sees(proxy: usize, type_url: &str) -> bool {
    type_url == SERVICE || proxy.is_multiple_of(2)
}

/// One proxy's stream.
#[derive(Debug)]
struct Session {
    conn: ConnId,
    source: Source,
    told: Option<(Mark, bool)>,
    timer: Option<u64>,
}

/// Whom a revision really concerns, and who does not use it yet.
#[derive(Debug)]
struct Step {
    up_to: Revision,
    changed: BTreeSet<(&'static str, Name)>,
    affected: usize,
    waiting: BTreeSet<usize>,
}

/// A part of a configuration through time: what it was from which revision on.
type History = Vec<(Revision, Option<Version>)>;

/// What a zone's proxies should have, and what they said.
#[derive(Debug)]
pub(crate) struct Views {
    snapshot: Arc<Snapshot>,
    ledger: Ledger,
    config: BTreeMap<&'static str, Offered>,
    history: BTreeMap<(&'static str, Name), History>,
    sessions: BTreeMap<usize, Session>,
    steps: Vec<Step>,
}

fn id(proxy: usize) -> ProxyId {
    ProxyId::new(MESH, format!("proxy-{proxy}"))
}

/// The revision before another.
const fn before(revision: Revision) -> Revision {
    Revision(revision.0.saturating_sub(1))
}

fn entry(resource: &Resource) -> Entry {
    let body = Bytes::copy_from_slice(resource.spec.as_str().as_bytes());
    Entry {
        version: Version::from(format!("{:016x}", xxh3_64(&body))),
        body,
    }
}

impl Views {
    pub(crate) fn new(snapshot: Arc<Snapshot>) -> Self {
        let mut views = Self {
            snapshot,
            ledger: Ledger::default(),
            config: BTreeMap::new(),
            history: BTreeMap::new(),
            sessions: BTreeMap::new(),
            steps: Vec::new(),
        };
        for (type_url, kind) in TYPES {
            let mut offered = Offered::new();
            for stored in views.snapshot.list_in_mesh(kind, MESH) {
                let (name, entry) = (
                    Name::from(&*stored.resource.key.name),
                    entry(&stored.resource),
                );
                let began = vec![(Revision::ZERO, Some(entry.version.clone()))];
                views.history.insert((type_url, name.clone()), began);
                offered.insert(name, entry);
            }
            views.config.insert(type_url, offered);
        }
        views
    }

    /// Brings the configuration up to a newer snapshot; what changed.
    fn follow(&mut self, newest: Arc<Snapshot>) -> BTreeSet<(&'static str, Name)> {
        let revision = newest.revision();
        let mut changed = BTreeSet::new();
        for (type_url, kind) in TYPES {
            let Some(offered) = self.config.get_mut(type_url) else {
                continue;
            };
            for change in newest.changes_of_kind_since(kind, &self.snapshot) {
                if &*change.key.mesh != MESH {
                    continue;
                }
                let name = Name::from(&*change.key.name);
                let new = change.new.as_ref().map(|stored| entry(&stored.resource));
                if offered.get(&name) == new.as_ref() {
                    continue;
                }
                let version = new.as_ref().map(|entry| entry.version.clone());
                match new {
                    Some(entry) => drop(offered.insert(name.clone(), entry)),
                    None => drop(offered.remove(&name)),
                }
                self.history
                    .entry((type_url, name.clone()))
                    .or_insert_with(|| vec![(Revision::ZERO, None)])
                    .push((revision, version));
                changed.insert((type_url, name));
            }
        }
        self.snapshot = newest;
        changed
    }

    /// Whether a part of the configuration in use is that of a revision, or a newer one.
    fn is_current(
        &self,
        part: &(&'static str, Name),
        used: Option<&Version>,
        revision: Revision,
    ) -> bool {
        let Some(history) = self.history.get(part) else {
            return used.is_none();
        };
        let then = history
            .iter()
            .rposition(|(since, _)| *since <= revision)
            .unwrap_or(0);
        history
            .iter()
            .skip(then)
            .any(|(_, version)| version.as_ref() == used)
    }
}

impl World {
    /// The process has just read its store.
    pub(crate) fn views_started(&mut self, zone: usize) {
        let (now, views) = (self.time.wall(), &mut self.zones[zone].views);
        views.ledger.computed(views.snapshot.revision(), [], now);
    }

    pub(crate) fn views_advance(&mut self, zone: usize, newest: Arc<Snapshot>) -> Checked {
        let now = self.time.wall();
        let views = &mut self.zones[zone].views;
        let revision = newest.revision();
        if revision <= views.snapshot.revision() {
            return Ok(());
        }
        let changed = views.follow(newest);
        let concerns = |proxy: usize| changed.iter().any(|(type_url, _)| sees(proxy, type_url));
        let affected: BTreeSet<usize> = views
            .sessions
            .keys()
            .copied()
            .filter(|proxy| concerns(*proxy))
            .collect();
        for proxy in &affected {
            if let Some(session) = views.sessions.get_mut(proxy) {
                offer(&views.config, *proxy, &mut session.source, revision);
            }
        }
        views
            .ledger
            .computed(revision, affected.iter().map(|proxy| id(*proxy)), now);
        if !affected.is_empty() {
            views.steps.push(Step {
                up_to: revision,
                changed,
                affected: affected.len(),
                waiting: affected.clone(),
            });
        }
        for proxy in affected.iter().copied() {
            self.note_used(zone, proxy);
        }
        for proxy in affected {
            self.views_offer(zone, proxy)?;
        }
        self.check_receipts(zone)
    }

    pub(crate) fn views_receive(
        &mut self,
        conn: ConnId,
        zone: usize,
        proxy: usize,
        frame: Frame,
    ) -> Checked {
        let Frame::DownRequest(message) = frame else {
            return Ok(());
        };
        let current = self.zones[zone]
            .views
            .sessions
            .get(&proxy)
            .map(|session| session.conn);
        if current != Some(conn) {
            if current.is_some_and(|current| current > conn) {
                return Ok(());
            }
            self.views_connect(conn, zone, proxy)?;
            if let Some(older) = current {
                self.close(older, End::Listener, true)?;
            }
        }
        let request = delta_wire::parse_request(*message)
            .map_err(|error| violation("wire", error.to_string()))?;
        let now = self.now();
        let views = &mut self.zones[zone].views;
        let Some(session) = views.sessions.get_mut(&proxy) else {
            return Ok(());
        };
        for event in session.source.handle_request(now, request) {
            match event {
                Told::Nacked {
                    type_url,
                    mark,
                    message,
                    ..
                } => {
                    views
                        .ledger
                        .nacked(&id(proxy), Revision(mark.0), type_url.as_str(), &message);
                }
                Told::Acked { .. }
                | Told::Requested { .. }
                | Told::Resubscribed { .. }
                | Told::Stalled { .. } => {}
            }
        }
        self.views_offer(zone, proxy)?;
        self.check_receipts(zone)
    }

    fn views_connect(&mut self, conn: ConnId, zone: usize, proxy: usize) -> Checked {
        let newest = self.zones[zone].store.snapshot();
        self.views_advance(zone, newest)?;
        let views = &mut self.zones[zone].views;
        let types = TYPES
            .into_iter()
            .map(|(type_url, _)| TypeUrl::from(type_url));
        let mut source = Source::new(Settings::proxy(), types);
        offer(&views.config, proxy, &mut source, views.snapshot.revision());
        views.ledger.connected(id(proxy));
        let session = Session {
            conn,
            source,
            told: None,
            timer: None,
        };
        views.sessions.insert(proxy, session);
        self.check_receipts(zone)
    }

    pub(crate) fn views_disconnected(&mut self, conn: ConnId, zone: usize, proxy: usize) {
        let now = self.time.wall();
        let views = &mut self.zones[zone].views;
        if views
            .sessions
            .get(&proxy)
            .is_some_and(|session| session.conn == conn)
        {
            views.sessions.remove(&proxy);
            views.ledger.disconnected(&id(proxy), now);
        }
    }

    pub(crate) fn views_timer(&mut self, conn: ConnId, zone: usize, proxy: usize) -> Checked {
        let now = self.now();
        let session = self.zones[zone].views.sessions.get_mut(&proxy);
        if let Some(session) = session.filter(|session| session.conn == conn) {
            session.timer = None;
            drop(session.source.handle_timeout(now));
            self.views_offer(zone, proxy)?;
        }
        Ok(())
    }

    /// Writes what is due to one proxy, and tells the ledger how far it got.
    fn views_offer(&mut self, zone: usize, proxy: usize) -> Checked {
        let now = self.now();
        let wall = self.time.wall();
        loop {
            let views = &mut self.zones[zone].views;
            let Some(session) = views.sessions.get_mut(&proxy) else {
                return Ok(());
            };
            let (conn, set) = (session.conn, session.timer);
            let Some(response) = session.source.poll_response(now) else {
                let answered = (session.source.reached(), session.source.is_refused());
                if session.told != Some(answered) {
                    session.told = Some(answered);
                    let (reached, still_refuses) = answered;
                    views
                        .ledger
                        .acked(&id(proxy), Revision(reached.0), still_refuses, wall);
                }
                let due = session.source.next_timeout();
                let set = self.arm(conn, End::Listener, set, due)?;
                if let Some(session) = self.zones[zone].views.sessions.get_mut(&proxy) {
                    session.timer = set;
                }
                return Ok(());
            };
            let body_type = response.type_url.to_string();
            let message = delta_wire::response(response, &body_type, "zone");
            self.send(conn, End::Dialer, Frame::DownResponse(Box::new(message)))?;
        }
    }

    /// A proxy uses something else than before.
    pub(crate) fn note_used(&mut self, zone: usize, proxy: usize) {
        let at = &mut self.zones[zone];
        let used = &at.proxies[proxy].used;
        let mut steps = std::mem::take(&mut at.views.steps);
        for step in &mut steps {
            let current = step.waiting.contains(&proxy)
                && step
                    .changed
                    .iter()
                    .filter(|(type_url, _)| sees(proxy, type_url))
                    .all(|part| at.views.is_current(part, used.get(part), step.up_to));
            if current {
                step.waiting.remove(&proxy);
            }
        }
        steps.retain(|step| !step.waiting.is_empty());
        at.views.steps = steps;
    }

    /// No receipt claims what no proxy uses.
    fn check_receipts(&self, zone: usize) -> Checked {
        let views = &self.zones[zone].views;
        for step in &views.steps {
            let receipt = views.ledger.receipt(before(step.up_to), step.up_to);
            let using = step.affected - step.waiting.len();
            if receipt.acked > using {
                return Err(violation(
                    "receipts are honest",
                    format!(
                        "{} proxies of {} are said to use revision {}, and {using} do",
                        receipt.acked,
                        zone_name(zone),
                        step.up_to
                    ),
                ));
            }
            let connected = step
                .waiting
                .iter()
                .find(|proxy| views.sessions.contains_key(proxy));
            if let Some(proxy) = connected.filter(|_| receipt.converged_at.is_some()) {
                return Err(violation(
                    "receipts are honest",
                    format!(
                        "revision {} of {} is said to be in use, and proxy {proxy} does not use it",
                        step.up_to,
                        zone_name(zone)
                    ),
                ));
            }
        }
        Ok(())
    }

    /// In the end every proxy uses what its zone has for it, and the receipts say so.
    pub(crate) fn check_proxies(&self, zone: usize) -> Checked {
        let at = &self.zones[zone];
        let mut poisoned = false;
        for (proxy, process) in at.proxies.iter().enumerate() {
            if !at.views.sessions.contains_key(&proxy) {
                return Err(violation(
                    "progress",
                    format!("proxy {proxy} of {} is alone", zone_name(zone)),
                ));
            }
            for (type_url, offered) in &at.views.config {
                if !sees(proxy, type_url) {
                    continue;
                }
                for (name, entry) in offered {
                    let poison = entry
                        .body
                        .windows(POISON.len())
                        .any(|part| part == POISON.as_bytes());
                    poisoned |= poison;
                    let used = process.used.get(&(*type_url, name.clone()));
                    if !poison && used != Some(&entry.version) {
                        return Err(violation(
                            "agreement",
                            format!(
                                "proxy {proxy} of {} does not use {type_url} {name}",
                                zone_name(zone)
                            ),
                        ));
                    }
                }
                let stale = process
                    .used
                    .keys()
                    .find(|(of, name)| of == type_url && !offered.contains_key(name));
                if let Some((_, name)) = stale {
                    return Err(violation(
                        "agreement",
                        format!(
                            "proxy {proxy} of {} still uses {type_url} {name}",
                            zone_name(zone)
                        ),
                    ));
                }
            }
        }
        let revision = at.store.snapshot().revision();
        let receipt = at.views.ledger.receipt(before(revision), revision);
        if !receipt.computed || (receipt.converged_at.is_none() && !poisoned) {
            return Err(violation(
                "progress",
                format!(
                    "revision {revision} of {} does not converge: {receipt:?}",
                    zone_name(zone)
                ),
            ));
        }
        Ok(())
    }
}

fn offer(
    config: &BTreeMap<&'static str, Offered>,
    proxy: usize,
    source: &mut Source,
    reflects: Revision,
) {
    for (type_url, offered) in config {
        if sees(proxy, type_url) {
            source.set_offered(&TypeUrl::from(*type_url), offered.clone());
        }
    }
    source.set_mark(Mark(reflects.0));
}
