//! Knows what was written where, and says what each store should hold.
//!
//! Its rules of the border are written down a second time, on purpose and by hand: a checker that asked the code under
//! test would agree with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use zonal_model::{Key, Kind, Resource, labels, validate};
use zonal_store::{Change, Snapshot, Stored};

/// Where a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Global,
    Zone(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global => f.write_str("global"),
            Self::Zone(zone) => f.write_str(&zone_name(*zone)),
        }
    }
}

/// The name of a zone of the made-up world.
pub(crate) fn zone_name(zone: usize) -> String {
    format!("zone-{zone}")
}

/// Something that must never be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which promise is broken.
    pub checker: &'static str,
    /// By what.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.checker, self.what)
    }
}

pub(crate) type Checked = Result<(), Violation>;

pub(crate) fn violation(checker: &'static str, what: impl Into<String>) -> Violation {
    Violation {
        checker,
        what: what.into(),
    }
}

/// Who changed a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Actor {
    /// People and controllers of the place itself.
    Own,
    /// What a peer sent.
    Peer,
}

/// One resource of the world, wherever a copy of it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    pub(crate) origin: Place,
    pub(crate) kind: Kind,
    pub(crate) mesh: Arc<str>,
    pub(crate) name: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}/{} of {}",
            self.kind, self.mesh, self.name, self.origin
        )
    }
}

/// When a content was written: first and last, in steps of the oracle's own counter.
#[derive(Clone, Copy, Debug)]
struct Written {
    first: u64,
    latest: u64,
}

/// What was written where.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    counter: u64,
    writes: BTreeMap<(Identity, String), Written>,
    /// When a resource was removed at its origin, or stopped crossing.
    departures: BTreeMap<Identity, Vec<u64>>,
    /// When a zone was switched off or deleted at global.
    zone_departures: BTreeMap<usize, Vec<u64>>,
    /// What global removed with a mesh, and its zone did not.
    taken: BTreeSet<Identity>,
    /// How new what a place has seen of a resource is.
    seen: BTreeMap<(Place, Identity), u64>,
}

/// Which copy this is, seen from the place that holds it; `None` for what belongs to the place itself.
pub(crate) fn copied(place: Place, resource: &Resource) -> Option<Identity> {
    let origin_label = resource.label(labels::ORIGIN);
    let zone = || {
        let number = resource.zone()?.strip_prefix("zone-")?;
        number.parse().ok().map(Place::Zone)
    };
    let origin = match place {
        Place::Global if origin_label == Some("zone") => zone()?,
        Place::Zone(_) if origin_label == Some("global") => zone().unwrap_or(Place::Global),
        Place::Global | Place::Zone(_) => return None,
    };
    Some(identity(origin, resource))
}

fn identity(origin: Place, resource: &Resource) -> Identity {
    Identity {
        origin,
        kind: resource.key.kind,
        mesh: Arc::clone(&resource.key.mesh),
        name: resource.display_name().to_owned(),
    }
}

fn withheld(resource: &Resource) -> bool {
    resource.label(labels::KDS_SYNC) == Some("disabled")
}

/// What goes from a zone to global.
fn goes_up(resource: &Resource) -> bool {
    let goes = matches!(
        resource.key.kind,
        Kind::Dataplane
            | Kind::MeshService
            | Kind::Workload
            | Kind::MeshZoneAddress
            | Kind::MeshTimeout
    );
    goes && !withheld(resource)
}

/// What global sends of its own.
fn goes_down(resource: &Resource) -> bool {
    let goes = matches!(
        resource.key.kind,
        Kind::Mesh | Kind::MeshTimeout | Kind::MeshMultiZoneService | Kind::Secret
    );
    goes && !withheld(resource)
}

/// What goes from one zone to the others.
fn goes_across(resource: &Resource) -> bool {
    let producer = resource.label(labels::POLICY_ROLE) == Some("producer");
    match resource.key.kind {
        Kind::MeshService | Kind::MeshZoneAddress => !withheld(resource),
        Kind::MeshTimeout => producer && !withheld(resource),
        _ => false,
    }
}

