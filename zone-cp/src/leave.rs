//! A zone leaves the federation and goes on alone with what it has.

use zonal_model::{KdsFlags, Kind, Resource, labels};
use zonal_store::{Batch, Expect, Snapshot};

/// What leaving changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// Copies of what global owned, which are the zone's own from now on.
    pub(crate) adopted: usize,
    /// Copies of what other zones own: nobody would tell any more when they change.
    pub(crate) dropped: usize,
}

/// What makes the zone's store that of a zone on its own: what came from global becomes the zone's, under the names it has;
/// what came from other zones goes. Empty when the zone has left already.
pub(crate) fn plan(snapshot: &Snapshot, zone: &str) -> (Batch, Left) {
    let mut batch = Batch::new();
    let mut left = Left::default();
    let copies = snapshot
        .all()
        .filter(|stored| stored.resource.label(labels::ORIGIN) == Some("global"));
    for stored in copies {
        let key = stored.resource.key.clone();
        let expect = Expect::Revision(stored.revision);
        let of_another = stored.resource.zone().is_some_and(|owner| owner != zone);
        if of_another {
            left.dropped += 1;
            batch = batch.remove_if(key, expect);
        } else {
            left.adopted += 1;
            batch = batch.put_if(adopted(&stored.resource, zone), expect);
        }
    }
    (batch, left)
}

fn adopted(resource: &Resource, zone: &str) -> Resource {
    let mut own = resource.clone();
    let members = &mut own.meta.labels;
    members.insert(labels::ORIGIN.to_owned(), "zone".to_owned());
    // As on what a zone makes itself: a mesh, for one, names no zone.
    let kds = resource.key.kind.descriptor().kds;
    if kds.contains(KdsFlags::PROVIDED_BY_ZONE) {
        members.insert(labels::ZONE.to_owned(), zone.to_owned());
    }
    own
}

/// Whether the store has copies of what a global owns.
pub(crate) fn was_federated(snapshot: &Snapshot) -> bool {
    let is_copy = |kind: Kind| {
        snapshot
            .list(kind)
            .any(|stored| stored.resource.label(labels::ORIGIN) == Some("global"))
    };
    is_copy(Kind::Config) || is_copy(Kind::Mesh)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use zonal_model::{Json, Key};
    use zonal_store::{MemoryStore, Store as _};

    fn resource(kind: Kind, name: &str, origin: Option<&str>, zone: Option<&str>) -> Resource {
        let mut resource = Resource::new(Key::new(kind, "default", name), Json::empty_object());
        let members = &mut resource.meta.labels;
        for (label, value) in [(labels::ORIGIN, origin), (labels::ZONE, zone)] {
            if let Some(value) = value {
                members.insert(label.to_owned(), value.to_owned());
            }
        }
        resource
    }

    #[test]
    fn what_came_from_global_stays_and_what_came_from_other_zones_goes() {
        let store = MemoryStore::new(Arc::new(jiff::Timestamp::now));
        let resources = [
            resource(Kind::MeshTimeout, "global-one", Some("global"), None),
            resource(Kind::MeshTimeout, "own", Some("zone"), Some("east")),
            resource(Kind::MeshService, "derived", None, None),
            resource(Kind::MeshService, "theirs", Some("global"), Some("west")),
            resource(Kind::MeshTrust, "theirs", Some("global"), Some("west")),
        ];
        let batch = resources.into_iter().fold(Batch::new(), Batch::put);
        store.commit_now(batch).unwrap();
        let before = store.snapshot();
        let (batch, left) = plan(&before, "east");
        assert_eq!((left.adopted, left.dropped), (1, 2));
        store.commit_now(batch).unwrap();
        let after = store.snapshot();
        let names: Vec<String> = after
            .all()
            .map(|stored| {
                let resource = &stored.resource;
                format!("{} {:?}", resource.key.name, resource.label(labels::ORIGIN))
            })
            .collect();
        let mut names = names;
        names.sort();
        assert_eq!(
            names,
            [
                "derived None",
                "global-one Some(\"zone\")",
                "own Some(\"zone\")"
            ]
        );
        // Once is enough.
        assert!(plan(&after, "east").0.is_empty());
        assert!(!was_federated(&after));
    }
}
