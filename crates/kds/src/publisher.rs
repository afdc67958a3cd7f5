//! Offers what a store holds to one peer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use imbl::OrdSet;
use imbl::ordmap::DiffItem;
use zonal_delta::{Event, Mark, Name, Offered, Request, Response, Settings, Source, TypeUrl};
use zonal_federation::{EncodeError, Encodings, Features, wire};
use zonal_model::{Key, Kind};
use zonal_mutants::mutant;
use zonal_store::{Revision, Snapshot};

use crate::layer::{Layer, Shelf, View};

/// Which way resources go.
#[derive(Clone, Debug)]
pub enum Direction {
    /// From global to a zone.
    Down {
        /// The zone.
        zone: Arc<str>,
        /// What it announced.
        features: Features,
    },
    /// From this zone to global.
    Up {
        /// This zone.
        zone: Arc<str>,
        /// What global announced.
        features: Features,
    },
}

/// A resource that should have been offered and cannot be written for a peer. It is withheld; its neighbours go.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The resource.
    pub key: Key,
    /// Why.
    pub cause: Arc<EncodeError>,
}

/// Offers what a store holds to one peer, following the store's snapshots.
///
/// What all zones see alike is made once and shared by pointer; a zone pays for what is its own and for what changes.
#[derive(Debug)]
pub struct Publisher {
    view: View,
    /// Does not see what came from it.
    zone: Option<Arc<str>>,
    shelf: Arc<Shelf>,
    source: Source,
    layer: Option<Arc<Layer>>,
    /// Changes since a kind's map was last cut from the shared one.
    drifted: BTreeMap<Kind, usize>,
    problems: Vec<Problem>,
}

impl Publisher {
    /// A publisher for a new stream, that shares nothing with others. It is silent until the first snapshot.
    #[must_use]
    pub fn new(direction: Direction, encodings: Arc<Encodings>) -> Self {
        Self::sharing(direction, Arc::new(Shelf::new(encodings)))
    }

    /// A publisher for a new stream among many. It is silent until the first snapshot.
    #[must_use]
    pub fn sharing(direction: Direction, shelf: Arc<Shelf>) -> Self {
        let (view, zone, features) = match direction {
            Direction::Down { zone, features } => (View::Zones(features), Some(zone), features),
            Direction::Up { zone, features } => (View::Global(zone), None, features),
        };
        let settings = if features.ours {
            Settings::own_peer()
        } else {
            Settings::kuma_peer()
        };
        let source = Source::new(settings, view.kinds().map(type_url));
        Self {
            view,
            zone,
            shelf,
            source,
            layer: None,
            drifted: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    /// The same with shorter messages: what would have to be large to be cut is cut when it is small.
    #[must_use]
    pub const fn cutting_after(mut self, bytes: usize) -> Self {
        self.source.cut_after(bytes);
        self
    }

    /// Takes the newest state of the store. Snapshots between may be skipped. True if it changes anything for the peer.
    pub fn handle_snapshot(&mut self, to: &Arc<Snapshot>) -> bool {
        let layer = self.shelf.at_least(&self.view, to, &mut self.problems);
        let from = self.layer.replace(Arc::clone(&layer));
        let mut changed = from.is_none();
        for kind in self.view.kinds() {
            changed |= self.offer(kind, from.as_deref(), &layer);
        }
        self.source.set_mark(Mark(layer.snapshot.revision().0));
        changed
    }

    /// Takes a message of the peer.
    pub fn handle_request(&mut self, now: Instant, request: Request) -> Vec<Event> {
        self.source.handle_request(now, request)
    }

    /// The next message to write. Call until `None`.
    pub fn poll_response(&mut self, now: Instant) -> Option<Response> {
        // Before the first snapshot even an unknown type is not answered: nothing is known to be absent.
        self.layer.as_ref()?;
        self.source.poll_response(now)
    }

    /// When to come back even if nothing arrives.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.source.next_timeout()
    }

    /// Notices what has waited too long.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Event> {
        self.source.handle_timeout(now)
    }

    /// The newest revision of the store for which the peer has answered everything that concerns it; `None` before the
    /// first snapshot.
    #[must_use]
    pub fn reached(&self) -> Option<Revision> {
        self.layer
            .as_ref()
            .map(|_| Revision(self.source.reached().0))
    }

    /// Resources that could not be written since the last call.
    pub fn take_problems(&mut self) -> Vec<Problem> {
        std::mem::take(&mut self.problems)
    }

    /// How many resources of a kind are offered.
    #[must_use]
    pub fn offered_count(&self, kind: Kind) -> usize {
        self.source.offered(&type_url(kind)).map_or(0, Offered::len)
    }

    /// Brings one kind up to date; true if the peer sees a difference.
    fn offer(&mut self, kind: Kind, from: Option<&Layer>, to: &Layer) -> bool {
        let shared = to.map(kind);
        if from.is_some_and(|from| from.map(kind).ptr_eq(shared)) {
            return false;
        }
        let own = self.zone.as_ref().and_then(|zone| to.own(zone, kind));
        let own = own.filter(|_| !mutant!(OwnComesBack));
        let (map, changed) = match (from, own) {
            (_, None) => (shared.clone(), true),
            (None, Some(own)) => (without(shared, own), true),
            (Some(from), Some(own)) => {
                let mut map = self
                    .source
                    .offered(&type_url(kind))
                    .cloned()
                    .unwrap_or_default();
                let mut changes = 0;
                for item in from.map(kind).diff(shared) {
                    match item {
                        DiffItem::Add(name, entry)
                        | DiffItem::Update {
                            new: (name, entry), ..
                        } => {
                            if own.contains(name) {
                                // It may have been another's before.
                                changes += usize::from(map.remove(name).is_some());
                            } else {
                                map.insert(name.clone(), entry.clone());
                                changes += 1;
                            }
                        }
                        DiffItem::Remove(name, _) => {
                            changes += usize::from(map.remove(name).is_some());
                        }
                    }
                }
                let drifted = self.drifted.entry(kind).or_default();
                *drifted += changes;
                // Cut anew from the shared map now and then, or in the end nothing would be shared.
                if *drifted > own.len() {
                    *drifted = 0;
                    map = without(shared, own);
                }
                (map, changes > 0)
            }
        };
        self.source.set_offered(&type_url(kind), map);
        changed
    }
}

fn without(shared: &Offered, own: &OrdSet<Name>) -> Offered {
    let mut map = shared.clone();
    for name in own {
        map.remove(name);
    }
    map
}

fn type_url(kind: Kind) -> TypeUrl {
    TypeUrl::from(wire::type_url(kind))
}
