//! A store that was put back from a backup: zones end with what it has, and are not fooled by revisions that count anew.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]
#![allow(
    clippy::disallowed_methods,
    reason = "a test may make up its own start of time"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use zonal_federation::{Border, Encodings, Features};
use zonal_kds::{Direction, From, Publisher, Shelf, Subscriber};
use zonal_model::{Json, Key, Kind, Resource, labels};
use zonal_store::{Backup, Batch, Existing, MemoryStore, RedbStore, Snapshot, Store, backup};

fn timeout(name: &str, seconds: u32) -> Batch {
    let spec = json!({
        "targetRef": {"kind": "Mesh"},
        "to": [{
            "targetRef": {"kind": "Mesh"},
            "default": {"connectionTimeout": format!("{seconds}s")},
        }],
    });
    let key = Key::new(Kind::MeshTimeout, "default", name);
    let mut resource = Resource::new(key, Json::from_value(&spec));
    let labels = &mut resource.meta.labels;
    labels.insert(labels::ORIGIN.to_owned(), "global".to_owned());
    Batch::new().put(resource)
}

fn mesh() -> Batch {
    let key = Key::global(Kind::Mesh, "default");
    Batch::new().put(Resource::new(key, Json::empty_object()))
}

/// Global's end of the stream to a zone, new after each start of global.
fn publisher(shelf: &Arc<Shelf>) -> Publisher {
    let direction = Direction::Down {
        zone: "east".into(),
        features: Features::ALL,
    };
    Publisher::sharing(direction, Arc::clone(shelf))
}

fn shelf() -> Arc<Shelf> {
    Arc::new(Shelf::new(Arc::new(Encodings::new(Border::default()))))
}

/// Lets both ends speak until they have nothing to say.
fn sync(
    publisher: &mut Publisher,
    global: &Arc<Snapshot>,
    subscriber: &mut Subscriber,
    zone: &MemoryStore,
) {
    let now = Instant::now();
    publisher.handle_snapshot(global);
    loop {
        let mut quiet = true;
        while let Some(request) = subscriber.poll_request() {
            drop(publisher.handle_request(now, request));
            quiet = false;
        }
        while let Some(response) = publisher.poll_response(now) {
            let pending = subscriber.handle_response(response).unwrap();
            let planned = subscriber.plan(&pending, &zone.snapshot());
            assert!(planned.refused.is_empty(), "{:?}", planned.refused);
            zone.commit_now(planned.batch).unwrap();
            subscriber.applied(&pending, Vec::new());
            quiet = false;
        }
        if quiet {
            break;
        }
    }
    assert!(subscriber.is_live());
    assert_eq!(publisher.reached(), Some(global.revision()));
}

/// Timeouts by the name that people gave them.
fn timeouts(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let list = snapshot.list(Kind::MeshTimeout).map(|stored| {
        let resource = &stored.resource;
        let name = resource.meta.labels.get(labels::DISPLAY_NAME);
        let name = name.map_or_else(|| resource.key.name.to_string(), Clone::clone);
        (name, resource.spec.as_str().to_owned())
    });
    list.collect()
}

#[tokio::test]
async fn a_zone_takes_over_a_restored_backup_and_its_revisions_count_anew() {
    let clock = || -> zonal_store::WallClock { Arc::new(|| jiff::Timestamp::UNIX_EPOCH) };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let global = RedbStore::open(&path, clock()).unwrap();
    global.commit(mesh()).await.unwrap();
    global.commit(timeout("kept", 1)).await.unwrap();
    let pieces = backup(global.snapshot(), "test");
    let text: Vec<u8> = pieces.flat_map(Result::unwrap).collect();
    global.commit(timeout("kept", 2)).await.unwrap();
    global.commit(timeout("later", 3)).await.unwrap();

    let zone = MemoryStore::new(clock());
    let shelf_before = shelf();
    let mut down = publisher(&shelf_before);
    let mut east = Subscriber::resuming(From::Global, &zone.snapshot(), None).giving_sums();
    let before = global.snapshot();
    sync(&mut down, &before, &mut east, &zone);
    assert_eq!(timeouts(&zone.snapshot()), timeouts(&before));
    assert_eq!(timeouts(&before).len(), 2);
    global.close();

    let text = Backup::read(text.as_slice()).unwrap();
    RedbStore::restore(&path, &text, Existing::Replace).unwrap();
    let restored = RedbStore::open(&path, clock()).unwrap();
    // Global goes on and comes to the revision that the zone knew, with other content.
    restored.commit(timeout("other", 4)).await.unwrap();
    restored.commit(timeout("another", 5)).await.unwrap();
    let after = restored.snapshot();
    assert_eq!(after.revision(), before.revision());
    assert_ne!(after.epoch(), before.epoch(), "all that tells them apart");

    // A new stream to a new process, as after every restore of a file.
    let mut down = publisher(&shelf());
    let mut east = Subscriber::resuming(From::Global, &zone.snapshot(), Some(&east)).giving_sums();
    sync(&mut down, &after, &mut east, &zone);
    assert_eq!(timeouts(&zone.snapshot()), timeouts(&after));
    assert_eq!(
        timeouts(&after).len(),
        3,
        "nothing of what was lost is left"
    );

    // The same process and the same stream, as when etcd is put back: the revision is no different, the epoch is.
    let zone = MemoryStore::new(clock());
    let mut down = publisher(&shelf_before);
    let mut east = Subscriber::resuming(From::Global, &zone.snapshot(), None).giving_sums();
    sync(&mut down, &before, &mut east, &zone);
    sync(&mut down, &after, &mut east, &zone);
    assert_eq!(timeouts(&zone.snapshot()), timeouts(&after));
}
