//! What a received batch means for the store it arrives at.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde_json::Value;
use zonal_model::names::name_problem;
use zonal_model::{Json, Key, Kind, Resource, labels};
use zonal_mutants::mutant;

use crate::border::{originates, zone_provides};
use crate::wire::{decode, parse_wire_name};

/// Where a batch arrives.
#[derive(Clone, Copy, Debug)]
pub enum Side<'a> {
    /// In a zone, from global.
    Zone,
    /// At global, from a zone.
    Global {
        /// The zone as it proved to be, whatever its resources say.
        zone: &'a str,
        /// It does not hash names, so they get its name in front.
        prefix_names: bool,
    },
}

/// One received resource.
#[derive(Clone, Debug)]
pub struct Received {
    /// Its name on the wire.
    pub name: String,
    /// What it says its type is.
    pub body_type: Option<String>,
    /// The envelope.
    pub body: Bytes,
}

/// A received batch.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The kind.
    pub kind: Kind,
    /// New and changed resources.
    pub upserts: Vec<Received>,
    /// Names on the wire that are gone.
    pub removals: Vec<String>,
    /// Set when the batch ends a full set: every name of it. What the store holds from this peer beside is gone.
    pub complete: Option<BTreeSet<String>>,
}

/// What the store holds.
pub struct Holdings<'a> {
    /// One resource.
    pub get: &'a dyn Fn(&Key) -> Option<&'a Resource>,
    /// All of a kind. Asked only for full sets.
    pub list: &'a dyn Fn(Kind) -> Vec<&'a Resource>,
}

impl std::fmt::Debug for Holdings<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Holdings")
    }
}

/// One resource to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The resource.
    pub resource: Resource,
    /// One of that key is there already and belongs to the peer. The write is good only for the state that was planned
    /// upon; if it has changed, plan again.
    pub replaces: bool,
}

/// One received resource that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its name on the wire.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// What to do about a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What to keep, in the order received.
    pub puts: Vec<Put>,
    /// What to remove.
    pub removes: Vec<Key>,
    /// What is left out; neither written nor removed.
    pub refused: Vec<Refusal>,
    /// How many are kept already just so.
    pub unchanged: usize,
    /// How many claimed another zone than the one that sent them, inside their spec.
    pub rewritten: usize,
}

/// Says what a batch means for the store it arrives at. `validate` gives what is wrong with a resource, if anything.
///
/// Total: whatever the peer sent, each resource either is planned for or is refused with a reason.
pub fn plan(
    side: Side<'_>,
    incoming: Incoming,
    holdings: &Holdings<'_>,
    validate: &dyn Fn(&Resource) -> Option<String>,
) -> Plan {
    let Incoming {
        kind,
        upserts,
        removals,
        complete,
    } = incoming;
    let mut plan = Plan::default();
    // The peer still has these: never remove them, whether or not they can be kept.
    let mut mentioned: BTreeSet<Key> = BTreeSet::new();
    let mut puts: BTreeMap<Key, Put> = BTreeMap::new();
    for received in upserts {
        mentioned.insert(side.key(kind, &received.name));
        let name = received.name.clone();
        match side.take(kind, received, holdings, validate) {
            Ok(taken) => {
                mentioned.insert(taken.resource.key.clone());
                plan.rewritten += usize::from(taken.rewritten);
                if taken.changes {
                    let put = Put {
                        resource: taken.resource,
                        replaces: taken.replaces,
                    };
                    puts.insert(put.resource.key.clone(), put);
                } else {
                    puts.remove(&taken.resource.key);
                    plan.unchanged += 1;
                }
            }
            Err(reason) => plan.refused.push(Refusal { name, reason }),
        }
    }
    if mutant!(OneBadBlocksItsKind) && !plan.refused.is_empty() {
        puts.clear();
    }
    plan.puts = puts.into_values().collect();
    let mut removes: BTreeSet<Key> = removals.iter().map(|name| side.key(kind, name)).collect();
    if let Some(complete) = complete {
        mentioned.extend(complete.iter().map(|name| side.key(kind, name)));
        let held = (holdings.list)(kind).into_iter();
        removes.extend(
            held.filter(|held| side.owns(held) && side.brought(held))
                .map(|held| held.key.clone()),
        );
    }
    plan.removes = removes
        .into_iter()
        .filter(|key| !mentioned.contains(key))
        .filter(|key| (holdings.get)(key).is_some_and(|held| side.owns(held)))
        .collect();
    plan
}

