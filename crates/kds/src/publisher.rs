//! Offers what a store holds to one peer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use zonal_delta::{
    Entry, Event, Mark, Name, Offered, Request, Response, Settings, Source, TypeUrl,
};
use zonal_federation::{EncodeError, Encodings, Features, Receiver, Shape, wire};
use zonal_model::{Key, Kind, Resource};
use zonal_store::{Change, Revision, Snapshot, Stored};

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

/// Problems kept for the shell to log; the rest of a flood says nothing new.
const PROBLEMS_MAX: usize = 64;

/// Offers what a store holds to one peer, following the store's snapshots.
#[derive(Debug)]
pub struct Publisher {
    direction: Direction,
    encodings: Arc<Encodings>,
    source: Source,
    snapshot: Option<Arc<Snapshot>>,
    problems: Vec<Problem>,
    /// Counts changes of what is offered.
    offers: u64,
}

impl Publisher {
    /// A publisher for a new stream. It is silent until the first snapshot.
    #[must_use]
    pub fn new(direction: Direction, encodings: Arc<Encodings>) -> Self {
        let settings = match &direction {
            Direction::Down { features, .. } | Direction::Up { features, .. } if features.ours => {
                Settings::own_peer()
            }
            Direction::Down { .. } | Direction::Up { .. } => Settings::kuma_peer(),
        };
        let types = kinds(&direction).map(|kind| TypeUrl::from(wire::type_url(kind)));
        let source = Source::new(settings, types);
        Self {
            direction,
            encodings,
            source,
            snapshot: None,
            problems: Vec::new(),
            offers: 0,
        }
    }

    /// Takes the newest state of the store. Snapshots between may be skipped. True if it changes anything for the peer.
    pub fn handle_snapshot(&mut self, to: &Arc<Snapshot>) -> bool {
        let before = self.offers;
        match self.snapshot.take() {
            Some(from) if from.epoch() == to.epoch() => self.follow(&from, to),
            _ => {
                self.offers += 1;
                for kind in kinds(&self.direction) {
                    self.offer_all(kind, to);
                }
            }
        }
        self.source.set_mark(Mark(to.revision().0));
        self.snapshot = Some(Arc::clone(to));
        self.offers != before
    }

    /// Takes a message of the peer.
    pub fn handle_request(&mut self, now: Instant, request: Request) -> Vec<Event> {
        self.source.handle_request(now, request)
    }

    /// The next message to write. Call until `None`.
    pub fn poll_response(&mut self, now: Instant) -> Option<Response> {
        // Before the first snapshot even an unknown type is not answered: nothing is known to be absent.
        self.snapshot.as_ref()?;
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
        self.snapshot
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
        self.source
            .offered(&TypeUrl::from(wire::type_url(kind)))
            .map_or(0, Offered::len)
    }

    fn follow(&mut self, from: &Snapshot, to: &Snapshot) {
        for kind in kinds(&self.direction) {
            if to.same_kind(kind, from) {
                continue;
            }
            let mut offered = self.offered(kind);
            for Change { old, new, .. } in to.changes_of_kind_since(kind, from) {
                self.update(&mut offered, old.as_deref(), new.as_deref(), to);
            }
            self.source
                .set_offered(&TypeUrl::from(wire::type_url(kind)), offered);
        }
        self.follow_switches(from, to);
    }

    /// A zone that was switched off or on takes its resources away from the others, or gives them back.
    fn follow_switches(&mut self, from: &Snapshot, to: &Snapshot) {
        if !matches!(self.direction, Direction::Down { .. }) || to.same_kind(Kind::Zone, from) {
            return;
        }
        let switched: BTreeSet<Key> = to
            .changes_of_kind_since(Kind::Zone, from)
            .into_iter()
            .map(|change| change.key)
            .filter(|key| is_enabled(from, &key.name) != is_enabled(to, &key.name))
            .collect();
        if switched.is_empty() {
            return;
        }
        for kind in kinds(&self.direction) {
            if !self.encodings.border().spreads(kind) {
                continue;
            }
            let mut offered = self.offered(kind);
            for stored in to.list(kind) {
                let zone = stored.resource.zone().unwrap_or_default();
                if switched.contains(&Key::global(Kind::Zone, zone)) {
                    self.update(&mut offered, Some(stored), Some(stored), to);
                }
            }
            self.source
                .set_offered(&TypeUrl::from(wire::type_url(kind)), offered);
        }
    }

