mod crash;

use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;
use redb::backends::InMemoryBackend;
use zonal_model::{Json, Key, Kind, Resource};

use super::*;

fn clock() -> WallClock {
    Arc::new(|| jiff::Timestamp::UNIX_EPOCH)
}

fn mesh(name: &str) -> Resource {
    Resource::new(Key::global(Kind::Mesh, name), Json::empty_object())
}

/// A disk in memory that can be full. Its content survives closing, as a file's does.
#[derive(Clone, Debug)]
struct Disk {
    bytes: Arc<InMemoryBackend>,
    full: Arc<AtomicBool>,
}

impl Disk {
    fn room(&self) -> std::io::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            Err(std::io::Error::new(
                std::io::ErrorKind::StorageFull,
                "no space left on device",
            ))
        } else {
            Ok(())
        }
    }
}

type BackendResult<T> = std::io::Result<T>;

impl StorageBackend for Disk {
    fn len(&self) -> BackendResult<u64> {
        self.bytes.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> BackendResult<()> {
        self.bytes.read(offset, out)
    }
    fn set_len(&self, len: u64) -> BackendResult<()> {
        self.room()?;
        self.bytes.set_len(len)
    }
    fn sync_data(&self) -> BackendResult<()> {
        self.room()?;
        self.bytes.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> BackendResult<()> {
        self.room()?;
        self.bytes.write(offset, data)
    }
}

#[tokio::test]
async fn a_full_disk_fails_the_write_and_changes_nothing_and_passes() {
    let disk = Disk {
        bytes: Arc::new(InMemoryBackend::new()),
        full: Arc::new(AtomicBool::new(false)),
    };
    let opener: disk::Opener = {
        let disk = disk.clone();
        Box::new(move || disk::builder(1 << 20).create_with_backend(disk.clone()))
    };
    let empty = Snapshot::empty(Epoch::fresh());
    db::Tables::create(opener().unwrap(), &empty).unwrap();
    let store =
        RedbStore::start("made-up".into(), opener, clock(), FileOptions::default()).unwrap();
    let one = store.commit(Batch::new().put(mesh("one"))).await.unwrap();

    disk.full.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let error = store
            .commit(Batch::new().put(mesh("two")))
            .await
            .unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert!(
            error
                .to_string()
                .starts_with("no space left for `made-up`: "),
            "{error}"
        );
        assert_eq!(
            store.snapshot().revision(),
            one.revision,
            "nothing is visible"
        );
        assert_eq!(
            store.snapshot().count(Kind::Mesh),
            1,
            "what was kept stays readable"
        );
    }

    disk.full.store(false, Ordering::SeqCst);
    let three = store.commit(Batch::new().put(mesh("three"))).await.unwrap();
    assert_eq!(three.revision, one.revision.next());
    let names: Vec<String> = store
        .snapshot()
        .list(Kind::Mesh)
        .map(|stored| stored.resource.key.name.to_string())
        .collect();
    assert_eq!(names, ["one", "three"]);
}

#[track_caller]
fn check_refused(content: &[u8], want: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    std::fs::write(&path, content).unwrap();
    let error = RedbStore::open(&path, clock()).unwrap_err().to_string();
    assert!(error.contains("store.redb"), "{error}");
    assert!(error.contains("hint: "), "{error}");
    assert!(error.contains(want), "{error}");
}

#[test]
fn a_foreign_file_is_refused_by_name() {
    check_refused(
        b"this is a letter to a friend, and no store at all",
        "no store",
    );
    check_refused(&[0_u8; 8192], "no store");
}

#[test]
fn a_file_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let _first = RedbStore::open(&path, clock()).unwrap();
    let error = RedbStore::open(&path, clock()).unwrap_err().to_string();
    assert!(error.contains("another process has it open"), "{error}");
}
