//! What a zone's record says about its part in the federation, and the note that stays of one that was deleted.

use jiff::Timestamp;
use zonal_model::{Json, Key, Kind, Resource, labels};
use zonal_store::{Op, Snapshot};

/// What the others get of a zone's resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Everything that crosses.
    All,
    /// Everything but the addresses of its ingresses: its services stay known, and nobody goes there.
    Unreachable,
    /// Nothing.
    Nothing,
}

impl Share {
    /// Read from the zone's record: nothing with `enabled: false`, no addresses with the label `zonal.io/drained`. A
    /// zone without a record shares all.
    #[must_use]
    pub fn of(snapshot: &Snapshot, zone: &str) -> Self {
        let Some(stored) = snapshot.get(&Key::global(Kind::Zone, zone)) else {
            return Self::All;
        };
        let spec = stored.resource.spec.to_value();
        if spec.get("enabled").and_then(|v| v.as_bool()) == Some(false) {
            Self::Nothing
        } else if stored.resource.label(labels::DRAINED) == Some("true") {
            Self::Unreachable
        } else {
            Self::All
        }
    }

    /// Whether the others get the zone's resources of a kind.
    #[must_use]
    pub fn has(self, kind: Kind) -> bool {
        match self {
            Self::All => true,
            Self::Unreachable => kind != Kind::MeshZoneAddress,
            Self::Nothing => false,
        }
    }
}

/// Kept in the same commit that removes a zone's record, so that the zone does not come back by itself.
#[must_use]
pub fn note_of_deletion(zone: &str) -> Op {
    let spec = Json::from_canonical(r#"{"config":""}"#);
    Op::Put {
        resource: Resource::new(note_key(zone), spec),
        expect: zonal_store::Expect::Any,
    }
}

/// Kept in the same commit that makes the zone's record anew: it may come back.
#[must_use]
pub fn forget_deletion(zone: &str) -> Op {
    Op::Remove {
        key: note_key(zone),
        expect: zonal_store::Expect::Any,
    }
}

/// Since when a zone is out; `None` for one that may come.
#[must_use]
pub fn deleted_at(snapshot: &Snapshot, zone: &str) -> Option<Timestamp> {
    if snapshot.get(&Key::global(Kind::Zone, zone)).is_some() {
        return None;
    }
    let note = snapshot.get(&note_key(zone))?;
    Some(note.resource.meta.creation_time)
}

/// What a zone that was deleted is told.
#[must_use]
pub fn deletion_told(zone: &str, at: Timestamp) -> String {
    format!(
        "zone `{zone}` was deleted at global at {at:.0} and stays out; it goes on alone, and comes back after \
         `zonal zone create {zone}` at global"
    )
}

fn note_key(zone: &str) -> Key {
    Key::global(Kind::Config, format!("zonal-zone-deleted-{zone}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use zonal_store::{Batch, MemoryStore, Store as _};

    fn store() -> MemoryStore {
        let start = Timestamp::from_second(1_700_000_000).unwrap();
        MemoryStore::new(Arc::new(move || start))
    }

    #[track_caller]
    fn check(spec: &str, drained: Option<&str>, want: (bool, bool)) {
        let store = store();
        let mut zone = Resource::new(Key::global(Kind::Zone, "east"), Json::from_canonical(spec));
        if let Some(drained) = drained {
            zone.meta
                .labels
                .insert(labels::DRAINED.to_owned(), drained.to_owned());
        }
        store.commit_now(Batch::new().put(zone)).unwrap();
        let share = Share::of(&store.snapshot(), "east");
        let got = (
            share.has(Kind::MeshService),
            share.has(Kind::MeshZoneAddress),
        );
        assert_eq!(got, want, "{spec} {drained:?}");
    }

    #[test]
    fn a_record_says_what_the_others_get() {
        check("{}", None, (true, true));
        check(r#"{"enabled":true}"#, Some("false"), (true, true));
        check(r#"{"enabled":true}"#, Some("true"), (true, false));
        check(r#"{"enabled":false}"#, None, (false, false));
        check(r#"{"enabled":false}"#, Some("true"), (false, false));
        assert_eq!(Share::of(&store().snapshot(), "west"), Share::All);
    }

    #[test]
    fn a_deleted_zone_is_out_until_it_is_made_again() {
        let store = store();
        assert_eq!(deleted_at(&store.snapshot(), "east"), None);
        let batch = Batch {
            ops: vec![note_of_deletion("east")],
        };
        store.commit_now(batch).unwrap();
        let at = deleted_at(&store.snapshot(), "east").unwrap();
        assert_eq!(
            deletion_told("east", at),
            "zone `east` was deleted at global at 2023-11-14T22:13:20Z and stays out; it goes on alone, and comes back \
             after `zonal zone create east` at global"
        );
        assert_eq!(deleted_at(&store.snapshot(), "east-1"), None);
        let batch = Batch {
            ops: vec![forget_deletion("east")],
        };
        store.commit_now(batch).unwrap();
        assert_eq!(deleted_at(&store.snapshot(), "east"), None);
        assert_eq!(
            store.snapshot().count(Kind::Config),
            0,
            "nothing stays behind"
        );
    }
}
