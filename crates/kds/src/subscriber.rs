//! Takes what one peer offers into a store.

use std::collections::BTreeSet;
use std::sync::Arc;

use zonal_delta::{
    Batch as Received, Held, Interest, Refused, Request, Response, Sink, TypeUrl, Wanted,
};
use zonal_delta::{Name, Nonce};
use zonal_federation::{
    Holdings, Incoming, Plan, Received as ReceivedResource, Refusal, Shaped, Side, plan, wire,
};
use zonal_model::{Json, Key, Kind, Resource, Scope, UnknownKind, labels, validate};
use zonal_mutants::mutant;
use zonal_store::{Batch, Expect, Snapshot, Stored};

use crate::membership::{deleted_at, deletion_told};

/// From whom resources come.
#[derive(Clone, Debug)]
pub enum From {
    /// This zone takes what global sends.
    Global,
    /// Global takes what a zone sends.
    Zone {
        /// The zone as it proved to be.
        name: Arc<str>,
        /// It does not hash names, so they get its name in front.
        prefix_names: bool,
    },
}

/// A received batch that waits to be kept.
#[derive(Clone, Debug)]
pub struct Pending {
    /// The kind.
    pub kind: Kind,
    nonce: Nonce,
    incoming: Incoming,
}

/// What a pending batch means for one snapshot of the store.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What to commit; empty when everything is there already. Its conditions are those of the snapshot: on a conflict
    /// plan again.
    pub batch: Batch,
    /// What is left out, and why.
    pub refused: Vec<Refusal>,
    /// How many resources are put.
    pub puts: usize,
    /// How many are removed.
    pub removes: usize,
    /// How many claimed another zone than the one that sent them.
    pub rewritten: usize,
}

/// Takes what one peer offers into a store.
#[derive(Debug)]
pub struct Subscriber {
    from: From,
    sink: Sink,
}

impl Subscriber {
    /// A subscriber for a new stream that takes the first set of each kind for the whole truth.
    #[must_use]
    pub fn new(from: From) -> Self {
        let interests = kinds(&from).map(|kind| interest(kind, Held::new()));
        let sink = Sink::new(interests);
        Self { from, sink }
    }

    /// A subscriber for a new stream that tells the peer what the store holds already, so that the difference alone is
    /// sent. What an `earlier` stream brought has the version that the peer gave it; for the rest versions are made from
    /// the content: what a peer of ours would send for it, if nothing has changed.
    #[must_use]
    pub fn resuming(from: From, snapshot: &Snapshot, earlier: Option<&Self>) -> Self {
        let interests: Vec<_> = kinds(&from)
            .map(|kind| {
                let mut held = held(&from, kind, snapshot);
                let type_url = TypeUrl::from(wire::type_url(kind));
                let known = earlier.and_then(|earlier| earlier.sink.held(&type_url));
                for (name, version) in known.into_iter().flatten() {
                    // What the store has lost since must come again.
                    if let Some(made) = held.get_mut(name) {
                        version.clone_into(made);
                    }
                }
                interest(kind, held)
            })
            .collect();
        Self {
            from,
            sink: Sink::new(interests),
        }
    }

    /// The peer is one of ours: sums go instead of versions where much is held.
    #[must_use]
    pub fn giving_sums(self) -> Self {
        Self {
            sink: self.sink.giving_sums(),
            ..self
        }
    }

    /// The next message to write. Call until `None`.
    pub fn poll_request(&mut self) -> Option<Request> {
        self.sink.poll_request()
    }

    /// Takes a message of the peer. `None` when it is about a kind that was not asked for.
    pub fn handle_response(&mut self, response: Response) -> Option<Pending> {
        let received = self.sink.handle_response(response).ok()?;
        let kind = wire::parse_type_url(received.type_url.as_str());
        let kind = kind.map_err(|UnknownKind(_)| ()).ok()?;
        let Received {
            nonce,
            upserts,
            removals,
            complete,
            ..
        } = received;
        let upserts = upserts
            .into_iter()
            .map(|upsert| ReceivedResource {
                name: upsert.name.to_string(),
                body_type: upsert.body_type.map(|body_type| body_type.to_string()),
                body: upsert.body,
            })
            .collect();
        let texts = |names: BTreeSet<Name>| names.iter().map(Name::to_string).collect();
        let incoming = Incoming {
            kind,
            upserts,
            removals: removals.iter().map(Name::to_string).collect(),
            complete: complete.map(texts),
        };
        Some(Pending {
            kind,
            nonce,
            incoming,
        })
    }