fn is_enabled(global: &Snapshot, zone: usize) -> bool {
    global
        .get(&Key::global(Kind::Zone, zone_name(zone)))
        .is_none_or(|record| record.resource.spec.as_str() != r#"{"enabled":false}"#)
}

impl Oracle {
    /// Takes note of a commit, and judges it.
    pub(crate) fn observe(
        &mut self,
        place: Place,
        actor: Actor,
        old: &Snapshot,
        new: &Snapshot,
    ) -> Checked {
        let changes = new.changes_since(old);
        let mesh_gone =
            |mesh: &str| !mesh.is_empty() && new.get(&Key::global(Kind::Mesh, mesh)).is_none();
        let is_zone = |change: &Change| place == Place::Global && change.key.kind == Kind::Zone;
        for change in changes.iter().filter(|change| is_zone(change)) {
            self.note_zone(change);
        }
        for change in changes.iter().filter(|change| !is_zone(change)) {
            let resource = match (&change.new, &change.old) {
                (Some(stored), _) | (None, Some(stored)) => &stored.resource,
                (None, None) => continue,
            };
            if let Some(identity) = copied(place, resource) {
                if actor == Actor::Own && !only_status(change) && !mesh_gone(&change.key.mesh) {
                    let known = matches!(identity.origin, Place::Zone(zone) if place == Place::Global
                        && new.get(&Key::global(Kind::Zone, zone_name(zone))).is_none());
                    if !known {
                        return Err(violation(
                            "one writer",
                            format!("{place} changed {identity} itself"),
                        ));
                    }
                }
                if actor == Actor::Own && mesh_gone(&change.key.mesh) {
                    // Whoever removes a mesh removes what is in it.
                    if place == Place::Global {
                        self.taken.insert(identity.clone());
                    }
                    self.counter += 1;
                    let counter = self.counter;
                    self.departures
                        .entry(identity.clone())
                        .or_default()
                        .push(counter);
                }
                self.copy_changed(place, identity, change)?;
            } else {
                if actor == Actor::Peer && !mesh_gone(&change.key.mesh) {
                    return Err(violation(
                        "one writer",
                        format!("a peer changed {} at {place}", change.key),
                    ));
                }
                self.note_own(place, change);
            }
        }
        Ok(())
    }

    fn note_zone(&mut self, change: &Change) {
        let zone = change
            .key
            .name
            .strip_prefix("zone-")
            .and_then(|number| number.parse().ok());
        let Some(zone) = zone else { return };
        let off = change
            .new
            .as_ref()
            .is_none_or(|record| record.resource.spec.as_str() == r#"{"enabled":false}"#);
        self.counter += 1;
        if off {
            self.zone_departures
                .entry(zone)
                .or_default()
                .push(self.counter);
        } else {
            // What it has comes again, as if it were written now.
            for ((identity, _), written) in &mut self.writes {
                if identity.origin == Place::Zone(zone) {
                    written.latest = self.counter;
                }
            }
        }
    }

    fn note_own(&mut self, place: Place, change: &Change) {
        self.counter += 1;
        let departs = |stored: &Arc<Stored>, oracle: &mut Self| {
            let identity = identity(place, &stored.resource);
            oracle
                .departures
                .entry(identity)
                .or_default()
                .push(oracle.counter);
        };
        match (&change.old, &change.new) {
            (Some(old), None) => departs(old, self),
            (_, Some(new)) => {
                let key = (
                    identity(place, &new.resource),
                    new.resource.spec.as_str().to_owned(),
                );
                let counter = self.counter;
                self.writes
                    .entry(key)
                    .and_modify(|written| written.latest = counter)
                    .or_insert(Written {
                        first: counter,
                        latest: counter,
                    });
                if withheld(&new.resource) {
                    departs(new, self);
                }
            }
            (None, None) => {}
        }
    }

    fn copy_changed(&mut self, place: Place, identity: Identity, change: &Change) -> Checked {
        if let (Place::Global, Some(new)) = (place, &change.new)
            && self.taken.remove(&identity)
        {
            // Its zone has it still, in a mesh that is there again: as if it were written now.
            let key = (identity.clone(), new.resource.spec.as_str().to_owned());
            self.counter += 1;
            let counter = self.counter;
            self.writes
                .entry(key)
                .and_modify(|written| written.latest = counter);
        }
        let seen_key = (place, identity);
        let identity = &seen_key.1;
        let seen = self.seen.get(&seen_key).copied().unwrap_or(0);
        let newer = match (&change.old, &change.new) {
            (_, Some(new)) => {
                if let Place::Zone(zone) = place {
                    let allowed = match identity.origin {
                        Place::Global => goes_down(&new.resource),
                        Place::Zone(origin) => origin != zone && goes_across(&new.resource),
                    };
                    if !allowed {
                        return Err(violation("border", format!("{place} sees {identity}")));
                    }
                } else if !goes_up(&new.resource) {
                    return Err(violation("border", format!("global sees {identity}")));
                }
                let written = self.written(identity, &new.resource).ok_or_else(|| {
                    let spec = new.resource.spec.as_str();
                    violation(
                        "one writer",
                        format!("nobody wrote {identity} as {spec}, which {place} holds"),
                    )
                })?;
                if written.latest < seen && !only_status(change) {
                    return Err(violation(
                        "never back",
                        format!(
                            "{place} takes {identity} as written at {}, after it had seen {seen}",
                            written.latest
                        ),
                    ));
                }
                written.first
            }
            (Some(old), None) => {
                let held = self
                    .written(identity, &old.resource)
                    .map_or(0, |written| written.first);
                let zone = match identity.origin {
                    Place::Global => None,
                    Place::Zone(zone) => self.zone_departures.get(&zone),
                };
                let departures = self
                    .departures
                    .get(identity)
                    .into_iter()
                    .chain(zone)
                    .flatten();
                let departure = departures.filter(|at| **at > held).min().copied();
                departure.ok_or_else(|| {
                    violation(
                        "no delete without an owner",
                        format!("{place} removes {identity}, which its origin never did"),
                    )
                })?
            }
            (None, None) => return Ok(()),
        };
        self.seen.insert(seen_key, seen.max(newer));
        Ok(())
    }

    fn written(&self, identity: &Identity, resource: &Resource) -> Option<Written> {
        let key = (identity.clone(), resource.spec.as_str().to_owned());
        self.writes.get(&key).copied()
    }

    /// What a place should hold of everybody else's, given all stores as they are.
    pub(crate) fn expected(
        place: Place,
        global: &Snapshot,
        zones: &[Arc<Snapshot>],
    ) -> BTreeMap<Identity, Resource> {
        let mut expected = BTreeMap::new();
        let mut add = |origin, resource: &Resource| {
            expected.insert(identity(origin, resource), resource.clone());
        };
        if let Place::Zone(_) = place {
            for stored in global.all() {
                if copied(Place::Global, &stored.resource).is_none() && goes_down(&stored.resource)
                {
                    add(Place::Global, &stored.resource);
                }
            }
        }
        for (zone, snapshot) in zones.iter().enumerate() {
            let origin = Place::Zone(zone);
            for stored in snapshot.all() {
                let crosses = match place {
                    Place::Global => goes_up(&stored.resource),
                    Place::Zone(_) => {
                        place != origin && goes_across(&stored.resource) && is_enabled(global, zone)
                    }
                };
                if crosses && copied(origin, &stored.resource).is_none() {
                    add(origin, &stored.resource);
                }
            }
        }
        expected
    }

    /// With a mesh goes what is in it.
    pub(crate) fn no_orphans(place: Place, store: &Snapshot) -> Checked {
        let orphan = store.all().find(|stored| {
            let mesh = &stored.resource.key.mesh;
            !mesh.is_empty() && store.get(&Key::global(Kind::Mesh, mesh)).is_none()
        });
        match orphan {
            Some(orphan) => Err(violation(
                "nothing outlives its mesh",
                format!("{place} still has {}", orphan.resource.key),
            )),
            None => Ok(()),
        }
    }

    /// What global should offer a zone, given what global holds.
    pub(crate) fn offered_down(zone: usize, global: &Snapshot) -> BTreeMap<Identity, Resource> {
        let mut offered = BTreeMap::new();
        for stored in global.all() {
            let resource = &stored.resource;
            let (identity, crosses) = match copied(Place::Global, resource) {
                None => (identity(Place::Global, resource), goes_down(resource)),
                Some(identity) => {
                    let crosses = match identity.origin {
                        Place::Zone(origin) => {
                            origin != zone && goes_across(resource) && is_enabled(global, origin)
                        }
                        Place::Global => false,
                    };
                    (identity, crosses)
                }
            };
            if crosses {
                offered.insert(identity, resource.clone());
            }
        }
        offered
    }

    /// Whether a store holds what it should. A resource that its origin broke, or that may be late, may be missing or
    /// old; nothing else may.
    pub(crate) fn agrees(
        place: Place,
        store: &Snapshot,
        expected: &BTreeMap<Identity, Resource>,
        is_late: &dyn Fn(&Identity) -> bool,
    ) -> Checked {
        let mut held = BTreeMap::new();
        for stored in store.all() {
            if let Some(identity) = copied(place, &stored.resource)
                && let Some(twice) = held.insert(identity, &stored.resource)
            {
                return Err(violation(
                    "agreement",
                    format!("{place} holds {} twice", twice.key),
                ));
            }
        }
        for (identity, original) in expected {
            if !validate(original).is_empty() || is_late(identity) {
                continue;
            }
            let Some(copy) = held.get(identity) else {
                return Err(violation("agreement", format!("{place} lacks {identity}")));
            };
            if copy.spec != original.spec || copy.label(NOTE) != original.label(NOTE) {
                return Err(violation(
                    "agreement",
                    format!(
                        "{place} holds {identity} as {}, not {}",
                        copy.spec.as_str(),
                        original.spec.as_str()
                    ),
                ));
            }
        }
        match held
            .keys()
            .find(|identity| !expected.contains_key(identity) && !is_late(identity))
        {
            Some(identity) => Err(violation(
                "agreement",
                format!("{place} still holds {identity}"),
            )),
            None => Ok(()),
        }
    }
}

/// A label that people change.
pub(crate) const NOTE: &str = "note";

fn only_status(change: &Change) -> bool {
    match (&change.old, &change.new) {
        (Some(old), Some(new)) => old.resource.spec == new.resource.spec,
        _ => false,
    }
}