    fn offer_all(&mut self, kind: Kind, to: &Snapshot) {
        let mut offered = Offered::new();
        for stored in to.list(kind) {
            self.update(&mut offered, None, Some(stored), to);
        }
        self.source
            .set_offered(&TypeUrl::from(wire::type_url(kind)), offered);
    }

    fn offered(&self, kind: Kind) -> Offered {
        self.source
            .offered(&TypeUrl::from(wire::type_url(kind)))
            .cloned()
            .unwrap_or_default()
    }

    fn update(
        &mut self,
        offered: &mut Offered,
        old: Option<&Stored>,
        new: Option<&Stored>,
        to: &Snapshot,
    ) {
        let shape = self.shape();
        let skip = &self.encodings.border().skip_prefixes;
        let name = |resource: &Resource| wire::wire_name(&shape.far_key(resource, skip));
        // What never crossed must not be withdrawn: a copy from elsewhere may have, on the far side, the name of an own
        // resource.
        let old_name = old
            .filter(|stored| self.may_cross(&stored.resource, &|_| true))
            .map(|stored| name(&stored.resource));
        let offer = new
            .filter(|stored| self.crosses(&stored.resource, to))
            .and_then(|stored| {
                self.encodings
                    .encoded(&stored.resource, stored.revision.0, &shape)
                    .map_err(|cause| (stored.resource.key.clone(), cause))
                    .inspect_err(|(key, cause)| {
                        if self.problems.len() < PROBLEMS_MAX {
                            self.problems.push(Problem {
                                key: key.clone(),
                                cause: Arc::clone(cause),
                            });
                        }
                    })
                    .ok()
            });
        if let Some(old_name) = old_name
            && offer.as_ref().is_none_or(|offer| *offer.name != *old_name)
            && offered.remove(old_name.as_str()).is_some()
        {
            self.offers += 1;
        }
        if let Some(offer) = offer {
            let entry = Entry {
                version: offer.version.into(),
                body: offer.body,
            };
            if offered.get(&*offer.name) != Some(&entry) {
                offered.insert(Name::from(offer.name), entry);
                self.offers += 1;
            }
        }
        if let (Some(old), None) = (old, new) {
            self.encodings.forget(&old.resource.key);
        }
    }

    fn shape(&self) -> Shape {
        match &self.direction {
            Direction::Down { features, .. } => Shape::Down {
                hash_suffix: features.hash_suffix,
            },
            Direction::Up { zone, .. } => Shape::Up {
                zone: Arc::clone(zone),
            },
        }
    }

    fn crosses(&self, resource: &Resource, to: &Snapshot) -> bool {
        self.may_cross(resource, &|zone| is_enabled(to, zone))
    }

    fn may_cross(&self, resource: &Resource, is_enabled: &dyn Fn(&str) -> bool) -> bool {
        match &self.direction {
            Direction::Down { zone, features } => {
                let receiver = Receiver {
                    zone,
                    features: *features,
                    is_enabled,
                };
                self.encodings.border().crosses_down(resource, &receiver)
            }
            Direction::Up { .. } => self.encodings.border().crosses_up(resource),
        }
    }
}

fn kinds(direction: &Direction) -> impl Iterator<Item = Kind> + use<> {
    let down = matches!(direction, Direction::Down { .. });
    Kind::ALL.iter().copied().filter(move |kind| {
        let descriptor = kind.descriptor();
        if down {
            descriptor.goes_down()
        } else {
            descriptor.goes_up()
        }
    })
}

/// Whether a zone's resources go to the others: unless its record says `enabled: false`.
fn is_enabled(snapshot: &Snapshot, zone: &str) -> bool {
    snapshot
        .get(&Key::global(Kind::Zone, zone))
        .is_none_or(|stored| {
            stored
                .resource
                .spec
                .to_value()
                .get("enabled")
                .and_then(|v| v.as_bool())
                != Some(false)
        })
}