    /// What a batch means for the store as it is now. May be called again for the same batch.
    #[must_use]
    pub fn plan(&self, pending: &Pending, snapshot: &Snapshot) -> Planned {
        if let From::Zone { name, .. } = &self.from
            && let Some(at) = deleted_at(snapshot, name)
        {
            return refuse_all(pending, &deletion_told(name, at));
        }
        let get = |key: &Key| snapshot.get(key).map(|stored| &stored.resource);
        let list = |kind: Kind| match &self.from {
            From::Global => snapshot.list(kind).map(|stored| &stored.resource).collect(),
            // What a zone brought belongs to its record, so the other zones' resources need not be looked at.
            From::Zone { name, .. } => of_zone(name, kind, snapshot).collect(),
        };
        let holdings = Holdings {
            get: &get,
            list: &list,
        };
        let validate = |resource: &Resource| {
            let violations = validate(resource);
            (!violations.is_empty()).then(|| violations.to_string())
        };
        let Plan {
            puts,
            removes,
            refused,
            rewritten,
            ..
        } = plan(self.side(), pending.incoming.clone(), &holdings, &validate);
        let mut batch = Batch::new();
        if let From::Zone { name, .. } = &self.from
            && !puts.is_empty()
        {
            batch = match snapshot.get(&Key::global(Kind::Zone, name)) {
                // Changes nothing; if the zone is deleted meanwhile, nothing of it is left behind.
                Some(record) => {
                    batch.put_if(record.resource.clone(), Expect::Revision(record.revision))
                }
                None => batch.put_if(zone_record(name), Expect::Absent),
            };
        }
        let (put_count, remove_count) = (puts.len(), removes.len());
        let expect = |key: &Key| match snapshot.get(key) {
            _ if mutant!(WritesBlindly) => Expect::Any,
            Some(stored) => Expect::Revision(stored.revision),
            None => Expect::Absent,
        };
        for put in puts {
            let condition = expect(&put.resource.key);
            batch = batch.put_if(put.resource, condition);
        }
        let staying = self.in_meshes(&removes, snapshot);
        for stored in &staying {
            // Changes nothing; if the resource is another by now, the plan is made again.
            batch = batch.put_if(stored.resource.clone(), Expect::Revision(stored.revision));
        }
        for key in removes {
            let condition = expect(&key);
            batch = batch.remove_if(key, condition);
        }
        for stored in staying {
            batch = batch.put_if(stored.resource.clone(), Expect::Absent);
        }
        Planned {
            batch,
            refused,
            puts: put_count,
            removes: remove_count,
            rewritten,
        }
    }

    /// Says that a batch is kept but for what was refused. The answer is then due.
    pub fn applied(&mut self, pending: &Pending, refused: Vec<Refusal>) {
        let refused = refused
            .into_iter()
            .map(|Refusal { name, reason }| Refused {
                name: name.into(),
                reason,
            })
            .collect();
        let type_url = TypeUrl::from(wire::type_url(pending.kind));
        self.sink.applied(&type_url, &pending.nonce, refused);
    }

    /// Whether the store has lost what the peer brought, in a mesh that is there: the mesh was removed with all that was
    /// in it, and made again before the peer heard of it. The peer thinks that all is well; only a new stream brings it
    /// again. Looks at everything that is held, so ask when meshes have changed.
    #[must_use]
    pub fn has_lost(&self, snapshot: &Snapshot) -> bool {
        let in_meshes = kinds(&self.from).filter(|kind| kind.descriptor().scope == Scope::Mesh);
        in_meshes
            .filter_map(|kind| Some((kind, self.sink.held(&TypeUrl::from(wire::type_url(kind)))?)))
            .flat_map(|(kind, held)| held.keys().map(move |name| (kind, name)))
            .map(|(kind, name)| wire::parse_wire_name(kind, name.as_str()))
            .any(|key| {
                snapshot.get(&key).is_none()
                    && snapshot.get(&Key::global(Kind::Mesh, &*key.mesh)).is_some()
            })
    }

