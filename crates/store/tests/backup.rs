//! A backup is what the store had, or it is refused; what is restored is that, in a new epoch.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::sync::Arc;

use zonal_model::{Json, Key, Kind, Resource};
use zonal_store::{
    Backup, Batch, Existing, InvalidBackup, MemoryStore, RedbStore, Revision, Snapshot, Store,
    Stored, WallClock, backup,
};

fn clock() -> WallClock {
    Arc::new(|| "2026-11-24T10:00:00.123456789Z".parse().unwrap())
}

fn key(n: usize) -> Key {
    Key::new(Kind::MeshTimeout, "default", format!("t{n}"))
}

/// A store with some history.
fn store(resources: usize) -> MemoryStore {
    let store = MemoryStore::new(clock()).with_tombstones_max(3);
    let batch = (0..resources).fold(Batch::new(), |batch, n| {
        let mut resource = Resource::new(key(n), Json::parse(&format!(r#"{{"n":{n}}}"#)).unwrap());
        resource.meta.labels.insert("k".into(), format!("ü-{n}"));
        resource.status = Some(Json::parse(r#"{"a":[1,"\n"]}"#).unwrap());
        resource.owner = Some(Key::global(Kind::Mesh, "default"));
        batch.put(resource)
    });
    store.commit_now(batch).unwrap();
    for n in 0..5 {
        store.commit_now(Batch::new().remove(key(n))).unwrap();
    }
    store
}

fn printed(snapshot: &Arc<Snapshot>) -> Vec<u8> {
    let pieces = backup(Arc::clone(snapshot), "zonal 1.2.3");
    pieces.flat_map(Result::unwrap).collect()
}

fn all(snapshot: &Snapshot) -> Vec<Stored> {
    snapshot.all().map(|stored| Stored::clone(stored)).collect()
}

#[tokio::test]
async fn what_was_backed_up_is_restored_in_a_new_epoch_and_goes_on() {
    // Enough for more than one piece.
    let store = store(1000);
    let before = store.snapshot();
    assert!(backup(Arc::clone(&before), "p").count() > 1);
    let text = printed(&before);
    // What comes after the snapshot is not in it.
    store.commit_now(Batch::new().remove(key(9))).unwrap();
    let read = Backup::read(text.as_slice()).unwrap();
    assert_eq!(read.head.product, "zonal 1.2.3");
    assert_eq!(read.head.revision, before.revision());
    assert_eq!(&read.head.epoch, before.epoch());
    assert_eq!(read.head.resources, 995);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let epoch = RedbStore::restore(&path, &read, Existing::Keep).unwrap();
    assert_ne!(&epoch, before.epoch());
    let restored = RedbStore::open(&path, clock()).unwrap();
    let after = restored.snapshot();
    assert_eq!(after.epoch(), &epoch);
    assert_eq!(after.revision(), before.revision());
    assert_eq!(all(&after), all(&before));
    for revision in 0..=after.revision().0 {
        let since = |snapshot: &Snapshot| snapshot.tombstones_since(Revision(revision));
        assert_eq!(since(&after), since(&before), "{revision}");
    }
    let next = restored.commit(Batch::new().remove(key(7))).await.unwrap();
    assert_eq!(
        next.revision,
        before.revision().next(),
        "the counter goes on"
    );
}

#[test]
fn a_backup_that_lost_or_changed_anything_is_refused() {
    let whole = printed(&store(20).snapshot());
    assert!(Backup::read(whole.as_slice()).is_ok());
    for cut in 0..whole.len() {
        assert!(Backup::read(&whole[..cut]).is_err(), "cut at {cut}");
    }
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(Backup::read(changed.as_slice()).is_err(), "changed at {at}");
    }
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    for missing in 0..lines.len() {
        let mut fewer = lines.clone();
        fewer.remove(missing);
        assert!(
            Backup::read(fewer.concat().as_slice()).is_err(),
            "{missing}"
        );
    }
    let twice = [whole.as_slice(), whole.as_slice()].concat();
    assert!(Backup::read(twice.as_slice()).is_err());
}

#[track_caller]
fn check(text: &str, want: &str) {
    let error: InvalidBackup = Backup::read(text.as_bytes()).unwrap_err();
    let error = error.to_string();
    assert!(error.contains(want), "{error}");
}

#[test]
fn a_refusal_says_what_is_wrong() {
    check("", "no backup");
    check("type: Mesh\nname: default\n", "no backup");
    let head = |format: u32| {
        format!(
            r#"{{"zonalBackup":{format},"product":"p","epoch":"e","revision":1,"compacted":0,"resources":1,"removals":0}}"#
        )
    };
    check(&format!("{}\n", head(2)), "format 2");
    check(&format!("{}\n", head(1)), "cut off after 1 line");
    let newer = r#"{"key":"MeshWeather//w","record":{"rev":1,"created":1,"created_at":"2026-01-01T00:00:00Z","modified_at":"2026-01-01T00:00:00Z","labels":{},"spec":"{}"}}"#;
    check(
        &format!("{}\n{newer}\n", head(1)),
        "line 2 has `MeshWeather//w`",
    );
    check(
        &format!("{}\n{{}}\n", head(1)),
        "line 2 cannot be understood",
    );
}

#[tokio::test]
async fn an_existing_store_is_only_replaced_on_demand_and_never_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let backup = Backup::read(printed(&store(20).snapshot()).as_slice()).unwrap();
    let old = RedbStore::open(&path, clock()).unwrap();
    old.commit(Batch::new().remove(key(0)).put(Resource::new(
        Key::global(Kind::Mesh, "old"),
        Json::empty_object(),
    )))
    .await
    .unwrap();
    let restore =
        |existing| RedbStore::restore(&path, &backup, existing).map_err(|e| e.to_string());
    let refused = restore(Existing::Replace).unwrap_err();
    assert!(refused.contains("another process has it open"), "{refused}");
    old.close();
    let refused = restore(Existing::Keep).unwrap_err();
    assert!(refused.contains("--force"), "{refused}");
    {
        let store = RedbStore::open(&path, clock()).unwrap();
        assert_eq!(store.snapshot().count(Kind::Mesh), 1, "nothing changed");
    }
    restore(Existing::Replace).unwrap();
    let store = RedbStore::open(&path, clock()).unwrap();
    assert_eq!(store.snapshot().count(Kind::MeshTimeout), 15);
    assert_eq!(store.snapshot().count(Kind::Mesh), 0);
    // A damaged store is replaced too.
    store.close();
    std::fs::write(&path, [7; 5000]).unwrap();
    assert!(RedbStore::open(&path, clock()).is_err());
    restore(Existing::Replace).unwrap();
    assert!(RedbStore::open(&path, clock()).is_ok());
    let names: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["store.redb"], "nothing is left over");
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
