//! What is offered, made once for everybody who sees it alike.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use parking_lot::Mutex;
use zonal_delta::{Entry, Name, Offered};
use zonal_federation::{Encodings, Features, Receiver, Shape, wire};
use zonal_model::{Kind, Resource};
use zonal_mutants::mutant;
use zonal_store::{Change, Snapshot, Stored};

use crate::membership::Share;
use crate::publisher::Problem;

/// Who looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// Zones that announced the same features. All see the same, each without what is its own.
    Zones(Features),
    /// Global, looking at this zone.
    Global(Arc<str>),
}

/// Problems kept for the shell to log; the rest of a flood says nothing new.
const PROBLEMS_MAX: usize = 64;

/// What one view shows of one snapshot. Cheap to clone: neighbours in time share what they have in common.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    view: View,
    pub(crate) snapshot: Arc<Snapshot>,
    maps: BTreeMap<Kind, Offered>,
    /// Which of the names came from which zone; that zone does not see them.
    own: OrdMap<(Arc<str>, Kind), OrdSet<Name>>,
}

impl Layer {
    pub(crate) fn new(
        view: View,
        to: &Arc<Snapshot>,
        encodings: &Encodings,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut layer = Self {
            view,
            snapshot: Arc::clone(to),
            maps: BTreeMap::new(),
            own: OrdMap::new(),
        };
        for kind in layer.view.kinds() {
            let mut map = Offered::new();
            for stored in to.list(kind) {
                layer.update(&mut map, None, Some(stored), encodings, problems);
            }
            layer.maps.insert(kind, map);
        }
        layer
    }

    /// The layer of a newer snapshot; costs the difference.
    pub(crate) fn follow(
        &self,
        to: &Arc<Snapshot>,
        encodings: &Encodings,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let from = &self.snapshot;
        if from.epoch() != to.epoch() {
            return Self::new(self.view.clone(), to, encodings, problems);
        }
        let mut layer = Self {
            snapshot: Arc::clone(to),
            ..self.clone()
        };
        for kind in self.view.kinds() {
            if to.same_kind(kind, from) {
                continue;
            }
            let mut map = layer.map(kind).clone();
            for Change { old, new, .. } in to.changes_of_kind_since(kind, from) {
                let earlier = |new: &Arc<Stored>| new.revision < to.revision();
                if mutant!(MergedWakesMissed) && new.as_ref().is_some_and(earlier) {
                    continue;
                }
                layer.update(
                    &mut map,
                    old.as_deref(),
                    new.as_deref(),
                    encodings,
                    problems,
                );
            }
            layer.maps.insert(kind, map);
        }
        layer.follow_switches(from, encodings, problems);
        layer
    }

    pub(crate) fn map(&self, kind: Kind) -> &Offered {
        static NONE: std::sync::LazyLock<Offered> = std::sync::LazyLock::new(Offered::new);
        self.maps.get(&kind).unwrap_or(&NONE)
    }

    /// The names of a kind that came from a zone.
    pub(crate) fn own(&self, zone: &Arc<str>, kind: Kind) -> Option<&OrdSet<Name>> {
        self.own
            .get(&(Arc::clone(zone), kind))
            .filter(|names| !names.is_empty())
    }

    /// A zone that was switched off or on, or drained, takes its resources away from the others, or gives them back.
    fn follow_switches(
        &mut self,
        from: &Snapshot,
        encodings: &Encodings,
        problems: &mut Vec<Problem>,
    ) {
        let to = Arc::clone(&self.snapshot);
        let unchanged = to.same_kind(Kind::Zone, from) || mutant!(SwitchedOffStays);
        if !matches!(self.view, View::Zones(_)) || unchanged {
            return;
        }
        let switched: BTreeSet<Arc<str>> = to
            .changes_of_kind_since(Kind::Zone, from)
            .into_iter()
            .map(|change| change.key.name)
            .filter(|zone| Share::of(from, zone) != Share::of(&to, zone))
            .collect();
        if switched.is_empty() {
            return;
        }
        for kind in self
            .view
            .kinds()
            .filter(|kind| encodings.border().spreads(*kind))
        {
            let mut map = self.map(kind).clone();
            for stored in to.list(kind) {
                if stored
                    .resource
                    .zone()
                    .is_some_and(|zone| switched.contains(zone))
                {
                    self.update(&mut map, Some(stored), Some(stored), encodings, problems);
                }
            }
            self.maps.insert(kind, map);
        }
    }