struct Taken {
    resource: Resource,
    replaces: bool,
    changes: bool,
    rewritten: bool,
}

impl Side<'_> {
    /// Whether a resource of the store came from this peer, so that the peer may change and remove it.
    fn owns(&self, resource: &Resource) -> bool {
        match self {
            Self::Zone if mutant!(FirstSetDeletesOwn) => true,
            Self::Zone => !zone_provides(resource.key.kind) || !originates(resource, "zone"),
            Self::Global { zone, .. } => {
                resource.label(labels::ZONE) == Some(zone)
                    || resource
                        .key
                        .name
                        .strip_prefix(*zone)
                        .is_some_and(|rest| rest.starts_with('.'))
            }
        }
    }

    /// Whether a resource is a copy of what this peer sent. A zone that was on its own has meshes that its global never
    /// had: a list without them is no reason to remove them, with everything in them.
    fn brought(&self, resource: &Resource) -> bool {
        match self {
            Self::Zone => resource.label(labels::ORIGIN) == Some("global"),
            Self::Global { .. } => true,
        }
    }

    fn key(&self, kind: Kind, name: &str) -> Key {
        let mut key = parse_wire_name(kind, name);
        self.prefix(&mut key);
        key
    }

    fn prefix(&self, key: &mut Key) {
        if let Self::Global {
            zone,
            prefix_names: true,
        } = self
        {
            key.name = format!("{zone}.{}", key.name).into();
        }
    }

    fn take(
        &self,
        kind: Kind,
        received: Received,
        holdings: &Holdings<'_>,
        validate: &dyn Fn(&Resource) -> Option<String>,
    ) -> Result<Taken, String> {
        let mut resource = decode(kind, received.body_type.as_deref(), received.body)
            .map_err(|error| error.to_string())?;
        if let Some(problem) = name_problem(&resource.key.name) {
            return Err(format!("name: {problem}"));
        }
        self.prefix(&mut resource.key);
        let rewritten = self.attribute(&mut resource);
        if let Some(problems) = validate(&resource) {
            return Err(problems);
        }
        if !self.owns(&resource) {
            return Err(format!(
                "labels[\"{}\"]: must be `global` on what global sends",
                labels::ORIGIN
            ));
        }
        let held = (holdings.get)(&resource.key);
        if let Some(held) = held.filter(|held| !self.owns(held)) {
            return Err(match self {
                Self::Zone => format!("the zone has {} of its own", held.key),
                Self::Global { .. } => {
                    let owner = held.zone().unwrap_or("global");
                    format!("{} exists already and belongs to `{owner}`", held.key)
                }
            });
        }
        let changes = match (self, held) {
            (_, None) => true,
            (Self::Zone, Some(held)) => {
                // Each zone finds out a status for itself: addresses it has given out must survive every sync.
                if !mutant!(AddressLostOnSync) {
                    resource.status.clone_from(&held.status);
                }
                resource.differs(held)
            }
            // A copy that belongs to no zone yet is written once more, so that it goes when its zone does.
            (Self::Global { .. }, Some(held)) => {
                resource.differs(held) || resource.owner != held.owner
            }
        };
        Ok(Taken {
            resource,
            replaces: held.is_some(),
            changes,
            rewritten,
        })
    }

    /// Writes the true sender over whatever the resource claims; true if its spec claimed another zone.
    fn attribute(&self, resource: &mut Resource) -> bool {
        let Self::Global { zone, .. } = self else {
            return false;
        };
        let members = &mut resource.meta.labels;
        members.insert(labels::ZONE.to_owned(), (*zone).to_owned());
        members.insert(labels::ORIGIN.to_owned(), "zone".to_owned());
        resource.owner = Some(Key::global(Kind::Zone, zone));
        if resource.key.kind != Kind::Dataplane {
            return false;
        }
        let mut spec = resource.spec.to_value();
        let tag = spec
            .pointer_mut("/networking/gateway/tags")
            .and_then(|tags| tags.get_mut(labels::ZONE))
            .filter(|tag| tag.as_str() != Some(zone));
        let Some(tag) = tag else { return false };
        *tag = Value::from(*zone);
        resource.spec = Json::from_value(&spec);
        true
    }
}