    /// Whether the first answer of every kind is through.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.sink.is_live()
    }

    /// What the peer has in meshes that are about to be removed. With a mesh goes what the zone has in it; what the peer
    /// has in it stays until the peer says otherwise: each kind travels by itself, and a mesh that comes again may find
    /// that the peer never took its resources away.
    fn in_meshes<'a>(&self, removes: &[Key], snapshot: &'a Snapshot) -> Vec<&'a Arc<Stored>> {
        if mutant!(MeshTakesCopiesAlong) {
            return Vec::new();
        }
        let meshes = removes.iter().filter(|key| key.kind == Kind::Mesh);
        meshes
            .flat_map(|mesh| {
                kinds(&self.from)
                    .filter(|kind| kind.descriptor().scope == Scope::Mesh)
                    .flat_map(|kind| snapshot.list_in_mesh(kind, &mesh.name))
            })
            .filter(|stored| is_from(&self.from, &stored.resource))
            .collect()
    }

    fn side(&self) -> Side<'_> {
        match &self.from {
            From::Global => Side::Zone,
            From::Zone { name, prefix_names } => Side::Global {
                zone: name,
                prefix_names: *prefix_names,
            },
        }
    }
}

fn refuse_all(pending: &Pending, reason: &str) -> Planned {
    let refused = pending.incoming.upserts.iter().map(|upsert| Refusal {
        name: upsert.name.clone(),
        reason: reason.to_owned(),
    });
    Planned {
        batch: Batch::new(),
        refused: refused.collect(),
        puts: 0,
        removes: 0,
        rewritten: 0,
    }
}

/// The record of a zone that nobody has made by hand: enabled.
#[must_use]
pub fn zone_record(name: &str) -> Resource {
    let enabled = Json::from_canonical(r#"{"enabled":true}"#);
    Resource::new(Key::global(Kind::Zone, name), enabled)
}

fn kinds(from: &From) -> impl Iterator<Item = Kind> + use<> {
    let down = matches!(from, From::Global);
    Kind::ALL.iter().copied().filter(move |kind| {
        let descriptor = kind.descriptor();
        if down {
            descriptor.goes_down()
        } else {
            descriptor.goes_up()
        }
    })
}

fn interest(kind: Kind, held: Held) -> Interest {
    Interest {
        type_url: TypeUrl::from(wire::type_url(kind)),
        wanted: Wanted::All,
        held,
    }
}

/// What the store holds of a kind from the peer, with the versions that the peer would give it.
fn held(from: &From, kind: Kind, snapshot: &Snapshot) -> Held {
    let resources: Vec<&Resource> = match from {
        From::Global => snapshot.list(kind).map(|stored| &stored.resource).collect(),
        From::Zone { name, .. } => of_zone(name, kind, snapshot).collect(),
    };
    resources
        .into_iter()
        .filter(|resource| is_from(from, resource))
        .filter_map(|resource| {
            let has_status = kind.descriptor().has_status;
            let status = match from {
                From::Global => Some(Json::empty_object()),
                From::Zone { .. } => Some(resource.status.clone().unwrap_or_default()),
            };
            let shaped = Shaped {
                key: resource.key.clone(),
                labels: resource.meta.labels.clone(),
                spec: resource.spec.clone(),
                status: status.filter(|_| has_status),
            };
            let offer = wire::encode(&shaped).ok()?;
            Some((Name::from(offer.name), offer.version.into()))
        })
        .collect()
}

/// What a zone has brought of a kind.
fn of_zone<'a>(
    zone: &str,
    kind: Kind,
    snapshot: &'a Snapshot,
) -> impl Iterator<Item = &'a Resource> + use<'a> {
    snapshot
        .owned_by(&Key::global(Kind::Zone, zone))
        .into_iter()
        .filter(move |key| key.kind == kind)
        .filter_map(|key| snapshot.get(&key).map(|stored| &stored.resource))
}

fn is_from(from: &From, resource: &Resource) -> bool {
    match from {
        From::Global => resource.label(labels::ORIGIN) == Some("global"),
        From::Zone { name, prefix_names } => {
            !prefix_names && resource.label(labels::ZONE) == Some(name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zonal_federation::Shape;

    #[test]
    fn the_shapes_of_both_ends_agree() {
        // A resource sent down and kept has, encoded again, the version under which it was sent.
        let key = Key::new(Kind::MeshService, "default", "web");
        let mut service = Resource::new(
            key,
            Json::from_canonical(r#"{"ports":[],"state":"Available"}"#),
        );
        service
            .meta
            .labels
            .insert(labels::ZONE.to_owned(), "east".to_owned());
        let shaped = Shape::Down { hash_suffix: true }
            .apply(&service, &[])
            .unwrap();
        let sent = wire::encode(&shaped).unwrap();
        let kept = wire::decode(Kind::MeshService, None, sent.body.clone()).unwrap();
        let again = Shaped {
            key: kept.key.clone(),
            labels: kept.meta.labels.clone(),
            spec: kept.spec,
            status: Some(Json::empty_object()),
        };
        assert_eq!(wire::encode(&again).unwrap(), sent);
    }
}