    fn update(
        &mut self,
        map: &mut Offered,
        old: Option<&Stored>,
        new: Option<&Stored>,
        encodings: &Encodings,
        problems: &mut Vec<Problem>,
    ) {
        let shape = self.view.shape();
        let skip = &encodings.border().skip_prefixes;
        let offer = new
            .filter(|stored| self.crosses(&stored.resource, encodings))
            .and_then(|stored| {
                let Stored {
                    resource, revision, ..
                } = stored;
                match encodings.encoded(resource, revision.0, &shape) {
                    Ok(offer) => Some(offer),
                    Err(cause) => {
                        if problems.len() < PROBLEMS_MAX {
                            problems.push(Problem {
                                key: resource.key.clone(),
                                cause,
                            });
                        }
                        None
                    }
                }
            });
        // What never crossed is not withdrawn: on the far side a copy from elsewhere may have the name of an own resource.
        let crossed = old.filter(|stored| {
            mutant!(WithdrawsWhatNeverCrossed)
                || self.may_cross(&stored.resource, encodings, &|_| true)
        });
        if let Some(old) = crossed {
            let name = wire::wire_name(&shape.far_key(&old.resource, skip));
            self.change_own(&old.resource, |names| {
                names.remove(name.as_str());
            });
            if offer.as_ref().is_none_or(|offer| *offer.name != *name) {
                map.remove(name.as_str());
            }
        }
        if let (Some(old), None) = (old, new) {
            encodings.forget(&old.resource.key);
        }
        if let (Some(offer), Some(new)) = (offer, new) {
            let name = Name::from(offer.name);
            let entry = Entry {
                version: offer.version.into(),
                body: offer.body,
            };
            self.change_own(&new.resource, |names| {
                names.insert(name.clone());
            });
            if map.get(&name) != Some(&entry) {
                map.insert(name, entry);
            }
        }
    }

    fn change_own(&mut self, resource: &Resource, change: impl FnOnce(&mut OrdSet<Name>)) {
        // A zone's resources say so; global's own may carry a zone label that means nothing.
        let from_zone = resource.label(zonal_model::labels::ORIGIN) == Some("zone");
        if let (View::Zones(_), true, Some(zone)) = (&self.view, from_zone, resource.zone()) {
            let key = (Arc::from(zone), resource.key.kind);
            change(self.own.entry(key).or_default());
        }
    }

    fn crosses(&self, resource: &Resource, encodings: &Encodings) -> bool {
        let kind = resource.key.kind;
        self.may_cross(resource, encodings, &|zone| {
            Share::of(&self.snapshot, zone).has(kind)
        })
    }

    fn may_cross(
        &self,
        resource: &Resource,
        encodings: &Encodings,
        is_enabled: &dyn Fn(&str) -> bool,
    ) -> bool {
        match &self.view {
            View::Zones(features) => {
                // No zone has this name: what is whose own is told apart later.
                let receiver = Receiver {
                    zone: "",
                    features: *features,
                    is_enabled,
                };
                encodings.border().crosses_down(resource, &receiver)
            }
            View::Global(_) => encodings.border().crosses_up(resource),
        }
    }
}

impl View {
    pub(crate) fn kinds(&self) -> impl Iterator<Item = Kind> + use<> {
        let down = matches!(self, Self::Zones(_));
        Kind::ALL.iter().copied().filter(move |kind| {
            let descriptor = kind.descriptor();
            if down {
                descriptor.goes_down()
            } else {
                descriptor.goes_up()
            }
        })
    }

    fn shape(&self) -> Shape {
        match self {
            Self::Zones(features) => Shape::Down {
                hash_suffix: features.hash_suffix,
            },
            Self::Global(zone) => Shape::Up {
                zone: Arc::clone(zone),
            },
        }
    }
}

/// The newest layer of each view. Whoever comes first with a newer snapshot makes the layer; the others take it.
#[derive(Debug)]
pub struct Shelf {
    encodings: Arc<Encodings>,
    layers: Mutex<Vec<(View, Arc<Layer>)>>,
}

impl Shelf {
    /// Nothing was looked at yet.
    #[must_use]
    pub fn new(encodings: Arc<Encodings>) -> Self {
        Self {
            encodings,
            layers: Mutex::default(),
        }
    }

    /// The layer of a snapshot, or of a newer one of the same store.
    pub(crate) fn at_least(
        &self,
        view: &View,
        to: &Arc<Snapshot>,
        problems: &mut Vec<Problem>,
    ) -> Arc<Layer> {
        let mut layers = self.layers.lock();
        let known = layers.iter().position(|(known, _)| known == view);
        let Some((_, layer)) = known.and_then(|index| layers.get_mut(index)) else {
            let layer = Arc::new(Layer::new(view.clone(), to, &self.encodings, problems));
            layers.push((view.clone(), Arc::clone(&layer)));
            return layer;
        };
        let same_store = layer.snapshot.epoch() == to.epoch();
        if !same_store || layer.snapshot.revision() < to.revision() {
            *layer = Arc::new(layer.follow(to, &self.encodings, problems));
        }
        Arc::clone(layer)
    }
}
