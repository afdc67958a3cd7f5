//! A zone keeps its name for life.

use zonal_model::{Key, Kind, ZoneName};
use zonal_store::Snapshot;

/// The store belongs to a zone of another name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this store is that of zone `{kept}`, and `multizone.zone.name` says `{wanted}`. A zone keeps its name: identities, \
     names of services and what other zones keep are made of it. To go on as `{kept}`, set the name back. To have a zone \
     `{wanted}`, give it a store of its own (another `store.file.path` or `general.workDir`), move the workloads there, \
     then `zonal zone delete {kept}` at global"
)]
pub(crate) struct Renamed {
    kept: String,
    wanted: String,
}

/// Checks that the store is this zone's, or nobody's yet.
pub(crate) fn check(snapshot: &Snapshot, zone: &ZoneName) -> Result<(), Renamed> {
    if snapshot
        .get(&Key::global(Kind::Zone, zone.as_str()))
        .is_some()
    {
        return Ok(());
    }
    match snapshot.list(Kind::Zone).next() {
        None => Ok(()),
        Some(other) => Err(Renamed {
            kept: other.resource.key.name.to_string(),
            wanted: zone.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use zonal_kds::zone_record;
    use zonal_store::{Batch, MemoryStore, Store as _};

    #[test]
    fn a_store_belongs_to_one_zone() {
        let store = MemoryStore::new(Arc::new(jiff::Timestamp::now));
        let check = |zone: &str| {
            check(&store.snapshot(), &zone.parse().unwrap()).map_err(|renamed| renamed.to_string())
        };
        assert_eq!(check("west"), Ok(()), "a new store is anybody's");
        store
            .commit_now(Batch::new().put(zone_record("east")))
            .unwrap();
        assert_eq!(check("east"), Ok(()));
        let refused = check("west").unwrap_err();
        assert!(
            refused.starts_with(
                "this store is that of zone `east`, and `multizone.zone.name` says `west`."
            ),
            "{refused}"
        );
        assert!(refused.contains("zonal zone delete east"), "{refused}");
    }
}
